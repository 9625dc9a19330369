"""Which batches and lengths fit a card: the peak in every cell, with its verdict in colour, sign
and words."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from lora_profiler.planning.reserve import Verdict
from lora_profiler.planning.sizes import SizeFit
from lora_profiler.report.charts import plot
from lora_profiler.report.charts.plot import Figure
from lora_profiler.report.labels import VERDICT_LABELS
from lora_profiler.report.palette import CELL_PX, INK, VERDICT_COLOURS, VERDICT_SIGNS
from lora_profiler.units import byte_unit, bytes_text, count_text, short_in_unit

_ROW_PX, _AROUND_PX = 34, 110
_VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def fit_map(cells: Sequence[SizeFit], asked: tuple[int, int] | None = None) -> Figure:
    """Sequence lengths from left to right, batch sizes from bottom to top, in every cell the peak
    and a sign of its verdict; around that of the batch and length `asked` a frame. All peaks are in
    one unit, that of the largest that fits."""
    known = [cell for cell in cells if cell.peak_bytes is not None]
    fitting = [cell.peak_bytes or 0 for cell in known if cell.verdict == "fits"]
    unit, size = byte_unit(max(fitting or [cell.peak_bytes or 0 for cell in known], default=0))
    lengths = sorted({cell.seq_len for cell in cells})
    batches = sorted({cell.batch_size for cell in cells}, reverse=True)
    by_size = {(cell.batch_size, cell.seq_len): cell for cell in cells}
    grid = [[by_size.get((batch, length)) for length in lengths] for batch in batches]
    marks = []
    if asked is not None and asked in by_size:
        marks = [_outline(batches.index(asked[0]), lengths.index(asked[1]))]
    verdicts = {cell.verdict for cell in cells}
    keys = [
        plot.key(
            f"{VERDICT_SIGNS[v]} {VERDICT_LABELS[v]}",
            {"symbol": "square", "size": 12, "color": VERDICT_COLOURS[v].light},
        )
        for v in _VERDICTS
        if v in verdicts
    ]
    return plot.figure(
        [_cells(grid, size), *keys],
        height=_AROUND_PX + _ROW_PX * len(batches),
        x=plot.axis(
            f"sequence length, tokens; peaks in {unit}",
            **plot.ticks_at(range(len(lengths)), map(count_text, lengths)),
            range=[-0.5, len(lengths) - 0.5],
        ),
        y=plot.rows(
            [count_text(batch) for batch in batches],
            range(len(batches)),
            **plot.axis("batch size", range=[len(batches) - 0.5, -0.5]),
        ),
        shapes=marks,
    )


def _cells(grid: Sequence[Sequence[SizeFit | None]], size: int) -> dict[str, Any]:
    """No trace of plotly's: a colour for each cell, None where nothing is drawn."""
    return {
        "type": "cells",
        "x": list(range(len(grid[0]) if grid else 0)),
        "y": list(range(len(grid))),
        "colours": [
            [VERDICT_COLOURS[c.verdict].light if c and c.verdict else None for c in row]
            for row in grid
        ],
        "text": [[_text(cell, size) for cell in row] for row in grid],
        "textfont": {"color": INK.light, "size": CELL_PX},
        "hovertext": [[_hover(cell) for cell in row] for row in grid],
    }


def _text(cell: SizeFit | None, size: int) -> str:
    if cell is None or cell.peak_bytes is None or cell.verdict is None:
        return ""
    return f"{VERDICT_SIGNS[cell.verdict]}{short_in_unit(cell.peak_bytes, size)}"


def _hover(cell: SizeFit | None) -> str:
    if cell is None:
        return ""
    sizes = f"batch {count_text(cell.batch_size)} x {count_text(cell.seq_len)} tokens"
    if cell.peak_bytes is None or cell.verdict is None:
        return plot.lines(sizes, "not known")
    return plot.lines(sizes, f"peak {bytes_text(cell.peak_bytes)}: {VERDICT_LABELS[cell.verdict]}")


def _outline(row: int, column: int) -> Mapping[str, Any]:
    ends = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
    return {"type": "rect", **ends, "line": {"color": INK.light, "width": 2.5}}
