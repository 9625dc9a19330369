"""Names beside points, where they lie over no other point and no other name."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from lora_profiler.report.charts.plot import width_px
from lora_profiler.report.palette import SMALL_PX

PLANE_PX = (265, 255)
"""Width and height of a figure's plane on a phone. What has room there has it in a wider plane,
where points only move away from each other and names keep their size."""
_BESIDE_PX, _ABOVE_PX, _LINE_PX = 11, 7, 15
"""Between the middle of a point of ten pixels and the letters of a name, across and upright, and
the height of a line of SMALL_PX: as `report.svg` sets them."""
_UPRIGHT, _ACROSS = ("top", "bottom", "middle"), ("right", "left", "center")


class Spot(NamedTuple):
    """A point: shares of the plane from the left and from the bottom, and how far it reaches."""

    x: float
    y: float
    radius_px: float


class _Box(NamedTuple):
    """In pixels from the left and from the top of the plane."""

    left: float
    right: float
    top: float
    bottom: float

    def meets(self, other: "_Box") -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    @property
    def is_inside(self) -> bool:
        width, height = PLANE_PX
        return self.left >= 0 and self.right <= width and self.top >= 0 and self.bottom <= height


def name_places(spots: Sequence[Spot], names: Mapping[int, str]) -> dict[int, str]:
    """The `textposition` of each name that has room, by its spot.

    `names` are by the place of their spots, those first that matter most. A name stands once, at
    the first of its spots with room, and is left out where none has.
    """
    around = [_around(spot) for spot in spots]
    placed: dict[int, str] = {}
    taken: list[_Box] = []
    for at, name in names.items():
        if name in (names[other] for other in placed):
            continue
        others = [*around[:at], *around[at + 1 :], *taken]
        for position, box in _places(spots[at], width_px(name, SMALL_PX)):
            if box.is_inside and not any(map(box.meets, others)):
                placed[at] = position
                taken.append(box)
                break
    return placed


def _middle(spot: Spot) -> tuple[float, float]:
    width, height = PLANE_PX
    return spot.x * width, (1 - spot.y) * height


def _around(spot: Spot) -> _Box:
    (x, y), r = _middle(spot), spot.radius_px
    return _Box(x - r, x + r, y - r, y + r)


def _places(spot: Spot, wide: float) -> Iterator[tuple[str, _Box]]:
    """Each position of a name so wide with its box. That reaches to the point: what lies between
    them here comes to lie beside the name in a wider plane."""
    x, y = _middle(spot)
    across = {
        "right": (x, x + _BESIDE_PX + wide),
        "left": (x - _BESIDE_PX - wide, x),
        "center": (x - wide / 2, x + wide / 2),
    }
    upright = {
        "top": (y - _ABOVE_PX - _LINE_PX, y - _ABOVE_PX),
        "bottom": (y + _ABOVE_PX, y + _ABOVE_PX + _LINE_PX),
        "middle": (y - _LINE_PX / 2, y + _LINE_PX / 2),
    }
    for up, side in product(_UPRIGHT, _ACROSS):
        if (up, side) != ("middle", "center"):
            yield f"{up} {side}", _Box(*across[side], *upright[up])
