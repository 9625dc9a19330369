"""The charts of all claims under a few headings, each with its numbers as a table."""

from collections.abc import Sequence
from typing import Final

from lora_profiler.report.blocks import Row, Table
from lora_profiler.report.verify.charts import Chart
from lora_profiler.units import percent_text

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "How many numbers train": ("trained_share",),
    "Scaling by rank": ("scaling_",),
    "How much a rank keeps": ("gain_by_rank", "energy_by_rank"),
    "Spectra of the update": ("spectrum_",),
    "Memory and speed": ("lora_of_full",),
}
"""Heading to the beginnings of the keys of its charts."""


def grouped(charts: Sequence[Chart]) -> list[tuple[str, list[Chart]]]:
    """(heading, its charts), of headings that have any."""
    found = [
        (heading, [c for c in charts if c.key.startswith(beginnings)])
        for heading, beginnings in GROUPS.items()
    ]
    return [(heading, members) for heading, members in found if members]


def numbers_table(chart: Chart) -> Table:
    """Every point of the chart: a row for each x."""
    by_series = [dict(zip(series.x, series.y, strict=True)) for series in chart.series]
    rows = [
        Row(
            cells=(
                chart.categories[int(x)] if chart.categories else f"{x:g}",
                *(_cell(chart, each.get(x)) for each in by_series),
            )
        )
        for x in sorted({x for series in chart.series for x in series.x})
    ]
    title = f"{chart.y_label}, by {chart.x_label}" if chart.x_label else chart.y_label
    return Table(
        title=title,
        columns=(chart.x_label, *(series.label for series in chart.series)),
        rows=tuple(rows),
    )


def _cell(chart: Chart, y: float | None) -> str:
    return "" if y is None else percent_text(y) if chart.y_is_share else f"{y:.4g}"
