"""The colours of every figure, in a light and a dark variant, with a hatch or a symbol beside each: never colour alone.

Light colours have their dark twin in `DARK_OF`, so that a figure drawn in the light is repainted without being drawn again.
Categories are told apart under simulated protanopia and deuteranopia by colour, or else by hatch; a test measures it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from lora_profiler.planning.fit import Verdict
from lora_profiler.prediction import Category, Phase
from lora_profiler.workload import Method

Theme = Literal["light", "dark"]
Hatch = Literal["", "/", "\\", "x", "-", "|", "+", "."]
"""What plotly draws over a colour: `marker.pattern.shape` and `fillpattern.shape`."""

FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
BODY_PX, SMALL_PX, HEAD_PX = 13, 12, 14
"""The type scale of figures, in pixels: labels, ticks and notes, group heads."""


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
class Mark:
    """How a point is drawn: a colour, and a symbol of plotly's."""

    colour: Colour
    symbol: str


# --- paper and ink --------------------------------------------------------------------------------------------------------

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

# --- categories of memory -------------------------------------------------------------------------------------------------

CATEGORY_PAINTS: Final[Mapping[Category, Paint]] = {
    "parameters": Paint(colour=Colour(light="#33628c", dark="#6f9fc9")),
    "quantization_state": Paint(colour=Colour(light="#5b8cb5", dark="#a5c8e4"), hatch="."),
    "adapters": Paint(colour=Colour(light="#d55e00", dark="#f5894a"), hatch="\\"),
    "buffers": Paint(colour=Colour(light="#7f8b99", dark="#8f9bab"), hatch="|"),
    "gradients": Paint(colour=Colour(light="#aa4499", dark="#d98acb")),
    "optimizer_states": Paint(colour=Colour(light="#117755", dark="#4db892")),
    "inputs": Paint(colour=Colour(light="#7a6a53", dark="#c2b090"), hatch="+"),
    "activations": Paint(colour=Colour(light="#e39a1c", dark="#f0b84d")),
    "logits_and_loss": Paint(colour=Colour(light="#c9584f", dark="#ee8a80"), hatch="/"),
    "temporaries": Paint(colour=Colour(light="#8d95a0", dark="#aab2bd"), hatch="x"),
    "workspace": Paint(colour=Colour(light="#6b7480", dark="#c3c9d2"), hatch="-"),
    "communication": Paint(colour=Colour(light="#4a5360", dark="#dde1e7"), hatch="/"),
    "unattributed": Paint(colour=Colour(light="#a9b0b9", dark="#7b8490"), hatch="."),
}

# --- methods, verdicts, sides ---------------------------------------------------------------------------------------------

METHOD_MARKS: Final[Mapping[Method, Mark]] = {
    "full": Mark(colour=Colour(light="#33628c", dark="#6f9fc9"), symbol="circle"),
    "lora": Mark(colour=Colour(light="#d55e00", dark="#f5894a"), symbol="diamond"),
    "qlora": Mark(colour=Colour(light="#117755", dark="#4db892"), symbol="square"),
}

VERDICT_PAINTS: Final[Mapping[Verdict, Paint]] = {
    "fits": Paint(colour=Colour(light="#cfe3f5", dark="#1d4263")),
    "tight": Paint(colour=Colour(light="#fbe3b0", dark="#5a4413"), hatch="."),
    "does_not_fit": Paint(colour=Colour(light="#f3cfc9", dark="#5e2a24"), hatch="x"),
}
VERDICT_SIGNS: Final[Mapping[Verdict, str]] = {"fits": "✓", "tight": "~", "does_not_fit": "✗"}

PHASE_ORDER: Final[tuple[Phase, ...]] = ("setup", "forward", "loss", "backward", "clip", "optimizer", "zero")


def colour(of: Colour, theme: Theme = "light") -> str:
    """'#rrggbb' in that theme."""
    return of.light if theme == "light" else of.dark


def all_colours() -> tuple[Colour, ...]:
    """Every colour that a figure may use."""
    named = (PAPER, PANEL, INK, FAINT_INK, LINE, ACCENT, WARNING)
    paints = (*CATEGORY_PAINTS.values(), *VERDICT_PAINTS.values())
    return (*named, *(p.colour for p in paints), *(m.colour for m in METHOD_MARKS.values()))


DARK_OF: Final[Mapping[str, str]] = {c.light: c.dark for c in all_colours()}
"""The dark twin of every light colour."""
