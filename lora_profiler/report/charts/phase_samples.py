"""The counters that a memory pass read, phase by phase."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from lora_profiler.records.record import PhaseSample
from lora_profiler.report.charts.axes import bytes_axis, largest_of, limit_line
from lora_profiler.report.charts.figure import Figure, Limit, figure, note
from lora_profiler.report.charts.labels import lines
from lora_profiler.report.measured.run_labels import COUNTER_LABELS, PHASE_CURVE
from lora_profiler.report.palette import COUNTER_MARKS, PANEL, PAPER
from lora_profiler.units import bytes_text

_HEIGHT_PX = 380


def phase_samples(samples: Sequence[PhaseSample], limit: Limit | None = None) -> Figure:
    """A record's `measurement.phases` in their order: peak within each phase and bytes at its end,
    as far as they were read.

    Requested, and where there is such an allocator, allocated and reserved. Steps are shaded in
    turn and named; a line lies across at `limit`.
    """
    read = {name: [getattr(sample, name) for sample in samples] for name in COUNTER_LABELS}
    read = {name: sizes for name, sizes in read.items() if any(size is not None for size in sizes)}
    known = [s for sizes in read.values() for s in sizes if s is not None]
    axis, size = bytes_axis(largest_of(known, limit))
    shapes, notes = _steps(samples)
    lines_across, words = limit_line(limit, size)
    return figure(
        [_line(name, sizes, samples, size) for name, sizes in read.items()],
        height=_HEIGHT_PX,
        x={
            "tickmode": "array",
            "tickvals": list(range(len(samples))),
            "ticktext": [PHASE_CURVE[s.phase] for s in samples],
            "tickangle": -45,
            "range": [-0.5, max(len(samples), 1) - 0.5],
        },
        y=axis,
        shapes=[*shapes, *lines_across],
        annotations=[*notes, *words],
    )


def _line(
    name: str, sizes: Sequence[int | None], samples: Sequence[PhaseSample], size: int
) -> dict[str, Any]:
    mark = COUNTER_MARKS[name]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": COUNTER_LABELS[name],
        "x": list(range(len(samples))),
        "y": [None if s is None else s / size for s in sizes],
        "line": {
            "color": mark.colour.light,
            "width": 1.5,
            "dash": "solid" if name.endswith("peak_bytes") else "dot",
        },
        "marker": {"color": mark.colour.light, "symbol": mark.symbol, "size": 7},
        "hovertext": [_hover(sample, name, s) for sample, s in zip(samples, sizes, strict=True)],
        "hoverinfo": "text",
    }


def _hover(sample: PhaseSample, name: str, size: int | None) -> str:
    return lines(
        f"step {sample.step}, {PHASE_CURVE[sample.phase]}",
        f"{COUNTER_LABELS[name]}: {'not read' if size is None else bytes_text(size)}",
    )


def _steps(samples: Sequence[PhaseSample]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    shapes, notes = [], []
    at = 0
    for number, (step, members) in enumerate(groupby(sample.step for sample in samples)):
        count = len(list(members))
        first, after = at - 0.5, at + count - 0.5
        shapes.append(
            {
                "type": "rect",
                "x0": first,
                "x1": after,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "line": {"width": 0},
                "fillcolor": (PANEL if number % 2 else PAPER).light,
                "layer": "below",
            }
        )
        if count > 1:
            notes.append(
                note(f"step {step}", x=(first + after) / 2, y=1, yref="paper", yanchor="top")
            )
        at += count
    return shapes, notes
