"""Claim 5: scaling by alpha / r lets one change the rank without retuning the learning rate. What
stays level, what does not?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lora_profiler.report.blocks import Rows, Table, cell_table
from lora_profiler.report.claims.claim import (
    Chart,
    Claim,
    Evidence,
    Number,
    Series,
    Verdict,
    number,
)
from lora_profiler.units import percent_text

LEVEL_FACTOR = 2.0
"""A size is level if its largest value over the ranks is at most so many times its least."""
LEVEL_GAIN = 0.8
"""A loss is level if the rank that gains least gains at least so much of what the best one
gains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRun:
    """Norms are Frobenius norms over all adapted layers, relative to that of their weights: of what
    the first step and the last step changed in the update, and of the whole update at the end.
    `first_logit_change` is the root mean square of what the first step changes in held-out logits,
    relative to theirs; `gain` the fall of the held-out loss, None where it diverged."""

    rank: int
    factor: float
    learning_rate: float
    first_update: Number
    last_update: Number
    whole_update: Number
    first_logit_change: Number
    loss: Number
    gain: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How a size goes with the rank r: as r^exponent."""

    exponent: Number
    largest_to_least: Number
    level: bool

    @property
    def text(self) -> str:
        return f"r^{number(self.exponent, '+.2f')}{', level' if self.level else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LossLevel:
    """How the fall of the loss goes with the rank."""

    least_to_best_gain: float
    best_rank: int
    level: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    first_update: Level
    last_update: Level
    whole_update: Level
    first_logit_change: Level
    loss: LossLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """The runs of one way to scale."""

    key: str
    label: str
    runs: tuple[ScalingRun, ...]
    levels: Levels


@dataclass(frozen=True, slots=True, kw_only=True)
class RateGain:
    learning_rate: float
    gain: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class RateGains:
    """The fall of the loss at several learning rates, of one way to scale (`key`) at one rank."""

    key: str
    rank: int
    gains: tuple[RateGain, ...]
    best_learning_rate: float

    def gain_text(self, place: int) -> str:
        at = self.gains[place]
        return number(at.gain, "+.3f") + "*" * (at.learning_rate == self.best_learning_rate)


def levels_of(runs: Sequence[ScalingRun]) -> Levels:
    gains = [_gain_of(run) for run in runs]
    best = max(gains)
    share = max(0.0, min(gains)) / best if best > 0 else 0.0
    ranks = [run.rank for run in runs]
    best_rank, level = ranks[gains.index(best)], share >= LEVEL_GAIN
    loss = LossLevel(least_to_best_gain=share, best_rank=best_rank, level=level)
    sizes = {name: _level(ranks, [getattr(run, name) for run in runs]) for name in SIZES}
    return Levels(**sizes, loss=loss)


def rate_gains(key: str, rank: int, runs: Sequence[ScalingRun]) -> RateGains:
    return RateGains(
        key=key,
        rank=rank,
        gains=tuple(RateGain(learning_rate=run.learning_rate, gain=run.gain) for run in runs),
        best_learning_rate=max(runs, key=_gain_of).learning_rate,
    )


def _gain_of(run: ScalingRun) -> float:
    return -math.inf if run.gain is None else run.gain


def _level(ranks: Sequence[int], sizes: Sequence[Number]) -> Level:
    values = [size for size in sizes if size is not None]
    if len(values) < len(sizes):
        return Level(exponent=None, largest_to_least=None, level=False)
    ratio, power = max(values) / min(values), exponent(ranks, values)
    return Level(exponent=power, largest_to_least=ratio, level=ratio <= LEVEL_FACTOR)


def exponent(ranks: Sequence[int], values: Sequence[float]) -> float:
    """p of the power law r^p through the values: the slope of a line through logarithms."""
    x, y = [math.log(r) for r in ranks], [math.log(v) for v in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean_x) ** 2 for a in x
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling(Evidence):
    """The first of `scalings` is alpha / r with alpha fixed, of which the claim speaks."""

    alpha: float
    learning_rate: float
    steps: int
    tokens_per_step: int
    base_loss: Number
    trained_runs: int
    scalings: tuple[Scaled, ...]
    learning_rates: tuple[RateGains, ...]

    @property
    def verdict(self) -> Verdict:
        """Holds if neither the loss nor any size but the whole update's goes with the rank; partly,
        if at least the loss does not."""
        levels = self.scalings[0].levels
        if not levels.loss.level:
            return "fails"
        sizes = (levels.first_update, levels.last_update, levels.first_logit_change)
        return "holds" if all(size.level for size in sizes) else "holds_partly"

    @property
    def finding(self) -> tuple[str, ...]:
        levels, runs = self.scalings[0].levels, self.scalings[0].runs
        best: dict[str, list[str]] = {}
        for row in self.learning_rates:
            best.setdefault(row.key, []).append(f"{row.best_learning_rate:g} at rank {row.rank}")
        return (
            f"The worst rank gains {percent_text(levels.loss.least_to_best_gain)} of the best.",
            f"The first update goes with {levels.first_update.text}, its effect on logits with"
            f" {levels.first_logit_change.text}.",
            f"Ranks {runs[0].rank} to {runs[-1].rank}, {self.steps} steps at learning rate"
            f" {self.learning_rate:g}.",
            *(
                f"{scaled.label}: the worst rank gains"
                f" {percent_text(scaled.levels.loss.least_to_best_gain)} of rank"
                f" {scaled.levels.loss.best_rank}."
                for scaled in self.scalings
            ),
            *(
                f"{scaled.label}: best learning rate {', '.join(best[scaled.key])}."
                for scaled in self.scalings
                if scaled.key in best
            ),
        )

    def tables(self) -> tuple[Table, ...]:
        rows = Rows()
        for scaled in self.scalings:
            rows.section(scaled.label)
            for name, label in SIZES.items():
                sizes = (number(getattr(run, name), ".1e") for run in scaled.runs)
                level = getattr(scaled.levels, name).text
                rows.add(label, *sizes, level)
            gains, loss = (number(run.gain, "+.3f") for run in scaled.runs), scaled.levels.loss
            share = f"{percent_text(loss.least_to_best_gain)}{', level' if loss.level else ''}"
            rows.add(_FALL, *gains, share, kind="total")
        ranks = (f"r {run.rank}" for run in self.scalings[0].runs)
        title = "Sizes by rank, and the power of r they go with; level: within a factor of 2"
        by_rank = rows.table("", *ranks, "by rank", title=title)
        if not self.learning_rates:
            return (by_rank,)
        rates = (f"{gain.learning_rate:g}" for gain in self.learning_rates[0].gains)
        gained = []
        for label, row in self._by_rate:
            gained.append((label, str(row.rank), *map(row.gain_text, range(len(row.gains)))))
        title = f"{_FALL.capitalize()} by learning rate, * the best"
        by_rate = cell_table(("scaling", "rank", *rates), gained, title=title)
        return (by_rank, by_rate)

    @property
    def _by_rate(self) -> list[tuple[str, RateGains]]:
        labels = {scaled.key: scaled.label for scaled in self.scalings}
        return [(labels[row.key], row) for row in self.learning_rates]

    def charts(self) -> tuple[Chart, ...]:
        charts = [
            Chart(
                key=f"scaling_{name}",
                heading=HEADING,
                title=label.capitalize(),
                x_label="rank",
                y_label=_LOSS_FALL if name == "gain" else "norm, relative to W or logits",
                y_scale="linear" if name == "gain" else "log",
                series=tuple(Series.of(s.label, s.runs, "rank", name) for s in self.scalings),
                note=(
                    f"{self.steps} steps at learning rate {self.learning_rate:g}; alpha is"
                    f" {self.alpha:g} where fixed."
                ),
            )
            for name, label in (SIZES | {"gain": _FALL}).items()
        ]
        if self.learning_rates:
            by_learning_rate = Chart(
                key="scaling_learning_rates",
                heading=HEADING,
                title=f"{_FALL.capitalize()} by learning rate",
                x_label="learning rate",
                y_label=_LOSS_FALL,
                series=tuple(
                    Series.of(f"{label}, rank {row.rank}", row.gains, "learning_rate", "gain")
                    for label, row in self._by_rate
                ),
                note="If both ranks peak at one learning rate, it needs no retuning.",
            )
            charts.append(by_learning_rate)
        return tuple(charts)


HEADING = "Scaling by rank"
_FALL, _LOSS_FALL = "fall of the held-out loss", "loss before - loss after"
SIZES: Final = {
    "first_update": "first update of W, relative to W",
    "first_logit_change": "its effect on logits, relative to them",
    "last_update": "last update of W, relative to W",
    "whole_update": "whole update of W, relative to W",
}

CLAIM = Claim(
    id=5,
    title="Scaling",
    statement="With scaling alpha / r, a new rank needs no new learning rate.",
    evidence=Scaling,
)
