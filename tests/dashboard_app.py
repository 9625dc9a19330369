"""The dashboard without a browser: its pages run in this process, and what stands on them as
text."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

from lora_profiler.report.charts.plot import Figure

ROOT = Path(__file__).resolve().parent.parent


def opened(view: str = "", /, **params: str | list[str]) -> AppTest:
    """A new window on the address with these query parameters, with that tab open; underscores
    stand for dashes."""
    app = AppTest.from_file(
        str(ROOT / "lora_profiler" / "dashboard" / "main.py"), default_timeout=60
    )
    for name, value in params.items():
        app.query_params[name.replace("_", "-")] = value
    if view:
        app.session_state["view"] = view
    return app.run()


VIEWS = ("Timeline", "Breakdown", "Fit map", "Compare", "Explanation")
"""The tabs of Predict, of which only the one that is open is drawn."""


def viewed(app: AppTest, view: str) -> AppTest:
    """The page with that tab open."""
    app.session_state["view"] = view
    return app.run()


def with_all_settings(app: AppTest) -> AppTest:
    """The page with every option beside it."""
    return sound(app.toggle(key="settings.all").set_value(True).run())


def all_texts(app: AppTest) -> str:
    """What Predict says in all of its tabs: what stands above them once, then tab by tab."""
    found: list[str] = []
    for view in VIEWS:
        viewed(app, view)
        own = [text_of(element.value) for tab in app.tabs for element in tab.get("html")]
        found += own if found else map(text_of, written(app))
    return "\n".join(found)


def texts(app: AppTest) -> str:
    """All text of the page's own HTML, as a reader sees it; its notes and problems among it."""
    return "\n".join(map(text_of, written(app)))


def figures(app: AppTest) -> dict[str, Figure]:
    """Those that stand on the page, by key."""
    return {key: shown["figure"] for key, shown in drawings(app).items()}


def drawings(app: AppTest) -> dict[str, dict[str, Any]]:
    """What the browser is sent of each."""
    mounted = [element.proto for element in app.get("bidi_component")]
    return {
        proto.id.split("-", 2)[2]: json.loads(proto.json)
        for proto in mounted
        if proto.component_name == "lora_profiler.figure"
    }


def written(app: AppTest) -> list[str]:
    """The page's own HTML, without the style sheet."""
    return [element.value for element in app.html if not element.value.startswith("<style>")]


def text_of(html: str) -> str:
    reader = _Text()
    reader.feed(html)
    return re.sub(r"[ \n]*\n[ \n]*", "\n", "".join(reader.found)).strip()


def tags_of(html: str) -> set[str]:
    reader = _Text()
    reader.feed(html)
    return reader.tags


def problems(app: AppTest) -> list[str]:
    return [text_of(html) for html in written(app) if "lp-problem" in html]


def cautions(app: AppTest) -> list[str]:
    return [text_of(html) for html in written(app) if "lp-caution" in html]


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag in ("p", "tr", "h1", "h2", "h3", "section", "caption"):
            self.found.append("\n")
        elif tag in ("td", "th"):
            self.found.append("\t")

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def asked(app: AppTest) -> Any:
    """The question that the page holds."""
    return app.session_state["question"]


def choose(widget: Any, value: Any) -> AppTest:
    """The page after that was chosen there, on which nothing went wrong."""
    return sound(widget.set_value(value).run())


def sound(app: AppTest) -> AppTest:
    """The page, on which nothing went wrong."""
    assert not app.exception, app.exception
    assert not problems(app), problems(app)
    return app
