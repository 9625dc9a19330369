"""Claim 5: scaling by alpha / r lets one change the rank without retuning the learning rate. What
stays level, what does not?"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lora_profiler.mathematics.claim import Finding, Tell, Verdict
from lora_profiler.mathematics.effort import Effort
from lora_profiler.mathematics.scaling_runs import Run, Runs, Scaling
from lora_profiler.mathematics.subject import Subject
from lora_profiler.units import percent_text

ALPHA = 16.0
"""Where alpha is fixed; where it is tied to the rank, alpha = r."""
LEVEL_FACTOR = 2.0
"""A size is level if its largest value over the ranks is at most so many times its least."""
LEVEL_GAIN = 0.8
"""A loss is level if the rank that gains least gains at least so much of what the best one
gains."""
SIZES = ("first_update", "last_update", "whole_update", "first_logit_change")

SCALINGS = (
    Scaling(key="fixed", label="alpha / r, alpha fixed", alpha=lambda r: ALPHA),
    Scaling(
        key="fixed_rs", label="alpha / sqrt(r), alpha fixed", alpha=lambda r: ALPHA, use_rslora=True
    ),
    Scaling(key="tied_rs", label="alpha / sqrt(r), alpha = r", alpha=float, use_rslora=True),
    Scaling(key="none", label="no scaling, or alpha / r with alpha = r", alpha=float),
)
"""With alpha tied to the rank, alpha / r is 1 whatever the rank: no scaling at all. Those two are
one row."""


def check(subject: Subject, effort: Effort, seed: int, tell: Tell) -> Finding:
    """Trains on the same batches for every rank and way to scale at one learning rate, and at
    several for the outermost ranks."""
    runs = Runs(subject, effort, seed)
    rate, rates = effort.scaling_learning_rate, effort.learning_rates
    outer = (effort.scaling_ranks[0], effort.scaling_ranks[-1])
    wanted = [(s, r, rate) for r in effort.scaling_ranks for s in SCALINGS]
    wanted += [(s, r, other) for r in outer for other in rates for s in SCALINGS]
    for number, (s, r, at) in enumerate(wanted):
        if not runs.is_done(s, r, at):
            tell(
                f"rank {r}, scaled by {s.factor(r):.3g}, learning rate {at:g}", number, len(wanted)
            )
        runs.run(s, r, at)
    rows = [_scaling(s, [runs.run(s, r, rate) for r in effort.scaling_ranks]) for s in SCALINGS]
    evidence = {
        "alpha": ALPHA,
        "learning_rate": rate,
        "steps": len(runs.batches),
        "tokens_per_step": runs.batches[0].numel(),
        "base_loss": runs.base_loss,
        "trained_runs": runs.count,
        "scalings": rows,
        "learning_rates": [
            _rates(s, r, [runs.run(s, r, at) for at in rates])
            for s in SCALINGS
            for r in outer
            if rates
        ],
    }
    return Finding(verdict=_verdict(evidence), sentences=_sentences(evidence), evidence=evidence)


def exponent(ranks: Sequence[int], values: Sequence[float]) -> float:
    """p of the power law r^p through the values: the slope of a straight line through their
    logarithms."""
    x, y = [math.log(r) for r in ranks], [math.log(v) for v in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean_x) ** 2 for a in x
    )


def _scaling(scaling: Scaling, runs: Sequence[Run]) -> dict[str, Any]:
    """The runs of one way to scale, and how each size and the loss go with the rank."""
    levels: dict[str, Any] = {}
    for name in SIZES:
        values = [getattr(run, name) for run in runs]
        ratio = max(values) / min(values)
        slope = exponent([run.rank for run in runs], values)
        levels[name] = {
            "exponent": slope,
            "largest_to_least": ratio,
            "level": ratio <= LEVEL_FACTOR,
        }
    gains = [run.gain for run in runs]
    share = max(0.0, min(gains)) / max(gains) if max(gains) > 0 else 0.0
    best = max(runs, key=lambda run: run.gain)
    levels["loss"] = {
        "least_to_best_gain": share,
        "best_rank": best.rank,
        "level": share >= LEVEL_GAIN,
    }
    return {
        "key": scaling.key,
        "label": scaling.label,
        "runs": [asdict(run) for run in runs],
        "levels": levels,
    }


def _rates(scaling: Scaling, r: int, runs: Sequence[Run]) -> dict[str, Any]:
    best = max(runs, key=lambda run: run.gain)
    gains = [{"learning_rate": run.learning_rate, "gain": run.gain} for run in runs]
    return {"key": scaling.key, "rank": r, "gains": gains, "best_learning_rate": best.learning_rate}


def _verdict(evidence: dict[str, Any]) -> Verdict:
    """Holds if neither the loss nor any size but the whole update's goes with the rank; partly, if
    at least the loss does not."""
    levels = evidence["scalings"][0]["levels"]
    if not levels["loss"]["level"]:
        return "fails"
    return (
        "holds"
        if all(levels[name]["level"] for name in SIZES if name != "whole_update")
        else "holds_partly"
    )


def _sentences(evidence: dict[str, Any]) -> tuple[str, ...]:
    ranks = [run["rank"] for run in evidence["scalings"][0]["runs"]]
    return (
        (
            f"From rank {ranks[0]} to {ranks[-1]}, {evidence['steps']} steps at learning rate"
            f" {evidence['learning_rate']:g}; r^p is how a size goes with the rank, and level is a"
            " factor of at most 2."
        ),
        *(_sentence(each) for each in evidence["scalings"]),
        *_rate_sentences(evidence),
    )


def _sentence(scaling: dict[str, Any]) -> str:
    levels = scaling["levels"]
    words = {
        "first_update": "first update",
        "last_update": "later updates",
        "first_logit_change": "its effect on logits",
    }
    order = ("first_update", "first_logit_change", "last_update")
    sizes = ", ".join(
        f"{words[name]}"
        f" r^{levels[name]['exponent']:+.2f}{', level' if levels[name]['level'] else ''}"
        for name in order
    )
    loss = levels["loss"]
    return (
        f"{scaling['label']}: {sizes}; the rank that gains least gains"
        f" {percent_text(loss['least_to_best_gain'])} of what the best, rank {loss['best_rank']},"
        " gains."
    )


def _rate_sentences(evidence: dict[str, Any]) -> tuple[str, ...]:
    best: dict[str, list[str]] = {}
    for row in evidence["learning_rates"]:
        best.setdefault(row["key"], []).append(
            f"{row['best_learning_rate']:g} at rank {row['rank']}"
        )
    if not best:
        return ()
    labels = {each["key"]: each["label"] for each in evidence["scalings"]}
    found = "; ".join(f"{labels[key]}: {', '.join(rates)}" for key, rates in best.items())
    tried = ", ".join(
        f"{each['learning_rate']:g}" for each in evidence["learning_rates"][0]["gains"]
    )
    return (f"Best learning rate of {tried}: {found}.",)
