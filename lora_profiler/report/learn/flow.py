"""The two paths of a layer with LoRA, as a diagram of data that flows from x at the top to h at the
bottom: `flow.svg`, with the sizes put into it."""

from html import escape
from importlib.resources import files
from string import Template

from lora_profiler.report.learn.layer import LoraLayer
from lora_profiler.report.palette import Theme
from lora_profiler.report.svg.picture import style
from lora_profiler.units import count_text, shape_text


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
