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
"""Half-width for a card of a class without any fitted card: A100 constants are 20 to 41 % too slow
for steps on cards of half the rate, and off by -1 to +14 % on an L40S and by -13 to +29 % for
BERT's seven steps on a V100."""
_UNFITTED = 0.15
"""For a card like the fitted ones, beside their own. Two rows of an H100 are off by 1 and 3 %, five
of an L40 by 3 to 16 %: too few to promise less."""
HOSTS = 2**0.5
"""Nobody has seen a user's host: the slowest takes twice as long for a launch as the fastest, the
usual launch being in the middle. So far apart are single threads of servers' processors of one
decade, and of desktops'; a launch is Python, autograd and the driver on one."""
_UNSTATED = 0.10
"""For kernels that nobody has said, or that a compiler makes."""
_CHIPS_OF_GAMES = (86, 89, 120)
"""Compute capabilities of chips with GDDR memory; those for datacentres have HBM."""
_WHOLE_RATE = 3.0
"""Of these chips' 16-bit peaks over the float32 one: 2 where tensor cores add products in float32
at half the rate, 512 FLOPs a multiprocessor and clock, 4 where at the whole (NVIDIA's architecture
papers). The half rate is nearly reached, the whole is not: torch's products in bfloat16 take 163 to
173 of an RTX 4090's 165 TFLOP/s and 114 of an L20's 120, but 269 of an L40S's 362 and 234 to 265 of
an A100's 312 (github.com/zzc0721/torch-performance-test-data, `database.md`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundled:
    """`half_width`: of the interval around what hosts within `HOSTS` take, as a share: what nine in
    ten rows are within whose model was left out, each model weighing the same, or whose source."""

    families: tuple[Constants, ...]
    half_width: float


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
        half_width=data["half_width"],
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
    """Cards before bfloat16 have other tensor cores, smaller caches and older kernels. Of chips
    with GDDR memory those of half the rate reach shares of their peak that others do not."""
    if card.capability is not None and card.capability < BFLOAT16_CAPABILITY:
        return "before bfloat16"
    if card.capability not in _CHIPS_OF_GAMES:
        return "datacentre"
    tensor, single = card.bf16_dense_tflops, card.fp32_tflops
    return "half rate" if tensor and single and tensor < _WHOLE_RATE * single else "graphics"


def half_width(likeness: Likeness, stated_kernels: bool = True) -> float:
    """Of the interval around the times that hosts within `HOSTS` take, as a share of the measured
    one."""
    if likeness == "other class":
        return _FOREIGN
    squares = (
        bundled().half_width ** 2
        + (_UNFITTED**2 if likeness == "same class" else 0)
        + (0 if stated_kernels else _UNSTATED**2)
    )
    return float(squares**0.5)
