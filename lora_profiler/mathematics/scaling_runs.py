"""Of claim 5: one training run at one rank, scaling and learning rate, and what its updates came
to."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lora_profiler.mathematics.adapters import Factors, adapted, factors, lora_layers
from lora_profiler.mathematics.effort import Effort
from lora_profiler.mathematics.subject import Subject
from lora_profiler.mathematics.training import mean_loss, train


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """A way to scale, in PEFT's own options: `alpha` and `use_rslora` by rank."""

    key: str
    label: str
    alpha: Callable[[int], float]
    use_rslora: bool = False

    def factor(self, r: int) -> float:
        return self.alpha(r) / (math.sqrt(r) if self.use_rslora else r)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Norms are Frobenius norms over all adapted layers, relative to that of their weights: of what
    the first step and the last step changed in the update, and of the whole update at the end.
    `first_logit_change` is the root mean square of what the first step changes in held-out logits,
    relative to theirs; `gain` the fall of the held-out loss, minus infinity where it diverged.
    """

    rank: int
    factor: float
    learning_rate: float
    first_update: float
    last_update: float
    whole_update: float
    first_logit_change: float
    loss: float
    gain: float


class Runs:
    """Runs of one model on the same batches, each trained once however often it is asked for."""

    def __init__(self, subject: Subject, effort: Effort, seed: int) -> None:
        self._model, self._seed = subject.model(), seed
        self.held_out = subject.held_out_batches(effort)
        self.batches = subject.training_batches(effort.scaling_steps, effort, seed)
        self.base_loss = mean_loss(self._model, self.held_out)
        self._base_logits = _logits(self._model, self.held_out[0])
        self._done: dict[tuple[int, float, float], Run] = {}

    def is_done(self, scaling: Scaling, r: int, learning_rate: float) -> bool:
        return _key(scaling, r, learning_rate) in self._done

    def run(self, scaling: Scaling, r: int, learning_rate: float) -> Run:
        """The run at rank `r`. PEFT's layers scale as its options say; the norms here are those of
        B A times `factor(r)`."""
        key = _key(scaling, r, learning_rate)
        if key not in self._done:
            self._done[key] = self._trained(scaling, r, learning_rate)
        return self._done[key]

    @property
    def count(self) -> int:
        return len(self._done)

    def _trained(self, scaling: Scaling, r: int, learning_rate: float) -> Run:
        last, factor = len(self.batches), scaling.factor(r)
        states: dict[int, dict[str, Factors]] = {}
        logit_change = 0.0

        def after_step(step: int) -> None:
            nonlocal logit_change
            if step in (1, last - 1, last):
                states[step] = {name: factors(layer, factor) for name, layer in layers.items()}
            if step == 1:
                change = _logits(wrapped, self.held_out[0]) - self._base_logits
                logit_change = (change.norm() / self._base_logits.norm()).item()

        with adapted(
            self._model, r=r, alpha=scaling.alpha(r), use_rslora=scaling.use_rslora, seed=self._seed
        ) as wrapped:
            layers = lora_layers(wrapped)
            weight = math.sqrt(sum(_square_norm(layer) for layer in layers.values()))
            train(
                wrapped,
                self.batches,
                learning_rate=learning_rate,
                seed=self._seed,
                after_step=after_step,
            )
            loss = mean_loss(wrapped, self.held_out)
        return Run(
            rank=r,
            factor=factor,
            learning_rate=learning_rate,
            first_update=update_norm(states[1]) / weight,
            last_update=change_norm(states[last - 1], states[last]) / weight,
            whole_update=update_norm(states[last]) / weight,
            first_logit_change=logit_change,
            loss=loss,
            gain=self.base_loss - loss if math.isfinite(loss) else -math.inf,
        )


def _key(scaling: Scaling, r: int, learning_rate: float) -> tuple[int, float, float]:
    return r, round(scaling.factor(r), 12), learning_rate


@torch.no_grad()
def _logits(model: Any, batch: torch.Tensor) -> torch.Tensor:
    was_training = model.training
    logits: torch.Tensor = model.eval()(input_ids=batch, use_cache=False).logits
    model.train(was_training)
    return logits


def _square_norm(layer: Any) -> float:
    return float(layer.get_base_layer().weight.double().square().sum().item())


def update_norm(state: Mapping[str, Factors]) -> float:
    """The Frobenius norm of scaling B A over all layers."""
    return math.sqrt(sum(_square(f.scaling * f.b, f.a) for f in state.values()))


def change_norm(before: Mapping[str, Factors], after: Mapping[str, Factors]) -> float:
    """The Frobenius norm of the difference between two updates: s B' A' - s B A is [s B', -s B]
    [A'; A], a product of rank 2r."""
    pairs = [(before[name], f) for name, f in after.items()]
    return math.sqrt(
        sum(
            _square(torch.cat([f.scaling * f.b, -old.scaling * old.b], 1), torch.cat([f.a, old.a]))
            for old, f in pairs
        )
    )


def _square(b: torch.Tensor, a: torch.Tensor) -> float:
    """The squared Frobenius norm of B A as the trace of (B^T B)(A A^T): products of r x r in place
    of one of d x k."""
    return max(0.0, ((b.T @ b) * (a @ a.T)).sum().item())
