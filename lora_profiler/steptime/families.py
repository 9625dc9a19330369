"""The constants that come with the package, and those that a card takes: its own family's, else the
nearest one's.

`data/constants.json` is written by `python -m benchmarks.step_time --write`: fitted there, and
nowhere else.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from lora_profiler.catalog import Gpu, find_gpu
from lora_profiler.platform import BFLOAT16_CAPABILITY
from lora_profiler.steptime.constants import Constants

_CONSTANTS = Path(__file__).parent / "data" / "constants.json"
Likeness = Literal["fitted", "same class", "other class"]
_FOREIGN = 0.40
"""Half-width for a card of a class without any fitted card: A100 constants are 30 to 41 % too slow
for steps on an L40 and 20 to 33 % for GeForce cards, and off by -1 to +14 % on an L40S and by -9 to
+29 % for BERT's seven steps on a V100."""
_UNFITTED = 0.15
"""For a card like the fitted ones, beside their own. Two rows of an H100 are off by 1 and 3 %: too
few to promise less."""
_UNSTATED = 0.10
"""For kernels that nobody has said, or that a compiler makes."""
_CHIPS_OF_GAMES = (86, 89, 120)
"""Compute capabilities of chips with GDDR memory; those for datacentres have HBM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundled:
    """`half_widths`: of the interval up to each share of host time, both as shares: what nine in
    ten errors of rows whose model was left out are within, each model weighing the same."""

    families: tuple[Constants, ...]
    half_widths: tuple[tuple[float, float], ...]


@cache
def bundled() -> Bundled:
    data = json.loads(_CONSTANTS.read_text(encoding="utf-8"))
    return Bundled(
        families=tuple(
            Constants(
                family=f["family"],
                eta=f["eta"],
                beta=f["beta"],
                cards=tuple(f["cards"]),
                rows=tuple(f["rows"]),
            )
            for f in data["families"]
        ),
        half_widths=tuple((share, width) for share, width in data["half_widths"]),
    )


def constants_for(card: Gpu) -> tuple[Constants, Likeness]:
    """The constants of the fitted cards that `card` is one of, or is most like, and how like them
    it is."""
    of_class = {
        _class(find_gpu(key)): family
        for family in reversed(bundled().families)
        for key in family.cards
    }
    for family in bundled().families:
        if card.key in family.cards:
            return family, "fitted"
    like = of_class.get(_class(card))
    return (
        (like, "same class")
        if like and card.vendor == "nvidia"
        else (bundled().families[0], "other class")
    )


def _class(card: Gpu) -> str:
    """Cards for games clock above their rated boost, and reach shares of the peak that others do
    not. Their chips on cards for work have the same GDDR memory, but another peak and less power.
    Cards before bfloat16 have other tensor cores, smaller caches and older kernels."""
    if card.capability is not None and card.capability < BFLOAT16_CAPABILITY:
        return "before bfloat16"
    if card.capability not in _CHIPS_OF_GAMES:
        return "datacentre"
    games = card.key.startswith(("rtx_30", "rtx_40", "rtx_50"))
    return "games" if games and not card.key.endswith("_ada") else "graphics"


def half_width(likeness: Likeness, share_of_host: float, stated_kernels: bool = True) -> float:
    """Of the interval around a predicted time, as a share of the measured one."""
    widths = bundled().half_widths
    width = next((width for share, width in widths if share_of_host <= share), widths[-1][1])
    if likeness == "other class":
        return max(width, _FOREIGN)
    squares = (
        width**2
        + (_UNFITTED**2 if likeness == "same class" else 0)
        + (0 if stated_kernels else _UNSTATED**2)
    )
    return float(squares**0.5)
