"""The arithmetic of the league: errors of answers, and what sets of them say."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.public.league.ours import COMMAND, REPLAY

Row = Mapping[str, Any]
OURS = (COMMAND, REPLAY)
NEAR = 0.1


def error(row: Row, name: str) -> float | None:
    """(predicted - measured) / measured; None where the estimator has no answer."""
    answer = row["answers"][name]
    return answer["bytes"] / row["measured_bytes"] - 1 if "bytes" in answer else None


def errors(rows: Iterable[Row], name: str) -> list[float]:
    return [found for row in rows if (found := error(row, name)) is not None]


@dataclass(frozen=True, slots=True)
class Score:
    """Of `answered` rows out of `asked`: mean and median absolute error, the furthest under and
    over (0 where there is none), how many are within 10 %, the mean signed error, and how many are
    too low, which is where a run ends for lack of memory."""

    asked: int
    answered: int
    mean: float
    median: float
    under: float
    over: float
    near: int
    bias: float
    low: int


def score(rows: Sequence[Row], name: str) -> Score | None:
    """None where nothing is answered."""
    found = errors(rows, name)
    if not found:
        return None
    sizes = [abs(e) for e in found]
    return Score(
        asked=len(rows),
        answered=len(found),
        mean=sum(sizes) / len(sizes),
        median=median(sizes),
        under=min(0.0, *found),
        over=max(0.0, *found),
        near=sum(size <= NEAR for size in sizes),
        bias=sum(found) / len(found),
        low=sum(e < 0 for e in found),
    )


@dataclass(frozen=True, slots=True)
class Pair:
    """An estimator and our command on the rows that both answer: mean absolute errors, and on how
    many rows it is nearer."""

    rows: int
    mean: float
    ours: float
    nearer: int


def pair(rows: Iterable[Row], name: str) -> Pair | None:
    """None where no row is answered by both."""
    both = [
        (abs(theirs), abs(own))
        for row in rows
        if (theirs := error(row, name)) is not None and (own := error(row, COMMAND)) is not None
    ]
    if not both:
        return None
    return Pair(
        rows=len(both),
        mean=sum(theirs for theirs, _ in both) / len(both),
        ours=sum(own for _, own in both) / len(both),
        nearer=sum(theirs < own for theirs, own in both),
    )


@dataclass(frozen=True, slots=True)
class Win:
    """A row on which another estimator's answer is nearer than our command's, or the command has
    none; `count` others are."""

    row: Row
    name: str
    error: float
    count: int


def wins(rows: Iterable[Row]) -> Iterator[Win]:
    """Rows that another wins, with the nearest of them; those that our command misses by most
    first."""
    found = []
    for row in rows:
        own = error(row, COMMAND)
        others = {
            name: e
            for name in row["answers"]
            if name not in OURS and (e := error(row, name)) is not None
        }
        nearer = {n: e for n, e in others.items() if own is None or abs(e) < abs(own)}
        if nearer:
            name = min(nearer, key=lambda n: abs(nearer[n]))
            found.append(Win(row, name, nearer[name], len(nearer)))
    return iter(sorted(found, key=lambda win: -abs(error(win.row, COMMAND) or 0.0)))
