"""Content to one HTML file: the template filled, plotly.js and the numbers inside, and nothing that
reaches out."""

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from lora_profiler._printable import printable
from lora_profiler._versions import __version__
from lora_profiler.errors import UsageError
from lora_profiler.report import palette
from lora_profiler.report.charts import CONFIG
from lora_profiler.report.charts.labels import shortened
from lora_profiler.report.page.content import Content
from lora_profiler.report.page.embedded import json_text, packed
from lora_profiler.report.page.parts import drawings

if TYPE_CHECKING:
    from jinja2 import Environment

INSTALL = "pip install 'lora-profiler[report]'"
LONGEST_TEXT = 600
"""Characters of one text: no name or reason from elsewhere fills the page."""
_TEMPLATES = "lora_profiler.report.page"


def check_installed() -> None:
    """Raises UsageError where jinja2 or plotly is missing; for commands, before they do any
    work."""
    from importlib.util import find_spec

    missing = [name for name in ("jinja2", "plotly") if find_spec(name) is None]
    if missing:
        raise UsageError(f"the report needs {' and '.join(missing)}: {INSTALL}")


def write_page(content: Content) -> str:
    """The page as HTML. The same content gives the same bytes with the same version of plotly and
    this program.

    Raises UsageError where jinja2 or plotly is not installed.
    """
    check_installed()
    from plotly.offline import get_plotlyjs, get_plotlyjs_version

    plotly_js, script = get_plotlyjs(), _text("page.js")
    figures = {d.name: d.figure for section in content.sections for d in drawings(section.parts)}
    settings = {"config": CONFIG, "dark": palette.DARK_OF, "figures": figures}
    blocks = {"data": json_text(content.data), "figures": json_text(settings)}
    page: str = (
        _environment()
        .get_template("page.html.j2")
        .render(
            content=content,
            policy=_policy(script, plotly_js),
            style=_trusted(_variables() + _text("page.css")),
            script=_trusted(script),
            blocks=[(name, *_embedded(text)) for name, text in blocks.items()]
            + [("plotly", *_embedded(plotly_js))],
            generator=f"lora-profiler {__version__}, plotly.js {get_plotlyjs_version()}",
        )
    )
    return page


def _embedded(text: str) -> tuple[str, bool]:
    found, is_packed = packed(text)
    return _trusted(found), is_packed


def _policy(*scripts: str) -> str:
    """Nothing is loaded and nobody is told: only these scripts run, by their hash; styles and
    pictures are the page's own."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode('utf-8')).digest()).decode('ascii')}'"
        for s in scripts
    )
    parts = {
        "default-src": "'none'",
        "script-src": hashes,
        "style-src": "'unsafe-inline'",
        "img-src": "data: blob:",
        "connect-src": "'none'",
        "form-action": "'none'",
        "base-uri": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items())


def _variables() -> str:
    """The palette as CSS variables, light, and dark where that is asked for."""
    named = {
        "paper": palette.PAPER,
        "panel": palette.PANEL,
        "ink": palette.INK,
        "faint": palette.FAINT_INK,
        "line": palette.LINE,
        "accent": palette.ACCENT,
        "warning": palette.WARNING,
    }
    light = "".join(f"--{name}:{colour.light};" for name, colour in named.items())
    dark = "".join(f"--{name}:{colour.dark};" for name, colour in named.items())
    return (
        f":root{{{light}--font:{palette.FONT}}}\n@media screen and (prefers-color-scheme:"
        f" dark){{:root{{{dark}}}}}\n"
    )


# --- the template ---------------------------------------------------------------------------------


def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(_TEMPLATES, "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_fit_to_show,
    )
    environment.tests["kind"] = lambda part, name: type(part).__name__ == name
    return environment


def _fit_to_show(value: Any) -> Any:
    """Every text that the template shows: printable, and of a length that can be read."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return shortened(printable(value), LONGEST_TEXT)
    return value


def _trusted(text: str) -> str:
    """Text of this program's own, or made safe by `embedded`, that the template takes as it is."""
    from markupsafe import Markup

    return Markup(text)


def _text(name: str) -> str:
    return files(_TEMPLATES).joinpath("template", name).read_text("utf-8")
