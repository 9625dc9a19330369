"""What pages are put together from: text, tables, figures and downloads, in one look."""

import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from lora_profiler._common.messages import printable
from lora_profiler.report import figures, palette
from lora_profiler.report.blocks import Bars, Block, Card, Drawing
from lora_profiler.report.charts.plot import Figure, label
from lora_profiler.report.page.write import colour_variables, drawn, environment, template_text
from lora_profiler.report.palette import Theme
from lora_profiler.units import error_text

if TYPE_CHECKING:
    from pandas import DataFrame
    from pandas.io.formats.style import Styler

Width = Literal["stretch", "content"]
MOST_WRITTEN = 1000
"""Rows of a table whose numbers are written one by one: of ten thousand that takes 3 s."""
Offer = tuple[str, str, str, Callable[[], str]]
"""A download: its label, file name and MIME type, and what makes the text when it is asked for."""


def style() -> None:
    """Once a run, before anything else."""
    verdicts = palette.VERDICT_COLOURS.items()
    more = "".join(f"--lp-is-{name}:{palette.colour(of, theme())};" for name, of in verdicts)
    colours = f":root {{ {colour_variables(theme())} {more} }}"
    own = own_text("style.css") + template_text("blocks.css")
    st.html(f"<style>{colours} {own}</style>")
    mounted = st.components.v2.component("lora_profiler.turned", js=own_text("turned.js"))
    mounted(key="turned", data=theme(), on_turned_change=lambda: None)


@cache
def own_text(name: str) -> str:
    return files("lora_profiler.dashboard").joinpath(name).read_text("utf-8")


def theme() -> Theme:
    return "dark" if st.context.theme.type == "dark" else "light"


def beside() -> tuple[DeltaGenerator, DeltaGenerator]:
    """Where a page is drawn, and where its settings are: beside it, below it on a phone."""
    with st.container(key="beside"):
        main, aside = st.columns([3, 1], gap="large")
    return main, aside


def title(text: str, *lines: str) -> None:
    st.html(drawn("title", text, lines))


def section(text: str) -> None:
    st.html(drawn("section", text))


def piece(macro: str, *arguments: object, width: Width = "stretch") -> None:
    st.html(str(getattr(_pieces(), macro)(*arguments)), width=width)


@cache
def _pieces() -> Any:
    from jinja2 import PackageLoader

    loader = PackageLoader("lora_profiler.dashboard", "template")
    return environment().overlay(loader=loader).get_template("first_screen.html.j2").module


def words(text: str, name: str = "") -> None:
    piece("words", text, name, width="content")


def head(text: str) -> None:
    piece("head", text)


def mark(keys: Iterable[str]) -> None:
    """Marks the labels of the widgets with these keys as changed."""
    names = ", ".join(f".st-key-{re.sub('[^a-zA-Z0-9_-]', '-', key)} label p" for key in keys)
    if names:
        st.html(f"<style>:is({names}) {{ font-weight: 700; }}</style>")


def plain(text: str) -> str:
    """`text` for the label of a widget: every mark of Markdown in it stands for itself."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", printable(text))


def blocks(content: Iterable[Block]) -> None:
    st.html(drawn("blocks", content))


def bars(it: Bars, chosen: str) -> None:
    """Memory on one scale; `chosen` is the name of the bar that is marked."""
    st.html(f'<div class="lp">{drawn("bars", it, chosen)}</div>')


def cards(items: Sequence[Card]) -> None:
    st.html(f'<div class="lp">{drawn("cards", items, 2)}</div>')


def picture(svg: str, says: str) -> None:
    """As an image, since streamlit takes SVG out of a page's own HTML."""
    source = f"data:image/svg+xml;base64,{b64encode(svg.encode('utf-8')).decode('ascii')}"
    st.html(drawn("picture", source, says))


def small(*lines: str) -> None:
    if lines:
        st.html(drawn("small", lines))


def problem(text: str, *more: str, heading: str = "") -> None:
    st.html(drawn("note", "problem", (text, *more), heading))


def caution(*lines: str) -> None:
    st.html(drawn("note", "caution", lines, ""))


def passed_over(lines: Sequence[str], where: str = "") -> None:
    """What could not be taken, all of it in one place."""
    if lines:
        heading = " ".join(filter(None, ("Ignored", where)))
        st.html(drawn("note", "caution", lines, heading))


def note(*lines: str, heading: str = "") -> None:
    st.html(drawn("note", "note", lines, heading))


def drawing(it: Drawing | None, key: str, *, nothing: Sequence[str] = ()) -> None:
    """A figure and the lines under it, else why there is `nothing` to draw. Its caption is the
    section's head, its numbers stand in the page's tables."""
    if it is None:
        note(*nothing)
        return
    figure(it.figure, key, it.description, it.caption)
    small(*it.lines)


def figure(drawn: Figure, key: str, says: str, caption: str = "") -> None:
    """A figure of `report.charts`. `says` is what a screen reader is told, `caption`
    or its first sentence, stands above a saved picture."""
    mounted = st.components.v2.component(
        "lora_profiler.figure",
        html='<div class="figure"><div class="lp-plot" role="img"></div></div>',
        js=own_text("figure.js"),
        isolate_styles=False,
    )
    words = {"name": key, "says": printable(says), "caption": label(caption or says, 200)}
    shade = figures.colours("dark") if theme() == "dark" else {}
    mounted(key=key, data={"figure": drawn, **words, "look": figures.look(), "colours": shade})


def written(
    frame: "DataFrame", texts: Mapping[str, Callable[[float], str]]
) -> "DataFrame | Styler":
    """A table to sort whose columns read as `texts` has it, unless it has very many rows."""
    return frame.style.format(texts, na_rep="-") if len(frame) <= MOST_WRITTEN else frame


def chosen_row(
    shown: "DataFrame | Styler",
    key: str,
    says: str,
    formats: Mapping[str, str],
    *,
    height: int | Literal["auto"] = "auto",
) -> int | None:
    """A table to sort and choose a row of, and the place of the chosen row; numbers of the columns
    in `formats` are written so. `says` is what a screen reader is told."""
    picked = st.dataframe(
        shown,
        hide_index=True,
        placeholder="-",
        key=key,
        on_select="rerun",
        selection_mode="single-row",
        height=height,
        column_config={
            name: st.column_config.NumberColumn(format=text) for name, text in formats.items()
        },
        alt=says,
    )
    count = len(getattr(shown, "data", shown))  # of a styled one
    return next((row for row in picked["selection"]["rows"] if row < count), None)


def percents_off(percents: float) -> str:
    """A signed error for a column of per cent: '+0.47', '<0.01', 'exact'."""
    return error_text(percents / 100).removesuffix(" %")


def two_decimals(number: float) -> str:
    return f"{number:,.2f}"


def downloads(key: str, offers: Sequence[Offer]) -> None:
    with st.container(horizontal=True, gap="small"):
        for label, name, mime, make in offers:
            st.download_button(
                label, make, file_name=name, mime=mime, key=f"{key}.{name}", on_click="ignore"
            )


def fold(label: str, key: str, draw: Callable[[], object]) -> None:
    place = st.expander(label, key=key, on_change="rerun")
    if place.open:
        with place:
            draw()


def choose(
    label: str,
    options: Sequence[str],
    default: str,
    key: str,
    words: Mapping[str, str] | None = None,
) -> str:
    """One of a few, shown in `words`: the one chosen before if it is there, else `default`."""
    if st.session_state.get(key) not in options:
        st.session_state[key] = default
    if len(options) == 1:
        return default
    shown = words or {}
    return (
        st.segmented_control(
            label, options, key=key, required=True, format_func=lambda o: shown.get(o, o)
        )
        or default
    )


T = TypeVar("T")
MOST = 8
"""Answers of one kind that are kept: those of the questions asked last."""


def once(key: str, question: object, find: Callable[[], T], says: str) -> T:
    """What was found for `question` before, else what `find` finds now, under a spinner that `says`
    what goes on. `question` has an equality of its own."""
    kept: list[tuple[Any, T]] = st.session_state.setdefault(f"once.{key}", [])
    for before, value in kept:
        if before == question:
            return value
    with st.spinner(says, show_time=True):
        value = find()
    kept.append((question, value))
    del kept[:-MOST]
    return value
