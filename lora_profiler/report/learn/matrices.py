"""The full update and the two matrices that stand in for it, drawn to one scale."""

from lora_profiler.report.learn.layer import LoraLayer
from lora_profiler.report.palette import Theme
from lora_profiler.report.svg import picture as svg
from lora_profiler.units import count_text, percent_text, shape_text

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
    parts.append(svg.text(WIDTH / 2, bottom + 64, _scale_text(layer, scale), "faint mid small"))
    return svg.picture(WIDTH, round(bottom) + 70, parts, says=matrices_words(layer), theme=theme)


def _scale(layer: LoraLayer) -> float:
    """Pixels a number: the largest that leaves every matrix its place."""
    scale = _DRAWN_PX / max(layer.d, layer.r)
    room = WIDTH - 2 * _GAP_PX
    while sum(max(columns * scale, _SLOT_PX) for columns in (layer.k, layer.r, layer.k)) > room:
        scale *= 0.98
    return scale


def _scale_text(layer: LoraLayer, scale: float) -> str:
    side = min(layer.d, layer.k, layer.r)
    if side * scale >= _THINNEST_PX:
        return "all three to one scale"
    return (
        f"to one scale; {count_text(side)} wide would be {side * scale:.2g} of the pixel that is"
        " drawn"
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
