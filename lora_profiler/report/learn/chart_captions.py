"""What is seen in a chart of a claim, in sentences worked out from its numbers."""

from collections.abc import Callable, Sequence

from lora_profiler.report.verify.charts import Chart, Series
from lora_profiler.units import percent_text

LEVEL_FACTOR = 2.0
"""A size is level over the ranks where its largest is at most so many times its smallest, as in
claim 5."""
RANK = 8
"""Of which sentences speak, where it was looked at; else of the highest that is lower."""
_TENTH = 0.1


def seen(chart: Chart) -> tuple[str, ...]:
    """The sentences of `chart`. Raises KeyError for one that nothing is known to be said of."""
    for beginning, says in _SAYS.items():
        if chart.key.startswith(beginning):
            return says(chart)
    raise KeyError(chart.key)


def _points(series: Series) -> list[tuple[float, float]]:
    return [(x, y) for x, y in zip(series.x, series.y, strict=True) if y is not None]


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + f" and {words[-1]}" if len(words) > 1 else "".join(words)


def _at_rank(series: Series) -> tuple[float, float] | None:
    """(rank, y) at the rank that sentences speak of."""
    return max((point for point in _points(series) if point[0] <= RANK), default=None)


# --- one for each kind of chart -------------------------------------------------------------------


def _trained_share(chart: Chart) -> tuple[str, ...]:
    together, *layers = chart.series
    found = _at_rank(together)
    beyond = {s.label: next((x for x, y in _points(s) if y > 1), None) for s in chart.series}
    first = min((rank for rank in beyond.values() if rank is not None), default=None)
    highest = max(x for s in chart.series for x in s.x)
    small = (
        [
            f"At rank {found[0]:g} LoRA trains {percent_text(found[1])} of the numbers of the full"
            " update."
        ]
        if found
        else []
    )
    if first is None:
        return (
            *small,
            f"Up to rank {highest:g} it trains fewer in each of the {len(layers)} kinds of layers.",
        )
    names = [label for label, rank in beyond.items() if rank == first]
    return (*small, f"At rank {first:g} it trains more than the full update in {_listed(names)}.")


def _level_or_not(chart: Chart) -> tuple[str, ...]:
    said = []
    for series in chart.series:
        points = [point for point in _points(series) if point[1] > 0]
        if len(points) < 2:
            continue
        (low, first), (high, last) = points[0], points[-1]
        values = [y for _, y in points]
        is_level = max(values) <= LEVEL_FACTOR * min(values)
        how = "level" if is_level else "grows" if last > first else "falls"
        said.append(
            f"{series.label}: {how}, rank {high:g} has {last / first:.3g} times what rank {low:g}"
            " has."
        )
    return tuple(said)


def _gain(chart: Chart) -> tuple[str, ...]:
    said = []
    for series in chart.series:
        best = max(_points(series), key=lambda point: point[1], default=None)
        if best is None or best[1] <= 0:
            said.append(f"{series.label}: no rank gains anything.")
            continue
        broken = [x for x, y in zip(series.x, series.y, strict=True) if y is None]
        least = (broken[0], 0.0) if broken else min(_points(series), key=lambda point: point[1])
        rest = f"{percent_text(least[1] / best[1])} of that" if least[1] > 0 else "nothing"
        said.append(f"{series.label}: rank {best[0]:g} gains most, rank {least[0]:g} {rest}.")
    return tuple(said)


def _learning_rates(chart: Chart) -> tuple[str, ...]:
    best = {
        s.label: max(_points(s), key=lambda point: point[1], default=None) for s in chart.series
    }
    return tuple(
        (
            f"{label}: gains most at {point[0]:g}."
            if point and point[1] > 0
            else f"{label}: gains nothing at any."
        )
        for label, point in best.items()
    )


def _spectrum(chart: Chart) -> tuple[str, ...]:
    said = []
    for series in chart.series:
        place = next((x for x, y in _points(series) if y <= _TENTH), None)
        where = (
            f"by number {place:g}"
            if place is not None
            else f"not at all in {max(series.x, default=0):g}"
        )
        said.append(f"{where} ({series.label})")
    return (f"Singular values fall to a tenth of the largest {_listed(said)}.",)


def _gain_by_rank(chart: Chart) -> tuple[str, ...]:
    cut, trained = chart.series
    found, beside = _at_rank(cut), _at_rank(trained)
    if found is None:
        return ()
    also = f"; LoRA trained at that rank gains {percent_text(beside[1])} of it" if beside else ""
    return (
        (
            f"Cut down to rank {found[0]:g}, the update keeps {percent_text(found[1])} of its"
            f" gain{also}."
        ),
    )


def _energy(chart: Chart) -> tuple[str, ...]:
    most, middle, least = (_at_rank(series) for series in chart.series)
    if most is None or middle is None or least is None:
        return ()
    return (
        (
            f"Rank {middle[0]:g} holds {percent_text(least[1])} to {percent_text(most[1])} of a"
            f" layer's energy, {percent_text(middle[1])} in the middle."
        ),
    )


def _cost(chart: Chart) -> tuple[str, ...]:
    """What is saved most, and what is not saved at all, in each setting."""
    said = []
    for series in chart.series:
        points = [(chart.categories[int(x)], y) for x, y in _points(series)]
        if not points:
            continue
        name, share = min(points, key=lambda point: point[1])
        more = [f"{what} {percent_text(y)}" for what, y in points if y >= 1]
        beyond = f"not less than in full: {_listed(more)}" if more else "all is less than in full"
        said.append(f"{series.label}: of the {name} {percent_text(share)} are left; {beyond}.")
    return tuple(said)


_SAYS: dict[str, Callable[[Chart], tuple[str, ...]]] = {
    "trained_share": _trained_share,
    "scaling_gain": _gain,
    "scaling_learning_rates": _learning_rates,
    "scaling_": _level_or_not,
    "spectrum_": _spectrum,
    "gain_by_rank": _gain_by_rank,
    "energy_by_rank": _energy,
    "lora_of_full": _cost,
}
"""By the beginning of the key; the first that fits."""
