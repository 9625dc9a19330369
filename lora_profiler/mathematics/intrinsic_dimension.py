"""Claim 6, measured: a model fine-tuned in full, copies of it whose update is cut down to a rank,
and LoRA trained at the same ranks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from lora_profiler.mathematics.adapters import adapted, layout, lora_layers
from lora_profiler.mathematics.effort import Effort
from lora_profiler.mathematics.spectrum import Spectrum, kind_rows, layer_rows, spectrum
from lora_profiler.mathematics.subject import Subject, mean_loss, train
from lora_profiler.report.claims.claim import Tell, finite
from lora_profiler.report.claims.intrinsic_dimension import IntrinsicDimension, Losses, Rank

ALPHA = 16
"""Of LoRA at every rank, with alpha / r: claim 5 shows that one learning rate then serves all
ranks."""


def check(subject: Subject, effort: Effort, seed: int, tell: Tell) -> IntrinsicDimension:
    """Fine-tunes in full, takes each layer's update apart, puts it back at every rank, and trains
    LoRA at the same ranks."""
    held_out = subject.held_out_batches(effort)
    batches = subject.training_batches(effort.tuning_steps, effort, seed)
    steps, total = len(batches), len(batches) * (len(effort.tuning_ranks) + 1)
    model = subject.model()
    base_loss = mean_loss(model, held_out)
    tuning = FullTuning(
        model,
        batches,
        effort.full_learning_rate,
        seed,
        lambda done: tell("fine-tuning in full", done, total),
    )
    update = tuning.update
    spectra = tuning.spectra(
        lambda number: tell(f"spectrum {number + 1} of {len(update)}", steps, total)
    )
    losses = Losses(
        base=base_loss,
        full=mean_loss(tuning.as_tuned(), held_out),
        linear_layers_alone=mean_loss(tuning.with_updates(update), held_out),
    )
    gain = base_loss - losses.linear_layers_alone
    rows = []
    for number, r in enumerate(effort.tuning_ranks, 1):
        cut = {name: spectra[name].truncated(matrix, r) for name, matrix in update.items()}
        truncated = mean_loss(tuning.with_updates(cut), held_out)

        def after_step(step: int, r: int = r, done: int = number * steps) -> None:
            tell(f"LoRA at rank {r}", done + step, total)

        with adapted(subject.model(), r=r, alpha=ALPHA, seed=seed) as wrapped:
            train(
                wrapped,
                batches,
                learning_rate=effort.lora_learning_rate,
                seed=seed,
                after_step=after_step,
            )
            lora = mean_loss(wrapped, held_out)
        rows.append(
            Rank(
                rank=r,
                truncated_loss=finite(truncated),
                truncated_gain_share=finite((base_loss - truncated) / gain),
                lora_loss=finite(lora),
                lora_gain_share=finite((base_loss - lora) / gain),
            )
        )
    return IntrinsicDimension(
        steps=steps,
        tokens_per_step=batches[0].numel(),
        full_learning_rate=effort.full_learning_rate,
        lora_learning_rate=effort.lora_learning_rate,
        lora_alpha=ALPHA,
        losses=losses,
        changed_share=tuning.changed_share(),
        ranks=tuple(rows),
        kinds=kind_rows(tuning.base, spectra, seed),
        layers=layer_rows(spectra),
    )


Weights = dict[str, torch.Tensor]
"""Weights of linear layers (d x k), by the layer's name."""


def linear_names(model: Any) -> dict[str, bool]:
    """The layers that PEFT adapts with `all-linear`, and whether their weight lies transposed."""
    with torch.device("meta"), adapted(model, r=1, alpha=1, seed=0) as wrapped:
        return {name: layout(layer) == "Conv1D" for name, layer in lora_layers(wrapped).items()}


class FullTuning:
    """`model` is trained on `batches`, every parameter of it, and afterwards holds any update that
    is asked for."""

    def __init__(
        self,
        model: Any,
        batches: Sequence[torch.Tensor],
        learning_rate: float,
        seed: int,
        after_step: Callable[[int], None],
    ) -> None:
        self._model, self._transposed = model, linear_names(model)
        self._base = {name: p.detach().clone() for name, p in model.named_parameters()}
        model.requires_grad_(True)
        train(model, batches, learning_rate=learning_rate, seed=seed, after_step=after_step)
        model.requires_grad_(False)
        self._tuned = {name: p.detach().clone() for name, p in model.named_parameters()}

    @property
    def base(self) -> Weights:
        return {name: self._weight(self._base, name) for name in self._transposed}

    @property
    def update(self) -> Weights:
        """What training added to each linear layer's weight."""
        return {
            name: self._weight(self._tuned, name) - weight for name, weight in self.base.items()
        }

    def _weight(self, state: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        return weight.T if self._transposed[name] else weight

    def changed_share(self) -> float:
        """Share of the numbers in all linear layers that training changed."""
        changed, total = 0, 0
        for update in self.update.values():
            changed, total = changed + int((update != 0).sum()), total + update.numel()
        return changed / total

    def spectra(self, on_layer: Callable[[int], None]) -> dict[str, Spectrum]:
        """Of each layer's update."""
        spectra = {}
        for number, (name, update) in enumerate(self.update.items()):
            on_layer(number)
            spectra[name] = spectrum(update)
        return spectra

    def as_tuned(self) -> Any:
        """The model with everything that training changed."""
        return self._filled(self._tuned)

    def with_updates(self, updates: Mapping[str, torch.Tensor]) -> Any:
        """The base model with these updates of its linear layers, and nothing else that training
        changed."""
        changed = {
            f"{name}.weight": (
                self._base[f"{name}.weight"] + (update.T if self._transposed[name] else update)
            )
            for name, update in updates.items()
        }
        return self._filled(self._base | changed)

    @torch.no_grad()
    def _filled(self, state: Mapping[str, torch.Tensor]) -> Any:
        for name, parameter in self._model.named_parameters():
            parameter.copy_(state[name])
        return self._model.eval()
