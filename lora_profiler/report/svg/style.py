"""The style sheet of all figures on a page: the colours of the palette by name, and how a plane
lies in its place."""

from functools import cache
from importlib.resources import files

from lora_profiler.report.palette import (
    BODY_PX,
    CELL_PX,
    FONT,
    HEAD_PX,
    PAPER,
    SMALL_PX,
    Theme,
    all_colours,
    colour,
)


@cache
def figure_style(theme: Theme | None = None) -> str:
    """Stands once on a page. Without `theme` light, and dark where the reader asks for it on a
    screen."""
    scale = (CELL_PX, SMALL_PX, BODY_PX, HEAD_PX)
    sizes = "".join(f".lp-plane .t{px}{{font-size:{px}px}}" for px in scale)
    own = files("lora_profiler.report.svg").joinpath("figures.css").read_text("utf-8")
    dark = f"@media screen and (prefers-color-scheme:dark){{:root{{{_colours('dark')}}}}}\n"
    return (
        f":root{{{_colours(theme or 'light')}--lp-around:var(--c{_name(PAPER.light)})}}\n"
        f"{'' if theme else dark}.lp-drawing{{font-family:{FONT}}}\n{_classes()}\n{sizes}\n{own}"
    )


def _colours(theme: Theme) -> str:
    """Each under the name of what it is in the light."""
    found = {_name(of.light): colour(of, theme) for of in all_colours()}
    return "".join(f"--c{name}:{value};" for name, value in found.items())


def _classes() -> str:
    """One that fills and one that draws for every colour: `marks.fill`, `marks.stroke`."""
    names = dict.fromkeys(_name(of.light) for of in all_colours())
    return "".join(f".f{n}{{fill:var(--c{n})}}.s{n}{{stroke:var(--c{n})}}" for n in names)


def _name(light: str) -> str:
    return light.removeprefix("#")
