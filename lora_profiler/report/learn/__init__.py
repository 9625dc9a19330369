"""The mathematics of LoRA as a page shows it: one dense layer in numbers, words and pictures
(`flow.svg`, with the sizes put into it), and what a run of `verify` found: verdicts, charts.

Findings of the committed run on SmolLM2-135M lie beside this file; `python -m
benchmarks.mathematics --render` writes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from lora_profiler.report import picture as svg
from lora_profiler.report.claims.claim import Chart, Series, Verdict
from lora_profiler.report.claims.document import document_charts, evidence_of, subject_lines
from lora_profiler.report.palette import Theme
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
        key="layer_counts",
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
        " $w. On the right it goes through A of $a, which makes $r numbers of it, then through"
        " B of $b, and is multiplied by alpha / r = $scaling. Both are added: h = W x"
        " + (alpha / r) B (A x), $d numbers a token."
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


WIDTH = 440
_DRAWN_PX = 190.0
"""The most that a matrix is high."""
_SLOT_PX, _GAP_PX = 104.0, 16.0
"""What each matrix has for the words under it, and between two of them."""
_TOP_PX = 34.0
_THINNEST_PX = 1.0


def matrices(layer: LoraLayer, theme: Theme | None = None) -> str:
    """SVG: the full update on the left, B and A on the right, numbers under each."""
    scale = _scale(layer)
    drawn = [
        ("full update", layer.d, layer.k, layer.full, "full"),
        ("B", layer.d, layer.r, layer.b, "lora"),
        ("A", layer.r, layer.k, layer.a, "lora"),
    ]
    slots = [max(columns * scale, _SLOT_PX) for _, _, columns, _, _ in drawn]
    left = (WIDTH - sum(slots) - 2 * _GAP_PX) / 2
    bottom = _TOP_PX + max(layer.d, layer.r) * scale
    parts = []
    for (name, rows, columns, count, role), slot in zip(drawn, slots, strict=True):
        middle = left + slot / 2
        width, height = max(columns * scale, _THINNEST_PX), max(rows * scale, _THINNEST_PX)
        parts += [
            svg.text(middle, 20, name, "ink mid big"),
            svg.box(middle - width / 2, _TOP_PX, width, height, role),
            svg.text(middle, bottom + 22, shape_text(rows, columns), "faint mid small"),
            svg.text(middle, bottom + 41, count_text(count), "ink mid"),
        ]
        left += slot + _GAP_PX
    side, told = min(layer.d, layer.k, layer.r), "all three to one scale"
    if side * scale < _THINNEST_PX:
        wide = f"{count_text(side)} wide would be {side * scale:.2g} of the pixel that is drawn"
        told = f"to one scale; {wide}"
    parts.append(svg.text(WIDTH / 2, bottom + 64, told, "faint mid small"))
    return svg.picture(WIDTH, round(bottom) + 70, parts, says=matrices_words(layer), theme=theme)


def _scale(layer: LoraLayer) -> float:
    """Pixels a number: the largest that leaves every matrix its place."""
    scale = _DRAWN_PX / max(layer.d, layer.r)
    room = WIDTH - 2 * _GAP_PX
    while sum(max(columns * scale, _SLOT_PX) for columns in (layer.k, layer.r, layer.k)) > room:
        scale *= 0.98
    return scale


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


# --- what a run of `verify` found -----------------------------------------------------------------

FILE = "findings.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimFound:
    """One claim, its verdict, and what was found in one line of numbers and in sentences."""

    id: int
    title: str
    statement: str
    must_hold: bool
    verdict: Verdict
    headline: str
    finding: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """A whole run. `lines` say what was looked at, and with what."""

    model: str
    lines: tuple[str, ...]
    claims: tuple[ClaimFound, ...]
    charts: tuple[Chart, ...]


def findings(document: Mapping[str, Any]) -> Findings:
    """Those of a document of `report.claims`, fresh or read from a file."""
    note, names = document["model"]["note"], ("id", "title", "statement", "must_hold", "verdict")
    return Findings(
        model=document["model"]["id"],
        lines=(*subject_lines(document), *([note] if note else [])),
        claims=tuple(
            ClaimFound(
                **{name: claim[name] for name in names},
                headline=evidence_of(claim).headline,
                finding=tuple(claim["finding"]),
            )
            for claim in document["claims"]
        ),
        charts=document_charts(document),
    )


def committed_findings() -> Findings | None:
    """Those of the committed run; None where this installation has none."""
    import msgspec

    file = files("lora_profiler.report.learn").joinpath(FILE)
    return msgspec.json.decode(file.read_bytes(), type=Findings) if file.is_file() else None
