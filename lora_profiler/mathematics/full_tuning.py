"""Of claim 6: a model fine-tuned in full, and copies of it whose update is cut down to a rank."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from lora_profiler.mathematics.adapters import adapted, layout, lora_layers
from lora_profiler.mathematics.spectrum import Spectrum, spectrum
from lora_profiler.mathematics.training import train

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
        found = {}
        for number, (name, update) in enumerate(self.update.items()):
            on_layer(number)
            found[name] = spectrum(update)
        return found

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
