"""The templates of the report and the dashboard: jinja2, which escapes every text, so that no name,
path or message is markup whatever it contains."""

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from lora_profiler._common.printable import printable
from lora_profiler.report import palette
from lora_profiler.report.charts.plot import shortened
from lora_profiler.report.palette import Colour, Theme, colour

if TYPE_CHECKING:
    from jinja2 import Environment

_PACKAGE = "lora_profiler.report.page"
_COLOURS: Final[dict[str, Colour]] = {
    "paper": palette.PAPER,
    "panel": palette.PANEL,
    "ink": palette.INK,
    "faint": palette.FAINT_INK,
    "line": palette.LINE,
    "accent": palette.ACCENT,
    "warning": palette.WARNING,
}


def colour_variables(theme: Theme) -> str:
    """The palette as the style sheets name it: '--lp-paper:#ffffff;...'."""
    return "".join(f"--lp-{name}:{colour(of, theme)};" for name, of in _COLOURS.items())


@cache
def template_text(name: str) -> str:
    """A style sheet or a script of the folder of templates; `blocks.css` is that of all pages."""
    return files(_PACKAGE).joinpath("template", name).read_text("utf-8")


@cache
def environment(longest: int | None = None) -> "Environment":
    """The templates. Every text that they show is printable, and at most `longest` characters
    long."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(_PACKAGE, "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_fit_to_show(longest),
    )
    environment.tests["kind"] = lambda part, name: type(part).__name__ == name
    return environment


def drawn(macro: str, *arguments: object) -> str:
    """A piece of a page: what the macro of `blocks.html.j2` makes of the arguments."""
    return str(getattr(_blocks(), macro)(*arguments))


@cache
def _blocks() -> Any:
    return environment().get_template("blocks.html.j2").module


def _fit_to_show(longest: int | None) -> Callable[[Any], Any]:
    def fit(value: Any) -> Any:
        if not isinstance(value, str) or hasattr(value, "__html__"):
            return value
        text = printable(value)
        return text if longest is None else shortened(text, longest)

    return fit


def trusted(text: str) -> str:
    """Text of this program's own, or made safe by `embedded`, that a template takes as it is."""
    from markupsafe import Markup

    return Markup(text)
