"""The colours of every figure, in a light and a dark variant, with a hatch or a symbol beside each:
never colour alone.

A figure is drawn in light colours, under whose names a style sheet has the reader's. Categories are
told apart under simulated protanopia and deuteranopia by colour, or else by hatch; a test measures
it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from lora_profiler.memory.prediction import Category
from lora_profiler.question.workload import Method

if TYPE_CHECKING:
    from lora_profiler.planning.reserve import Verdict
    from lora_profiler.steptime import Part

Theme = Literal["light", "dark"]
Hatch = Literal["", "/", "\\", "x", "-", "|", "+", "."]
"""What is drawn over a colour, as plotly names it."""

FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
BODY_PX, SMALL_PX, HEAD_PX, CELL_PX = 13, 12, 14, 11
"""The type scale of figures, in pixels: labels, ticks and notes, group heads, cells of a map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Colour:
    """One colour as '#rrggbb' in the light and in the dark."""

    light: str
    dark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Paint:
    """How an area is filled: a colour, and a hatch over it."""

    colour: Colour
    hatch: Hatch = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointStyle:
    """How a point is drawn: a colour, and a symbol of plotly's."""

    colour: Colour
    symbol: str


# --- paper and ink --------------------------------------------------------------------------------

PAPER: Final = Colour(light="#ffffff", dark="#16181d")
PANEL: Final = Colour(light="#f5f6f8", dark="#1e2127")
"""Shaded bands and table heads."""
INK: Final = Colour(light="#1b1f24", dark="#e8eaee")
FAINT_INK: Final = Colour(light="#59626e", dark="#a3abb7")
"""Ticks, axis titles, notes."""
LINE: Final = Colour(light="#d5d9df", dark="#363b44")
"""Rules, grid lines."""
ACCENT: Final = Colour(light="#0a5c9e", dark="#6db7f2")
"""Links and what is selected."""
WARNING: Final = Colour(light="#a63c00", dark="#ff9d66")
"""What failed, or is off."""

# --- categories of memory -------------------------------------------------------------------------

CATEGORY_PAINTS: Final[Mapping[Category, Paint]] = {
    "parameters": Paint(colour=Colour(light="#4b85da", dark="#4695ea")),
    "quantization_state": Paint(colour=Colour(light="#2a4462", dark="#90c4f2"), hatch="."),
    "adapters": Paint(colour=Colour(light="#b24200", dark="#ef8030"), hatch="\\"),
    "buffers": Paint(colour=Colour(light="#56798c", dark="#7fa3b5"), hatch="|"),
    "gradients": Paint(colour=Colour(light="#8b3f9f", dark="#b16db0")),
    "optimizer_states": Paint(colour=Colour(light="#309e70", dark="#5cc496")),
    "inputs": Paint(colour=Colour(light="#77663a", dark="#b5a06a"), hatch="+"),
    "activations": Paint(colour=Colour(light="#cb8403", dark="#f8d074")),
    "logits_and_loss": Paint(colour=Colour(light="#a32f3a", dark="#d74f59"), hatch="/"),
    "temporaries": Paint(colour=Colour(light="#8c94a0", dark="#c5cad5"), hatch="x"),
    "workspace": Paint(colour=Colour(light="#6d6778", dark="#a39cb3"), hatch="-"),
    "communication": Paint(colour=Colour(light="#3f4450", dark="#e6e9f0"), hatch="/"),
    "unattributed": Paint(colour=Colour(light="#a08d84", dark="#8a7d78"), hatch="."),
}

PART_PAINTS: "Final[Mapping[Part, Paint]]" = {
    "gemm": CATEGORY_PAINTS["parameters"],
    "attention_forward": CATEGORY_PAINTS["activations"],
    "attention_backward": Paint(colour=CATEGORY_PAINTS["activations"].colour, hatch="+"),
    "memory": CATEGORY_PAINTS["temporaries"],
    "dequantise": CATEGORY_PAINTS["quantization_state"],
    "launches": CATEGORY_PAINTS["logits_and_loss"],
    "update": CATEGORY_PAINTS["optimizer_states"],
    "besides": CATEGORY_PAINTS["buffers"],
}
"""What a step's time is spent on."""

# --- methods, verdicts, sides ---------------------------------------------------------------------

METHOD_MARKS: Final[Mapping[Method, PointStyle]] = {
    "full": PointStyle(colour=CATEGORY_PAINTS["parameters"].colour, symbol="circle"),
    "lora": PointStyle(colour=CATEGORY_PAINTS["adapters"].colour, symbol="diamond"),
    "qlora": PointStyle(colour=CATEGORY_PAINTS["optimizer_states"].colour, symbol="square"),
}

VERDICT_COLOURS: "Final[Mapping[Verdict, Colour]]" = {
    "fits": Colour(light="#cfece4", dark="#12463b"),
    "tight": Colour(light="#fbe3b0", dark="#5a4413"),
    "does_not_fit": Colour(light="#f3cfc9", dark="#5e2a24"),
}
"""Behind text, which is drawn in ink."""
VERDICT_SIGNS: "Final[Mapping[Verdict, str]]" = {"fits": "✓", "tight": "~", "does_not_fit": "✗"}


REST_PAINT: Final = Paint(colour=CATEGORY_PAINTS["temporaries"].colour)
SAVED_PAINT: Final = Paint(colour=METHOD_MARKS["qlora"].colour, hatch="/")
"""What is left of a peak, and what a change saves of it."""

COUNTER_MARKS: Final[Mapping[str, PointStyle]] = {
    "requested_peak_bytes": METHOD_MARKS["full"],
    "requested_bytes": PointStyle(colour=METHOD_MARKS["full"].colour, symbol="circle-open"),
    "allocated_peak_bytes": METHOD_MARKS["lora"],
    "reserved_peak_bytes": METHOD_MARKS["qlora"],
}
"""By the field of a phase's sample."""

SERIES_MARKS: Final[tuple[PointStyle, ...]] = (
    *METHOD_MARKS.values(),
    PointStyle(colour=CATEGORY_PAINTS["gradients"].colour, symbol="triangle-up"),
    PointStyle(colour=CATEGORY_PAINTS["activations"].colour, symbol="cross"),
    PointStyle(colour=CATEGORY_PAINTS["logits_and_loss"].colour, symbol="triangle-down"),
    PointStyle(colour=CATEGORY_PAINTS["buffers"].colour, symbol="star"),
    PointStyle(colour=CATEGORY_PAINTS["communication"].colour, symbol="hexagon"),
)
"""Of the lines of one figure, in their order."""


def colour(of: Colour, theme: Theme = "light") -> str:
    """'#rrggbb' in that theme."""
    return of.light if theme == "light" else of.dark


def all_colours() -> tuple[Colour, ...]:
    named = (PAPER, PANEL, INK, FAINT_INK, LINE, ACCENT, WARNING, *VERDICT_COLOURS.values())
    paints = (*CATEGORY_PAINTS.values(), REST_PAINT, SAVED_PAINT)
    marks = (*METHOD_MARKS.values(), *COUNTER_MARKS.values(), *SERIES_MARKS)
    return (*named, *(p.colour for p in paints), *(m.colour for m in marks))
