"""One dense layer with LoRA, in numbers, words and pictures (`flow.svg`, with the sizes put in);
and what the committed run of `verify` on SmolLM2-135M found, which `python -m
benchmarks.mathematics --render` writes beside this file."""

import json
from dataclasses import dataclass, replace
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from lora_profiler.report.charts import plot
from lora_profiler.report.charts.plot import Figure
from lora_profiler.report.claims.claim import Chart, Series
from lora_profiler.report.palette import METHOD_MARKS, Theme
from lora_profiler.report.picture import style
from lora_profiler.units import count_text, percent_text, shape_text

GRADIENT_BYTES, ADAM_BYTES = 4, 8
"""Of each number that trains in float32: its gradient, and Adam's two running averages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraLayer:
    """W is d x k (out x in features); its update is B A with B of d x r and A of r x k, times alpha
    / r. All counts are exact."""

    d: int = 4096
    k: int = 4096
    r: int = 8
    alpha: int = 16

    @property
    def full(self) -> int:
        """Numbers of the full update."""
        return self.d * self.k

    @property
    def b(self) -> int:
        return self.d * self.r

    @property
    def a(self) -> int:
        return self.r * self.k

    @property
    def lora(self) -> int:
        """Numbers of A and B."""
        return self.a + self.b

    @property
    def share(self) -> float:
        """What LoRA trains, of the full update."""
        return self.lora / self.full

    @property
    def scaling(self) -> float:
        return self.alpha / self.r

    @property
    def largest_smaller_rank(self) -> int:
        """The highest rank at which A and B have fewer numbers than the full update; 0 where none
        has."""
        return (self.full - 1) // (self.d + self.k)


def gradient_bytes(numbers: int) -> int:
    """Bytes of their gradients, in float32."""
    return GRADIENT_BYTES * numbers


def adam_bytes(numbers: int) -> int:
    """Bytes of Adam's two averages, in float32; the step counters, 4 bytes a tensor, are left
    out."""
    return ADAM_BYTES * numbers


_HIGHEST = 2**14


def counts_chart(layer: LoraLayer) -> Chart:
    """Numbers in A and B by rank, up to where they are well beyond those of the full update."""
    ranks = [1]
    while ranks[-1] < _HIGHEST and ranks[-1] < max(2 * layer.largest_smaller_rank, layer.r):
        ranks.append(2 * ranks[-1])
    x = tuple(map(float, ranks))
    return Chart(
        key="counts",
        heading="One layer",
        title="Numbers that train, by rank",
        x_label="rank",
        y_label="numbers that train",
        y_scale="log",
        series=(
            Series(label="full update", x=x, y=tuple(float(layer.full) for _ in ranks)),
            Series(label="A and B", x=x, y=tuple(float(replace(layer, r=r).lora) for r in ranks)),
            Series(
                label=f"rank {count_text(layer.r)}", x=(float(layer.r),), y=(float(layer.lora),)
            ),
        ),
    )


def counts_words(layer: LoraLayer) -> tuple[str, ...]:
    """What the numbers of the layer say."""
    fewer = 1 - layer.share
    instead = f"{count_text(layer.lora)} numbers train instead of {count_text(layer.full)}"
    how = f"{percent_text(fewer)} fewer" if fewer > 0 else "as many"
    if fewer < 0:
        how = f"{layer.share:.3g} times as many"
    last = layer.largest_smaller_rank
    where = f"up to rank {count_text(last)}" if last else "at no rank"
    since = f"since d k / (d + k) is {layer.full / (layer.d + layer.k):,.6g}"
    counts = f"A and B have r (d + k) numbers, the full update d k: fewer {where}, {since}."
    return (f"{instead}: {how}.", counts)


def flow(layer: LoraLayer, theme: Theme | None = None) -> str:
    """SVG of h = W x + (alpha / r) B (A x)."""
    picture = files("lora_profiler.report.learn").joinpath("flow.svg").read_text("utf-8")
    return Template(picture).substitute(
        _sizes(layer), says=escape(flow_words(layer)), style=style(theme)
    )


def flow_words(layer: LoraLayer) -> str:
    """What is to be seen, for who does not see it."""
    return Template(
        "Two paths from x to h. On the left x, $k numbers a token, goes through the frozen W of"
        " $w. On the right it goes through A of $a, which makes $r numbers of it. Then B of $b"
        " makes $d numbers, and alpha / r = $scaling scales them. The sum is h."
    ).substitute(_sizes(layer))


def _sizes(layer: LoraLayer) -> dict[str, str]:
    return {
        "d": count_text(layer.d),
        "k": count_text(layer.k),
        "r": count_text(layer.r),
        "w": shape_text(layer.d, layer.k),
        "a": shape_text(layer.r, layer.k),
        "b": shape_text(layer.d, layer.r),
        "scaling": f"{layer.scaling:.3g}",
    }


_PLANE_PX = 200
_GAP, _SLOT = 0.1, 0.6
"""Between two matrices, and the least that each has for the words under it: of the longest side."""


def matrices(layer: LoraLayer) -> Figure:
    """The full update, B and A to one scale, with their numbers under each."""
    side = max(layer.d, layer.k, layer.r)
    shapes, notes, left = [], [], 0.0
    for name, rows, columns in (
        ("full update", layer.d, layer.k),
        ("B", layer.d, layer.r),
        ("A", layer.r, layer.k),
    ):
        mark = METHOD_MARKS["lora" if len(name) == 1 else "full"]
        slot, colour = max(columns, _SLOT * side), mark.colour.light
        ends = {"x0": left + (slot - columns) / 2, "x1": left + (slot + columns) / 2}
        line = {"color": colour, "width": 1}
        shapes.append(
            {
                "type": "rect",
                **ends,
                "y0": side,
                "y1": side - rows,
                "fillcolor": colour,
                "line": line,
            }
        )
        words = plot.lines(name, shape_text(rows, columns), count_text(rows * columns))
        notes.append(plot.note(words, x=left + slot / 2, y=side - rows, yanchor="top", yshift=-4))
        left += slot + _GAP * side
    unseen = {"visible": False}
    return plot.figure(
        [plot.scatter("", [0, left - _GAP * side], [side, 0], marker={"opacity": 0})],
        height=_PLANE_PX,
        x={**unseen, "range": [0, left - _GAP * side]},
        y={**unseen, "range": [-0.35 * side, side], "scaleanchor": "x"},
        shapes=shapes,
        annotations=notes,
    )


def matrices_words(layer: LoraLayer) -> str:
    """What is to be seen, for who does not see it."""
    return (
        f"Three rectangles to one scale. The full update has {count_text(layer.d)} rows and"
        f" {count_text(layer.k)} columns, {count_text(layer.full)} numbers. B has"
        f" {count_text(layer.d)} rows and {count_text(layer.r)} columns, {count_text(layer.b)}"
        f" numbers; A has {count_text(layer.r)} rows and {count_text(layer.k)} columns,"
        f" {count_text(layer.a)} numbers: together {count_text(layer.lora)},"
        f" {percent_text(layer.share)} of the full update."
    )


FILE = "verified.json"


def committed() -> dict[str, Any] | None:
    """The document of the committed run; None where this installation has none."""
    file = files("lora_profiler.report.learn").joinpath(FILE)
    return json.loads(file.read_bytes()) if file.is_file() else None
