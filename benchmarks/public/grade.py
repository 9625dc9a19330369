"""What the errors of replayed memory rows say: means, an interval and its coverage, verdicts about
cards."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from math import comb, inf
from statistics import median
from typing import Any

Row = Mapping[str, Any]
NOMINAL = 0.9
SAID = "what ran"
"""Of a question that says all that is published of a run."""
TINY = 1e-9
"""Weights add up to no whole number."""
CARDS_GB = (12, 16, 24, 32, 40, 48, 80, 96, 141)


def graded(rows: Iterable[Row], tier: int) -> list[Row]:
    """Rows of a tier whose counter is exact and whose stack is known without them."""
    return [
        row
        for row in rows
        if row["tier"] == tier and not row["apart"] and row["reading"] != "reserved"
    ]


def mean(errors: Iterable[float]) -> float:
    found = [abs(e) for e in errors]
    return sum(found) / len(found) if found else 0.0


def mean_and_worst(errors: Sequence[float]) -> tuple[str, str]:
    """Of absolute ones, and with its sign, in %."""
    return f"{100 * mean(errors):.2f}", f"{100 * max(errors, key=abs):+.2f}" if errors else "-"


def half_width(by_source: Mapping[str, Sequence[float]]) -> float:
    """Of an interval that a new row lies in with the nominal probability: the split-conformal
    quantile of absolute errors (Vovk et al., 2005), number ceil((n + 1) x 0.9) of n in order, the
    largest where there are too few, without end where there are none.

    A row is like others of its source and not like those of another, so that sources and not rows
    are what is drawn: each has the same weight, its rows share it (Dunn, Wasserman and Ramdas,
    2022, "pooling CDFs"). One with ten times the rows would set the quantile by itself.
    """
    weighed = sorted((abs(e), 1 / len(of)) for of in by_source.values() for e in of)
    if not weighed:
        return inf
    level = min(1.0, NOMINAL * (len(weighed) + 1) / len(weighed)) * len(by_source)
    weights = accumulate(weight for _, weight in weighed)
    pairs = zip(weighed, weights, strict=True)
    return next((error for (error, _), so_far in pairs if so_far > level - TINY), weighed[-1][0])


def errors_by_source(rows: Iterable[Row]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        found[row["source"]].append(row["error"])
    return found


def coverage(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """By source: its rows, those inside what the other sources' errors give, and that half-width,
    which is without end where there is no other source."""
    by_source = errors_by_source(rows)
    covered = {}
    for source, errors in by_source.items():
        width = half_width({other: of for other, of in by_source.items() if other != source})
        covered[source] = {
            "half_width": width,
            "rows": len(errors),
            "inside": sum(abs(e) <= width for e in errors),
        }
    return covered


def intervals(rows: Sequence[Row]) -> dict[str, Any]:
    """Each source's rows against an interval that the other sources' errors gave."""
    usable = [
        row for row in rows if row["reading"] != "reserved" and row["tier"] < 3 and not row["apart"]
    ]
    covered = coverage(usable)
    inside, n = (sum(each[key] for each in covered.values()) for key in ("inside", "rows"))
    return {
        "half_width": half_width(errors_by_source(usable)),
        "by_source": covered,
        "inside": inside,
        "rows": n,
        "binomial": binomial_interval(inside, n),
        "under": sum(row["error"] < 0 for row in usable),
        "under_by_more_than_1_percent": sum(row["error"] < -0.01 for row in usable),
    }


def reserved_margins(rows: Sequence[Row]) -> dict[str, float]:
    """By source, what the simulated reserve is raised by to be an upper end: the most, as a share,
    that reserved bytes of other sources' rows were above theirs."""
    excess = defaultdict(list)
    for row in rows:
        if row["reading"] == "reserved":
            excess[row["source"]].append(row["measured_bytes"] / row["predicted_bytes"] - 1)
    return {
        s: max((0.0, *(e for other, found in excess.items() if other != s for e in found)))
        for s in excess
    }


def binomial_interval(hits: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of a share, by bisection of the binomial tail."""

    def tail(p: float, low: int, high: int) -> float:
        return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(low, high + 1))

    def solve(is_above: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if is_above(middle) else (middle, high)
        return (low + high) / 2

    lower = 0.0 if hits == 0 else solve(lambda p: tail(p, hits, n) > 0.025)
    upper = 1.0 if hits == n else solve(lambda p: tail(p, 0, hits) < 0.025)
    return lower, upper


def verdicts(rows: Sequence[Row], width: float) -> dict[str, int]:
    """Would it run on a card of so much memory? Said with the upper end of the interval, held
    against the measured peak."""
    found = {"asked": 0, "fits": 0, "refused though it fits": 0, "accepted though it does not": 0}
    for row in rows:
        if row["reading"] != "peak" or row["tier"] > 2:
            continue
        for size in CARDS_GB:
            capacity = size * 10**9
            fits, said = (
                row["measured_bytes"] <= capacity,
                row["predicted_bytes"] * (1 + width) <= capacity,
            )
            found["asked"] += 1
            found["fits"] += fits
            found["refused though it fits"] += fits and not said
            found["accepted though it does not"] += said and not fits
    return found


# --- the intervals of answers ---------------------------------------------------------------------


def width_of(row: Row) -> float:
    """Of the interval, as a share of the predicted peak."""
    return float((row["high_bytes"] - row["low_bytes"]) / row["predicted_bytes"])


def headline(rows: Sequence[Row]) -> str:
    """The sentence that the docs repeat, of allocated peaks."""
    said, others = (
        [row for row in rows if row["reading"] == "peak" and (row["said"] == SAID) is is_said]
        for is_said in (True, False)
    )
    return (
        f"With options that say what ran, {sum(row['is_inside'] for row in said)} of {len(said)}"
        " public peaks lie in the answer's interval, which is"
        f" {100 * median(map(width_of, said)):.0f} % of the peak wide at the median. With a short"
        " question"
        f" {sum(row['is_inside'] for row in others)} of {len(others)} do, in intervals of"
        f" {100 * median(map(width_of, others)):.0f} %."
    )
