"""Claim 5: scaling by alpha / r lets one change the rank without retuning the learning rate. What
stays level, what does not?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lora_profiler.report.blocks import Row, Table, table
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
class Run:
    """Norms are Frobenius norms over all adapted layers, relative to that of their weights: of what
    the first step and the last step changed in the update, and of the whole update at the end.
    `first_logit_change` is the root mean square of what the first step changes in held-out logits,
    relative to theirs; `gain` the fall of the held-out loss, None where it diverged.
    """

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
    runs: tuple[Run, ...]
    levels: Levels

    @property
    def sentence(self) -> str:
        levels, loss = self.levels, self.levels.loss
        return (
            f"{self.label}: first update {levels.first_update.text}, its effect on logits"
            f" {levels.first_logit_change.text}, later updates {levels.last_update.text}; the rank"
            f" that gains least gains {percent_text(loss.least_to_best_gain)} of what the best,"
            f" rank {loss.best_rank}, gains."
        )


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


def levels_of(runs: Sequence[Run]) -> Levels:
    gains = [_gain_of(run) for run in runs]
    best = max(gains)
    share = max(0.0, min(gains)) / best if best > 0 else 0.0
    ranks = [run.rank for run in runs]
    best_rank, level = ranks[gains.index(best)], share >= LEVEL_GAIN
    loss = LossLevel(least_to_best_gain=share, best_rank=best_rank, level=level)
    sizes = {name: _level(ranks, [getattr(run, name) for run in runs]) for name in _SIZES}
    return Levels(**sizes, loss=loss)


def rate_gains(key: str, rank: int, runs: Sequence[Run]) -> RateGains:
    return RateGains(
        key=key,
        rank=rank,
        gains=tuple(RateGain(learning_rate=run.learning_rate, gain=run.gain) for run in runs),
        best_learning_rate=max(runs, key=_gain_of).learning_rate,
    )


def _gain_of(run: Run) -> float:
    """Minus infinity where it diverged."""
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
    def _labels(self) -> dict[str, str]:
        return {scaled.key: scaled.label for scaled in self.scalings}

    @property
    def _ranks(self) -> tuple[int, ...]:
        return tuple(run.rank for run in self.scalings[0].runs)

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
    def sentences(self) -> tuple[str, ...]:
        ranks, best = self._ranks, dict[str, list[str]]()
        for row in self.learning_rates:
            best.setdefault(row.key, []).append(f"{row.best_learning_rate:g} at rank {row.rank}")
        rates = "; ".join(f"{self._labels[key]}: {', '.join(at)}" for key, at in best.items())
        gains = self.learning_rates[0].gains if best else ()
        tried = ", ".join(f"{at.learning_rate:g}" for at in gains)
        return (
            (
                f"From rank {ranks[0]} to {ranks[-1]}, {self.steps} steps at learning rate"
                f" {self.learning_rate:g}; r^p is how a size goes with the rank, and level is a"
                " factor of at most 2."
            ),
            *(scaled.sentence for scaled in self.scalings),
            *([f"Best learning rate of {tried}: {rates}."] if best else []),
        )

    @property
    def headline(self) -> str:
        levels = self.scalings[0].levels
        return (
            f"worst rank gains {percent_text(levels.loss.least_to_best_gain)} of best; first"
            f" update r^{number(levels.first_update.exponent, '+.2f')}, in logits"
            f" r^{number(levels.first_logit_change.exponent, '+.2f')}"
        )

    def tables(self) -> tuple[Table, ...]:
        rows = []
        for scaled in self.scalings:
            rows.append(Row(cells=(scaled.label,), kind="section"))
            for name, (label, *_) in _SIZES.items():
                sizes = (number(getattr(run, name), ".1e") for run in scaled.runs)
                level = getattr(scaled.levels, name).text
                rows.append(Row(cells=(label, *sizes, level), indent=1))
            gains, loss = (number(run.gain, "+.3f") for run in scaled.runs), scaled.levels.loss
            share = f"{percent_text(loss.least_to_best_gain)}{', level' if loss.level else ''}"
            cells = ("fall of the held-out loss", *gains, share)
            rows.append(Row(cells=cells, indent=1, kind="total"))
        columns = ("relative to W, or to logits", *(f"r {r}" for r in self._ranks), "by rank")
        by_rank = Table(columns=columns, rows=tuple(rows))
        if not self.learning_rates:
            return (by_rank,)
        labels = self._labels
        by_rate = table(
            self.learning_rates,
            (
                ("scaling", lambda row: labels[row.key]),
                ("rank", lambda row: str(row.rank)),
                *(
                    (f"{rate.learning_rate:g}", lambda row, i=i: row.gain_text(i))
                    for i, rate in enumerate(self.learning_rates[0].gains)
                ),
            ),
            title="Fall of the held-out loss by learning rate, * the best",
        )
        return (by_rank, by_rate)

    def charts(self) -> tuple[Chart, ...]:
        sizes = _SIZES | {"gain": ("", "Fall of the held-out loss", _LOSS_FALL)}
        charts = tuple(
            Chart(
                key=f"scaling_{name}",
                title=title,
                x_label="rank",
                y_label=label,
                y_scale="linear" if name == "gain" else "log",
                series=tuple(Series.of(s.label, s.runs, "rank", name) for s in self.scalings),
                note=(
                    f"{self.steps} steps at learning rate {self.learning_rate:g}; alpha is"
                    f" {self.alpha:g} where it is fixed."
                ),
            )
            for name, (_, title, label) in sizes.items()
        )
        if not self.learning_rates:
            return charts
        rates = [(f"{self._labels[r.key]}, rank {r.rank}", r) for r in self.learning_rates]
        by_learning_rate = Chart(
            key="scaling_learning_rates",
            title="Fall of the held-out loss by learning rate, at the lowest and the highest rank",
            x_label="learning rate",
            y_label=_LOSS_FALL,
            series=tuple(
                Series.of(label, row.gains, "learning_rate", "gain") for label, row in rates
            ),
            note=(
                "Where the two ranks of one scaling peak at one learning rate, the rank can be"
                " changed without retuning it."
            ),
        )
        return (*charts, by_learning_rate)


_LOSS_FALL: Final = "loss before - loss after"
_OF_W: Final = "norm, relative to W"
_SIZES: Final = {
    "first_update": ("first update of W", "First update of W", _OF_W),
    "first_logit_change": (
        "its effect on logits",
        "What the first update changes in the logits",
        "root mean square, relative to the logits",
    ),
    "last_update": ("last update of W", "Last update of W", _OF_W),
    "whole_update": ("whole update of W", "Whole update of W", _OF_W),
}
"""Of each size: what its row in the table, its chart and the chart's axis are called."""


def _size_caption(chart: Chart) -> tuple[str, ...]:
    sentences = []
    for series in chart.series:
        points = [point for point in series.points if point[1] > 0]
        if len(points) < 2:
            continue
        (low, first), (high, last) = points[0], points[-1]
        values = [y for _, y in points]
        is_level = max(values) <= LEVEL_FACTOR * min(values)
        how = "level" if is_level else "grows" if last > first else "falls"
        times = f"{last / first:.3g} times what rank {low:g} has"
        sentences.append(f"{series.label}: {how}, rank {high:g} has {times}.")
    return tuple(sentences)


def _gain_caption(chart: Chart) -> tuple[str, ...]:
    sentences = []
    for series in chart.series:
        best = series.highest
        if best is None or best[1] <= 0:
            sentences.append(f"{series.label}: no rank gains anything.")
            continue
        diverged = [x for x, y in zip(series.x, series.y, strict=True) if y is None]
        least = (diverged[0], 0.0) if diverged else min(series.points, key=lambda point: point[1])
        rest = f"{percent_text(least[1] / best[1])} of that" if least[1] > 0 else "nothing"
        sentences.append(f"{series.label}: rank {best[0]:g} gains most, rank {least[0]:g} {rest}.")
    return tuple(sentences)


def _rate_caption(chart: Chart) -> tuple[str, ...]:
    best = ((series.label, series.highest) for series in chart.series)
    where = {k: f"most at {at[0]:g}" if at and at[1] > 0 else "nothing at any" for k, at in best}
    return tuple(f"{label}: gains {gained}." for label, gained in where.items())


CLAIM = Claim(
    id=5,
    title="Scaling",
    statement="Scaling by alpha / r lets one change the rank without retuning the learning rate.",
    evidence=Scaling,
    figures={
        "Scaling by rank": {
            "scaling_gain": _gain_caption,
            "scaling_learning_rates": _rate_caption,
            "scaling_": _size_caption,
        }
    },
)
