"""Content to one HTML file: the template filled, figures drawn and the numbers inside, and nothing
that reaches out. The templates are the dashboard's too; jinja2 escapes every text in them."""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from lora_profiler._common.messages import printable
from lora_profiler._common.packages import __version__, missing
from lora_profiler.errors import UsageError
from lora_profiler.report import figures, palette
from lora_profiler.report.answer.verdicts import PARTS
from lora_profiler.report.blocks import Block, drawings
from lora_profiler.report.charts.plot import shortened
from lora_profiler.report.page.content import Content
from lora_profiler.report.palette import FONT, Colour, Theme, colour
from lora_profiler.report.terminal import SIGNS

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
    **{f"of-{part}": palette.CATEGORY_PAINTS[of[0]].colour for part, of in PARTS.items()},
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
    """The templates, whose texts are printable and at most `longest` characters long."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    def fit(value: Any) -> Any:
        if not isinstance(value, str) or hasattr(value, "__html__"):
            return value
        text = printable(value)
        return text if longest is None else shortened(text, longest)

    environment = Environment(
        loader=PackageLoader(_PACKAGE, "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=fit,
    )
    environment.tests["kind"] = lambda part, name: type(part).__name__ == name
    environment.globals["signs"] = SIGNS
    return environment


def drawn(macro: str, *arguments: object) -> str:
    """A piece of a page: what the macro of `blocks.html.j2` makes of the arguments."""
    module = environment().get_template("blocks.html.j2").module
    return str(getattr(module, macro)(*arguments))


def in_notebook(blocks: Sequence[Block]) -> str:
    """The blocks as the output of a cell, in the ink of the notebook's own theme."""
    own = (
        "--lp-ink:currentColor;--lp-faint:color-mix(in srgb,currentColor 65%,transparent);"
        "--lp-paper:transparent;--lp-panel:transparent;max-width:56rem"
    )
    sheet = template_text("blocks.css")
    look = f"{colour_variables('light')}{own}"
    return f'<div style="{look}"><style>{sheet}</style>{drawn("blocks", blocks)}</div>'


def trusted(text: str) -> str:
    """Text of this program's own, or made safe by `embedded`, that a template takes as it is."""
    from markupsafe import Markup

    return Markup(text)


# --- the page -------------------------------------------------------------------------------------

LONGEST_TEXT = 600
"""Characters of one text: no name or reason from elsewhere fills the page."""


def check_installed() -> None:
    """Raises UsageError where jinja2 is missing; for commands, before they do any work."""
    if missing(["jinja2"]):
        raise UsageError("the report needs jinja2: pip install 'lora-profiler[report]'")


def write_page(content: Content) -> str:
    """The page as HTML. The same content gives the same bytes with the same version of this
    program.

    Raises UsageError where jinja2 is not installed.
    """
    check_installed()
    shown = [drawing for section in content.sections for drawing in drawings(section.parts)]
    scripts = [figures.drawing_script(), template_text("page.js")]
    drawn = {
        "look": figures.look(),
        "dark": figures.colours("dark"),
        "figures": {drawing.name: drawing.figure for drawing in shown},
    }
    blocks = [
        (name, trusted(text), packing)
        for name, document in ((DATA_ID, content.data), ("figures", drawn))
        for text, packing in [packed(json_text(document))]
    ]
    if shown:
        blocks.append(("plotly", trusted(figures.packed_plotly()), "gzip"))
    light, dark = colour_variables("light"), colour_variables("dark")
    style = (  # light, and dark where that is asked for
        f":root{{{light}--lp-font:{FONT}}}\n@media screen and (prefers-color-scheme:"
        f" dark){{:root{{{dark}}}}}\n{template_text('page.css')}"
        f"{template_text('blocks.css')}"
    )
    template = environment(LONGEST_TEXT).get_template("page.html.j2")
    page: str = template.render(
        content=content,
        policy=_policy([*scripts, figures.plotly_script()]),
        style=trusted(style),
        scripts=list(map(trusted, scripts)),
        blocks=blocks,
        generator=f"lora-profiler {__version__}",
    )
    return page


def _policy(scripts: Iterable[str]) -> str:
    """Nothing is loaded, nobody is told: only these scripts run, by hash; styles are its own."""
    digests = (hashlib.sha256(script.encode("utf-8")).digest() for script in scripts)
    allowed = (f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests)
    parts = {
        "default-src": "'none'",
        "script-src": " ".join(allowed),
        "style-src": "'unsafe-inline'",
        "img-src": "data: blob:",
        "connect-src": "'none'",
        "form-action": "'none'",
        "base-uri": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in parts.items())


PACKED_ABOVE = 50_000
"""Characters: longer texts are deflated (zlib) and written in base64, which browsers undo by
themselves."""
DATA_ID = "data"


def packed(text: str) -> tuple[str, str]:
    """(JSON, or base64 of it deflated, as either may stand in the element; "" or "deflate")."""
    if len(text) <= PACKED_ABOVE:
        return text, ""
    return base64.b64encode(zlib.compress(text.encode("utf-8"), 9)).decode("ascii"), "deflate"


def json_text(document: Any) -> str:
    """Compact JSON in ASCII that ends no script element and begins no comment in one."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def embedded_data(page: str) -> dict[str, Any]:
    """The numbers embedded in a page that `write_page` made, back as they went in. Raises
    ValueError where there are none."""
    found = re.search(rf'<script[^>]*id="{DATA_ID}"([^>]*)>([^<]*)</script>', page)
    if found is None:
        raise ValueError("this page holds no data of lora-profiler.")
    is_packed, text = "data-packed" in found[1], found[2]
    if is_packed:
        text = zlib.decompress(base64.b64decode(text)).decode("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document
