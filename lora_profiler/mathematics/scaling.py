"""Claim 5, measured: training runs at every rank and way to scale, and what their updates came
to."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lora_profiler.mathematics.adapters import AdapterFactors, adapted, factors, lora_layers
from lora_profiler.mathematics.subject import Effort, Subject, mean_loss, train
from lora_profiler.report.claims.claim import Tell, finite
from lora_profiler.report.claims.scaling import Scaled, Scaling, ScalingRun, levels_of, rate_gains

ALPHA = 16.0
"""Where alpha is fixed; where it is tied to the rank, alpha = r."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRule:
    """A way to scale, in PEFT's own options: `alpha` and `use_rslora` by rank."""

    key: str
    label: str
    alpha: Callable[[int], float]
    use_rslora: bool = False

    def factor(self, r: int) -> float:
        return self.alpha(r) / (math.sqrt(r) if self.use_rslora else r)


SCALING_RULES = (
    ScalingRule(key="fixed", label="alpha / r, alpha fixed", alpha=lambda r: ALPHA),
    ScalingRule(
        key="fixed_rs", label="alpha / sqrt(r), alpha fixed", alpha=lambda r: ALPHA, use_rslora=True
    ),
    ScalingRule(key="tied_rs", label="alpha / sqrt(r), alpha = r", alpha=float, use_rslora=True),
    ScalingRule(key="none", label="no scaling, or alpha / r with alpha = r", alpha=float),
)
"""With alpha tied to the rank, alpha / r is 1 whatever the rank: no scaling at all. Those two are
one row."""


def check(subject: Subject, effort: Effort, seed: int, tell: Tell) -> Scaling:
    """Trains on the same batches for every rank and way to scale at one learning rate, and at
    several for the outermost ranks."""
    runs = Runs(subject, effort, seed)
    rate, rates = effort.scaling_learning_rate, effort.learning_rates
    outer = (effort.scaling_ranks[0], effort.scaling_ranks[-1])
    planned = [(rule, r, rate) for r in effort.scaling_ranks for rule in SCALING_RULES]
    planned += [(rule, r, other) for r in outer for other in rates for rule in SCALING_RULES]
    for number, (rule, r, at) in enumerate(planned):
        if not runs.is_done(rule, r, at):
            tell(
                f"rank {r}, scaled by {rule.factor(r):.3g}, learning rate {at:g}",
                number,
                len(planned),
            )
        runs.run(rule, r, at)
    scalings = []
    for rule in SCALING_RULES:
        by_rank = tuple(runs.run(rule, r, rate) for r in effort.scaling_ranks)
        scalings.append(
            Scaled(key=rule.key, label=rule.label, runs=by_rank, levels=levels_of(by_rank))
        )
    return Scaling(
        alpha=ALPHA,
        learning_rate=rate,
        steps=len(runs.batches),
        tokens_per_step=runs.batches[0].numel(),
        base_loss=finite(runs.base_loss),
        trained_runs=runs.count,
        scalings=tuple(scalings),
        learning_rates=tuple(
            rate_gains(rule.key, r, [runs.run(rule, r, at) for at in rates])
            for rule in SCALING_RULES
            for r in outer
            if rates
        ),
    )


class Runs:
    """Runs of one model on the same batches, each trained once however often it is asked for."""

    def __init__(self, subject: Subject, effort: Effort, seed: int) -> None:
        self._model, self._seed = subject.model(), seed
        self.held_out = subject.held_out_batches(effort)
        self.batches = subject.training_batches(effort.scaling_steps, effort, seed)
        self.base_loss = mean_loss(self._model, self.held_out)
        self._base_logits = _logits(self._model, self.held_out[0])
        self._done: dict[tuple[int, float, float], ScalingRun] = {}

    def is_done(self, rule: ScalingRule, r: int, learning_rate: float) -> bool:
        return _key(rule, r, learning_rate) in self._done

    def run(self, rule: ScalingRule, r: int, learning_rate: float) -> ScalingRun:
        """The run at rank `r`. PEFT's layers scale as its options say; the norms here are those of
        B A times `factor(r)`."""
        key = _key(rule, r, learning_rate)
        if key not in self._done:
            self._done[key] = self._trained(rule, r, learning_rate)
        return self._done[key]

    @property
    def count(self) -> int:
        return len(self._done)

    def _trained(self, rule: ScalingRule, r: int, learning_rate: float) -> ScalingRun:
        last, factor = len(self.batches), rule.factor(r)
        states: dict[int, dict[str, AdapterFactors]] = {}
        logit_change = 0.0

        def after_step(step: int) -> None:
            nonlocal logit_change
            if step in (1, last - 1, last):
                states[step] = {name: factors(layer, factor) for name, layer in layers.items()}
            if step == 1:
                change = _logits(wrapped, self.held_out[0]) - self._base_logits
                logit_change = (change.norm() / self._base_logits.norm()).item()

        with adapted(
            self._model, r=r, alpha=rule.alpha(r), use_rslora=rule.use_rslora, seed=self._seed
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
        return ScalingRun(
            rank=r,
            factor=factor,
            learning_rate=learning_rate,
            first_update=finite(update_norm(states[1]) / weight),
            last_update=finite(change_norm(states[last - 1], states[last]) / weight),
            whole_update=finite(update_norm(states[last]) / weight),
            first_logit_change=finite(logit_change),
            loss=finite(loss),
            gain=finite(self.base_loss - loss),
        )


def _key(rule: ScalingRule, r: int, learning_rate: float) -> tuple[int, float, float]:
    return r, round(rule.factor(r), 12), learning_rate


@torch.no_grad()
def _logits(model: Any, batch: torch.Tensor) -> torch.Tensor:
    was_training = model.training
    logits: torch.Tensor = model.eval()(input_ids=batch, use_cache=False).logits
    model.train(was_training)
    return logits


def _square_norm(layer: Any) -> float:
    return float(layer.get_base_layer().weight.double().square().sum().item())


def update_norm(state: Mapping[str, AdapterFactors]) -> float:
    return math.sqrt(sum(_square(f.scaling * f.b, f.a) for f in state.values()))


def change_norm(before: Mapping[str, AdapterFactors], after: Mapping[str, AdapterFactors]) -> float:
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
