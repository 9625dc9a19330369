"""What would lower the peak, and by how much."""

from collections.abc import Sequence

from lora_profiler.planning.memory_savings import Lever
from lora_profiler.report.charts.axes import bytes_axis
from lora_profiler.report.charts.figure import Figure, figure, rows
from lora_profiler.report.charts.labels import label, lines
from lora_profiler.report.charts.marks import at_the_end, hatched
from lora_profiler.report.palette import REST_PAINT, SAVED_PAINT
from lora_profiler.units import bytes_text, percent_text

_ROW_PX, _AROUND_PX = 44, 100


def lever_bars(levers: Sequence[Lever]) -> Figure:
    """One bar a lever of one workload, in the order given: the peak that is left and, hatched, what
    is saved.

    All levers of a workload begin at the same peak.
    """
    axis, size = bytes_axis(
        round(1.2 * max((lever.peak_bytes + lever.saved_bytes for lever in levers), default=0)),
        "peak",
    )
    positions = list(range(len(levers)))
    wholes = [lever.peak_bytes + lever.saved_bytes for lever in levers]
    hover = [
        lines(
            label(f"{lever.name} ({lever.option})", 80),
            f"{bytes_text(lever.peak_bytes)} instead of {bytes_text(whole)}",
            f"price: {label(lever.price, 80)}",
        )
        for lever, whole in zip(levers, wholes, strict=True)
    ]
    bar = {
        "type": "bar",
        "orientation": "h",
        "y": positions,
        "hovertext": hover,
        "hoverinfo": "text",
    }
    saved = [
        f"{bytes_text(lever.saved_bytes)} less, {percent_text(lever.saved_fraction)}"
        for lever in levers
    ]
    left = {**bar, "name": "peak that is left", "x": [lever.peak_bytes / size for lever in levers]}
    gone = {**bar, "name": "saved", "x": [lever.saved_bytes / size for lever in levers]}
    sums = at_the_end([whole / size for whole in wholes], positions, [f" {text}" for text in saved])
    return figure(
        [{**left, "marker": hatched(REST_PAINT)}, {**gone, "marker": hatched(SAVED_PAINT)}, sums],
        height=_AROUND_PX + _ROW_PX * len(levers),
        x=axis,
        y=rows(
            [lines(label(lever.name, 40), label(lever.option, 40)) for lever in levers], positions
        ),
        barmode="stack",
        bargap=0.35,
    )
