"""One dense layer with LoRA, in numbers, words and pictures (`flow.svg`, with the sizes put in);
and what the committed run of `verify` on SmolLM2-135M found.

`python -m benchmarks.truth.mathematics --render` writes that next to this file."""

import json
from dataclasses import dataclass, replace
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from lora_profiler.report import palette
from lora_profiler.report.claims.claim import Chart, Series
from lora_profiler.report.palette import METHOD_MARKS, Theme
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
        return self.d * self.k

    @property
    def b(self) -> int:
        return self.d * self.r

    @property
    def a(self) -> int:
        return self.r * self.k

    @property
    def lora(self) -> int:
        return self.a + self.b

    @property
    def share(self) -> float:
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
        _sizes(layer), says=escape(flow_words(layer)), style=_style(theme)
    )


def _style(theme: Theme | None) -> str:
    """Sizes and colours of the picture; without a theme in the reader's, light on paper."""
    common = (
        f".lpd text{{font:13px {palette.FONT}}}.lpd .small{{font-size:12px}}"
        ".lpd .big{font-size:17px}.lpd .mid{text-anchor:middle}"
    )
    if theme is not None:
        return common + _colours(theme)
    dark = f"@media screen and (prefers-color-scheme: dark){{{_colours('dark')}}}"
    return f"{common}{_colours('light')}{dark}"


def _colours(theme: Theme) -> str:
    fills = {
        **{"ink": palette.INK, "faint": palette.FAINT_INK, "panel": palette.PANEL},
        **{str(name): of.colour for name, of in METHOD_MARKS.items()},
    }
    strokes = {
        "line": palette.FAINT_INK,
        "full-line": METHOD_MARKS["full"].colour,
        "lora-line": METHOD_MARKS["lora"].colour,
    }
    return "".join(
        f".lpd .{name}{{{what}:{palette.colour(of, theme)}}}"
        for what, colours in (("fill", fills), ("stroke", strokes))
        for name, of in colours.items()
    )


def flow_words(layer: LoraLayer) -> str:
    return Template(
        "Two paths from x to h. On the left x, $k numbers a token, goes through the frozen W of"
        " $w. On the right it goes through A of $a, which makes $r numbers of it. Then B of $b"
        " makes $d numbers, and alpha / r = $scaling scales them. The sum is h."
    ).substitute(_sizes(layer))


def _sizes(layer: LoraLayer) -> dict[str, str]:
    return {
        **{side: count_text(getattr(layer, side)) for side in "dkr"},
        "w": shape_text(layer.d, layer.k),
        "a": shape_text(layer.r, layer.k),
        "b": shape_text(layer.d, layer.r),
        "scaling": f"{layer.scaling:.3g}",
    }


_SLOT_PX, _LONGEST_PX, _TOP_PX = 146, 130, 30
"""What each matrix has with the words under it, and the longest side of all three."""


def matrices(layer: LoraLayer, theme: Theme | None = None) -> str:
    """SVG: the full update, B and A to one scale, with their numbers under each."""
    scale = _LONGEST_PX / max(layer.d, layer.k, layer.r)
    parts = []
    for place, (name, rows, columns, role) in enumerate(
        (
            ("full update", layer.d, layer.k, "full"),
            ("B", layer.d, layer.r, "lora"),
            ("A", layer.r, layer.k, "lora"),
        )
    ):
        middle, width, height = _SLOT_PX * (place + 0.5), columns * scale, rows * scale
        lines = ((name, 20), (shape_text(rows, columns), 180), (count_text(rows * columns), 199))
        parts.append(
            f'<rect x="{middle - width / 2:.6g}" y="{_TOP_PX}" width="{max(width, 1):.6g}"'
            f' height="{max(height, 1):.6g}" class="{role}" shape-rendering="crispEdges"/>'
        )
        parts += [f'<text x="{middle}" y="{y}" class="ink mid">{text}</text>' for text, y in lines]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" class="lpd" viewBox="0 0 440 210" width="440"'
        f' height="210" role="img" aria-label="{escape(matrices_words(layer))}">'
        f"<style>{_style(theme)}</style>{''.join(parts)}</svg>"
    )


def matrices_words(layer: LoraLayer) -> str:
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
