"""Content to one HTML file: the template filled, figures drawn and the numbers inside, and nothing
that reaches out."""

import base64
import hashlib

from lora_profiler._common.versions import __version__
from lora_profiler.errors import UsageError
from lora_profiler.report.page.content import Content
from lora_profiler.report.page.embedded import json_text, packed
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
