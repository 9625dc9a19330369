"""Content to one HTML file: the template filled, figures drawn and the numbers inside, and nothing
that reaches out."""

import base64
import hashlib
import json
import re
import zlib
from typing import Any

from lora_profiler._common.versions import __version__
from lora_profiler.errors import UsageError
from lora_profiler.report.page.content import Content
from lora_profiler.report.page.markup import colour_variables, environment, template_text, trusted
from lora_profiler.report.page.parts import Drawing
from lora_profiler.report.palette import FONT
from lora_profiler.report.svg import figure_html, figure_style

INSTALL = "pip install 'lora-profiler[report]'"
LONGEST_TEXT = 600
"""Characters of one text: no name or reason from elsewhere fills the page."""


def check_installed() -> None:
    """Raises UsageError where jinja2 is missing; for commands, before they do any work."""
    from importlib.util import find_spec

    if find_spec("jinja2") is None:
        raise UsageError(f"the report needs jinja2: {INSTALL}")


def write_page(content: Content) -> str:
    """The page as HTML. The same content gives the same bytes with the same version of this
    program.

    Raises UsageError where jinja2 is not installed.
    """
    check_installed()
    script = template_text("page.js")
    page: str = (
        environment(LONGEST_TEXT)
        .get_template("page.html.j2")
        .render(
            content=content,
            policy=_policy(script),
            style=trusted(_style()),
            script=trusted(script),
            blocks=[("data", *_embedded(json_text(content.data)))],
            svg=_svg,
            generator=f"lora-profiler {__version__}",
        )
    )
    return page


def _svg(it: Drawing) -> str:
    return trusted(figure_html(it.figure, it.name, it.description))


def _embedded(text: str) -> tuple[str, bool]:
    content, is_packed = packed(text)
    return trusted(content), is_packed


def _style() -> str:
    """Light, and dark where that is asked for."""
    light, dark = colour_variables("light"), colour_variables("dark")
    return (
        f":root{{{light}--lp-font:{FONT}}}\n@media screen and (prefers-color-scheme:"
        f" dark){{:root{{{dark}}}}}\n{figure_style()}\n{template_text('page.css')}"
        f"{template_text('blocks.css')}"
    )


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


PACKED_ABOVE = 50_000
"""Characters: longer texts are deflated (zlib) and written in base64, which browsers undo by
themselves."""
DATA_ID = "data"


def packed(text: str) -> tuple[str, bool]:
    """(what stands in the element, whether it is packed). JSON and base64 alone may stand there as
    they are."""
    if len(text) <= PACKED_ABOVE:
        return text, False
    return base64.b64encode(zlib.compress(text.encode("utf-8"), 9)).decode("ascii"), True


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
