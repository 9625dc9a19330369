"""Content to one HTML file: the template filled, plotly.js and the numbers inside, and nothing that
reaches out."""

import base64
import hashlib

from lora_profiler._common.versions import __version__
from lora_profiler.errors import UsageError
from lora_profiler.report.charts import CONFIG
from lora_profiler.report.page.content import Content
from lora_profiler.report.page.embedded import json_text, packed
from lora_profiler.report.page.markup import colour_variables, environment, template_text, trusted
from lora_profiler.report.page.parts import drawings
from lora_profiler.report.palette import DARK_OF, FONT

INSTALL = "pip install 'lora-profiler[report]'"
LONGEST_TEXT = 600
"""Characters of one text: no name or reason from elsewhere fills the page."""


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

    plotly_js, script = get_plotlyjs(), template_text("page.js")
    figures = {d.name: d.figure for section in content.sections for d in drawings(section.parts)}
    settings = {"config": CONFIG, "dark": DARK_OF, "figures": figures}
    blocks = {"data": json_text(content.data), "figures": json_text(settings)}
    page: str = (
        environment(LONGEST_TEXT)
        .get_template("page.html.j2")
        .render(
            content=content,
            policy=_policy(script, plotly_js),
            style=trusted(_style()),
            script=trusted(script),
            blocks=[(name, *_embedded(text)) for name, text in blocks.items()]
            + [("plotly", *_embedded(plotly_js))],
            generator=f"lora-profiler {__version__}, plotly.js {get_plotlyjs_version()}",
        )
    )
    return page


def _embedded(text: str) -> tuple[str, bool]:
    content, is_packed = packed(text)
    return trusted(content), is_packed


def _style() -> str:
    """Light, and dark where that is asked for."""
    light, dark = colour_variables("light"), colour_variables("dark")
    return (
        f":root{{{light}--lp-font:{FONT}}}\n@media screen and (prefers-color-scheme:"
        f" dark){{:root{{{dark}}}}}\n{template_text('page.css')}{template_text('blocks.css')}"
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
