"""Claim 6, measured: a model fine-tuned in full, copies of it whose update is cut down to a rank,
and LoRA trained at the same ranks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from lora_profiler.mathematics.adapters import adapted, layout, lora_layers, without_numbers
from lora_profiler.mathematics.subject import Effort, Subject, mean_loss, train
from lora_profiler.report.claims.claim import Tell, finite
from lora_profiler.report.claims.intrinsic_dimension import (
    Curve,
    IntrinsicDimension,
    Kind,
    LayerSummary,
    Losses,
    Rank,
)

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


# --- spectra: singular values, what they say of a rank, and rows of results -----------------------


RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""At which the share of energy is kept."""
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """Of a d x k matrix M: its n = min(d, k) singular values, falling (1-D float64), and an
    orthonormal basis (n x n, columns in the same order) of the smaller of its two sides, which is
    the left one if `is_left`.
    """

    values: torch.Tensor
    basis: torch.Tensor
    is_left: bool

    @property
    def energy(self) -> torch.Tensor:
        """Share of the squared Frobenius norm that the best approximation of rank 1, 2, ... holds
        (1-D)."""
        squares = self.values.square()
        return squares.cumsum(0) / squares.sum()

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of the normalised singular values (Roy and Vetterli 2007): n if all
        are equal, 1 if one is not 0."""
        p = self.values / self.values.sum()
        return torch.exp(torch.special.entr(p).sum()).item()

    def rank_for(self, share: float) -> int:
        """The least rank whose best approximation holds `share` of the energy."""
        return int((self.energy < share).sum().item()) + 1

    def truncated(self, matrix: torch.Tensor, rank: int) -> torch.Tensor:
        """The best approximation of `matrix`, from which the spectrum is, of at most that rank, in
        the matrix's own dtype."""
        basis = self.basis[:, :rank].to(matrix.dtype)
        return basis @ (basis.T @ matrix) if self.is_left else (matrix @ basis) @ basis.T


def spectrum(matrix: torch.Tensor) -> Spectrum:
    """By the eigenvectors of M M^T or M^T M, whichever is smaller, in float64: values are good to
    1e-8 of the largest."""
    exact = matrix.double()
    is_left = exact.shape[0] <= exact.shape[1]
    eigenvalues, vectors = torch.linalg.eigh(exact @ exact.T if is_left else exact.T @ exact)
    return Spectrum(
        values=eigenvalues.flip(0).clamp(min=0).sqrt(), basis=vectors.flip(1), is_left=is_left
    )


# --- rows of results ------------------------------------------------------------------------------


def layer_rows(spectra: Mapping[str, Spectrum]) -> tuple[LayerSummary, ...]:
    return tuple(
        LayerSummary(
            name=name,
            effective_rank=round(s.effective_rank, 2),
            rank_for_90_percent=s.rank_for(0.9),
            energy=_energies(s),
        )
        for name, s in spectra.items()
    )


def kind_rows(
    weights: Mapping[str, torch.Tensor], spectra: Mapping[str, Spectrum], seed: int
) -> tuple[Kind, ...]:
    """One row for each kind of layer: medians over its copies, the singular values of its middle
    copy, and the same of that copy's weight and of a Gaussian matrix."""
    kinds: dict[str, list[str]] = {}
    for name in spectra:
        kinds.setdefault(without_numbers(name), []).append(name)
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for kind, names in kinds.items():
        middle = names[len(names) // 2]
        weight = weights[middle]
        random = torch.randn(weight.shape, generator=draw, dtype=torch.float64)
        rows.append(
            Kind(
                name=kind,
                copies=len(names),
                out_features=weight.shape[0],
                in_features=weight.shape[1],
                effective_rank=median(spectra[name].effective_rank for name in names),
                rank_for_90_percent=median(spectra[name].rank_for(0.9) for name in names),
                energy_at_8=median(_at(spectra[name].energy, 8) for name in names),
                middle=middle,
                update=_curve(spectra[middle]),
                weight=_curve(spectrum(weight)),
                random=_curve(spectrum(random)),
            )
        )
    return tuple(rows)


def _curve(s: Spectrum) -> Curve:
    """At some tens of places between the first and the last."""
    n = len(s.values)
    places = sorted({round(n ** (i / 40)) for i in range(41)})
    values = (s.values / s.values[0]).tolist()
    return Curve(
        effective_rank=round(s.effective_rank, 2),
        rank_for_90_percent=s.rank_for(0.9),
        energy=_energies(s),
        places=tuple(places),
        values=tuple(round(values[place - 1], _DIGITS) for place in places),
    )


def _energies(s: Spectrum) -> tuple[float, ...]:
    return tuple(round(_at(s.energy, r), _DIGITS) for r in RANKS if r <= len(s.values))


def _at(energy: torch.Tensor, rank: int) -> float:
    return float(energy[min(rank, len(energy)) - 1])


# --- updates of every rank ------------------------------------------------------------------------


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
        return {
            name: self._weight(self._tuned, name) - weight for name, weight in self.base.items()
        }

    def _weight(self, state: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        return weight.T if self._transposed[name] else weight

    def changed_share(self) -> float:
        changed, total = 0, 0
        for update in self.update.values():
            changed, total = changed + int((update != 0).sum()), total + update.numel()
        return changed / total

    def spectra(self, on_layer: Callable[[int], None]) -> dict[str, Spectrum]:
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
