"""Memory over one step, as predicted and as it was read, on one pair of axes: live bytes stacked by
category, and across each part of the step the peak that was read in it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lora_profiler.comparison.errors import PHASE_GROUPS
from lora_profiler.prediction import CurvePoint
from lora_profiler.report.charts.axes import bytes_axis
from lora_profiler.report.charts.figure import Figure, figure, title
from lora_profiler.report.charts.labels import lines
from lora_profiler.report.charts.memory_curve import HEIGHT_PX, areas, names, outline, shades
from lora_profiler.report.measured.run_labels import PHASE_LABELS
from lora_profiler.report.palette import BODY_PX, INK, PAPER
from lora_profiler.units import bytes_text, error_text

_LETTER = 0.024
"""Width of a letter of a part's name as a share of the figure's, on a phone."""
_NARROWEST = 0.14
"""Of the axis: a part of a step with few points is no narrower, so that its peaks are seen."""


def measured_curve(
    points: Sequence[CurvePoint],
    predicted: Mapping[str, int],
    peaks: Mapping[str, int],
    *,
    word: str = "measured",
) -> Figure:
    """The predicted `points` of one steady step, in order, and the peak that was read in each part
    of it beside what was `predicted`, in bytes by the groups of `comparison.errors.PHASE_GROUPS`.

    A part that nothing was read of has no line. `word` is "measured", or "rehearsed" where no card
    was there.
    """
    of = {phase: group for group, (phases, _) in PHASE_GROUPS.items() for phase in phases}
    shown = [point for point in points if point.phase in of]
    groups = [of[point.phase] for point in shown]
    widths = _widths(groups)
    bands: list[tuple[str, float, float]] = []
    places: list[float] = []
    at = 0.0
    for group, width in widths.items():
        bands.append((group, at, at + width))
        count = groups.count(group)
        places += [at + width * (n + 0.5) / count for n in range(count)]
        at += width
    largest = max([*(point.total_bytes for point in shown), *peaks.values()], default=0)
    axis, size = bytes_axis(largest, room=1.3)
    labelled = [(PHASE_LABELS[group], first, after) for group, first, after in bands]
    return figure(
        [
            *areas(shown, places, size),
            {**outline(shown, places, size), "name": "predicted", "showlegend": True},
            *_read(bands, peaks, predicted, size, word),
        ],
        height=HEIGHT_PX,
        x={
            "title": title("one step, in order"),
            "range": [0, max(at, 1.0)],
            "showticklabels": False,
        },
        y=axis,
        shapes=shades(labelled),
        annotations=list(names(labelled, letter=_LETTER)),
    )


def _widths(groups: Sequence[str]) -> dict[str, float]:
    """By their points, in order of appearance."""
    return {
        group: max(groups.count(group) / len(groups), _NARROWEST) for group in dict.fromkeys(groups)
    }


def _read(
    bands: Sequence[tuple[str, float, float]],
    peaks: Mapping[str, int],
    predicted: Mapping[str, int],
    size: int,
    word: str,
) -> Iterator[dict[str, Any]]:
    """A line over each part, and in its middle a mark with the prediction's error."""
    known = [band for band in bands if band[0] in peaks]
    heights = [peaks[group] / size for group, *_ in known]
    yield {
        "type": "scatter",
        "mode": "lines",
        "x": [end for _, first, after in known for end in (first, after, None)],
        "y": [end for height in heights for end in (height, height, None)],
        "line": {"color": INK.light, "width": 2.5},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    yield {
        "type": "scatter",
        "mode": "markers+text",
        "name": f"{word} peak",
        "x": [(first + after) / 2 for _, first, after in known],
        "y": heights,
        "text": [_error(peaks[group], predicted.get(group)) for group, *_ in known],
        "textposition": "top center",
        "textfont": {"size": BODY_PX, "color": INK.light},
        "hovertext": [
            _hover(group, peaks[group], predicted.get(group), word) for group, *_ in known
        ],
        "hoverinfo": "text",
        "marker": {
            "color": PAPER.light,
            "symbol": "diamond",
            "size": 10,
            "line": {"width": 2, "color": INK.light},
        },
    }


def _error(read: int, predicted: int | None) -> str:
    return error_text((predicted - read) / read) if read and predicted is not None else ""


def _hover(group: str, read: int, predicted: int | None, word: str) -> str:
    return lines(
        PHASE_LABELS[group],
        f"{word} {bytes_text(read)}",
        "" if predicted is None else f"predicted {bytes_text(predicted)}",
    )
