"""The two paths of a layer with LoRA, as a diagram of data that flows from x at the top to h at the
bottom."""

from lora_profiler.report.learn import svg
from lora_profiler.report.learn.layer import LoraLayer
from lora_profiler.report.palette import Theme
from lora_profiler.units import count_text, shape_text

WIDTH, HEIGHT = 440, 400
_LEFT, _RIGHT, _MIDDLE = 110.0, 320.0, 215.0
_WIDE, _THIN = 160.0, 84.0


def flow(layer: LoraLayer, theme: Theme | None = None) -> str:
    """SVG of h = W x + (alpha / r) B (A x)."""
    d, k, r = (count_text(n) for n in (layer.d, layer.k, layer.r))
    parts = [
        svg.text(_MIDDLE, 16, f"x, {k} numbers a token"),
        svg.arrow([(_MIDDLE, 24), (_MIDDLE, 48), (_LEFT, 48), (_LEFT, 92)]),
        svg.arrow([(_MIDDLE, 24), (_MIDDLE, 48), (_RIGHT, 48), (_RIGHT, 72)]),
        svg.box(_LEFT - _WIDE / 2, 94, _WIDE, 138, "panel full-line", 4),
        svg.text(_LEFT + 10, 68, "frozen", "faint small"),
        svg.text(_RIGHT + 10, 62, "trained", "faint small"),
        svg.text(_LEFT, 162, "W", "ink mid big"),
        svg.text(_LEFT, 184, shape_text(layer.d, layer.k), "faint mid small"),
        _trained(74, "A", shape_text(layer.r, layer.k), wide_above=True),
        svg.arrow([(_RIGHT, 132), (_RIGHT, 166)], "lora-line"),
        svg.text(_RIGHT + 10, 154, f"{r} numbers", "faint small"),
        _trained(168, "B", shape_text(layer.d, layer.r), wide_above=False),
        svg.arrow([(_RIGHT, 226), (_RIGHT, 252)], "lora-line"),
        svg.box(_RIGHT - 80, 254, 160, 30, "panel lora-line", 15),
        svg.text(_RIGHT, 274, f"x alpha / r = {layer.scaling:.3g}"),
        svg.arrow([(_LEFT, 232), (_LEFT, 324), (_MIDDLE - 16, 324)]),
        svg.arrow([(_RIGHT, 284), (_RIGHT, 324), (_MIDDLE + 16, 324)], "lora-line"),
        f'<circle cx="{_MIDDLE:g}" cy="324" r="14" class="panel line" stroke-width="1.5"/>',
        svg.text(_MIDDLE, 330, "+", "ink mid big"),
        svg.arrow([(_MIDDLE, 338), (_MIDDLE, 370)]),
        svg.text(_MIDDLE, 390, f"h, {d} numbers a token"),
    ]
    return svg.picture(WIDTH, HEIGHT, parts, says=flow_words(layer), theme=theme)


def _trained(top: float, name: str, shape: str, *, wide_above: bool) -> str:
    """A trained matrix as the funnel that it is: to r numbers, or from them."""
    wide, thin = (_WIDE / 2, _THIN / 2) if wide_above else (_THIN / 2, _WIDE / 2)
    corners = [
        (_RIGHT - wide, top),
        (_RIGHT + wide, top),
        (_RIGHT + thin, top + 58),
        (_RIGHT - thin, top + 58),
    ]
    outline = " ".join(f"{x:g},{y:g}" for x, y in corners)
    letter, words = (top + 45, top + 21) if wide_above else (top + 25, top + 46)
    return (
        f'<polygon points="{outline}" class="panel lora-line" stroke-width="1.5"'
        ' stroke-linejoin="round"/>'
        + svg.text(_RIGHT, letter, name, "ink mid big")
        + svg.text(_RIGHT, words, shape, "faint mid small")
    )


def flow_words(layer: LoraLayer) -> str:
    """What is seen, for who does not see it."""
    d, k, r = (count_text(n) for n in (layer.d, layer.k, layer.r))
    w, a, b = (
        shape_text(*sizes) for sizes in ((layer.d, layer.k), (layer.r, layer.k), (layer.d, layer.r))
    )
    return (
        f"Two paths from x to h. On the left x, {k} numbers a token, goes through the frozen W of"
        f" {w}. On the right it goes through A of {a}, which makes {r} numbers of it, then through"
        f" B of {b}, and is multiplied by alpha / r = {layer.scaling:.3g}. Both are added: h = W x"
        f" + (alpha / r) B (A x), {d} numbers a token."
    )
