"""What streamlit is told: to serve this machine alone, to ask nobody for anything, in the colours
and the type of the figures."""

import json
from pathlib import Path
from typing import Final

from lora_profiler.report.palette import ACCENT, FONT, INK, LINE, PANEL, PAPER, Theme, colour

SCRIPT = Path(__file__).with_name("served.py")
"""What `streamlit run` is given."""
FIRST_PORT = 8501
UPLOAD_MIB = 64
"""A file of records or a config.json: the largest that may be uploaded."""

Setting = str | int | bool | list[str]


def _theme(theme: Theme) -> dict[str, Setting]:
    colours = {
        "primaryColor": ACCENT,
        "linkColor": ACCENT,
        "textColor": INK,
        "backgroundColor": PAPER,
        "secondaryBackgroundColor": PANEL,
        "borderColor": LINE,
        "dataframeBorderColor": LINE,
        "dataframeHeaderBackgroundColor": PANEL,
    }
    return {f"theme.{theme}.{name}": colour(of, theme) for name, of in colours.items()}


SERVED: Final[dict[str, Setting]] = {
    "server.address": "127.0.0.1",
    "server.allowedHosts": ["127.0.0.1", "localhost"],
    "server.fileWatcherType": "none",
    "server.maxUploadSize": UPLOAD_MIB,
    "server.showEmailPrompt": False,
    "browser.gatherUsageStats": False,
    "logger.hideWelcomeMessage": True,
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "type",
    "client.showErrorLinks": False,
    "runner.magicEnabled": False,
    "theme.font": FONT,
    "theme.baseRadius": "small",
    **_theme("light"),
    **_theme("dark"),
}


def flags(port: int, *, headless: bool) -> list[str]:
    """The options of `streamlit run`, which looks for no secrets in the user's home: one that
    cannot be read would be an error on every page."""
    settings = {
        **SERVED,
        "server.port": port,
        "server.headless": headless,
        "secrets.files": [str(SCRIPT.with_name("secrets.toml"))],  # there is none
    }
    return [f"--{name}={text}" for name, value in settings.items() for text in _texts(value)]


def _texts(value: Setting) -> list[str]:
    if isinstance(value, list):
        return value
    return [str(value).lower() if isinstance(value, bool) else str(value)]


def config_toml() -> str:
    """`.streamlit/config.toml`, which says the same for `streamlit run app.py`."""
    lines = [
        "# Written by `python -m lora_profiler.dashboard.settings`, as `lora-profile app` has it."
    ]
    section = ""
    for name, value in SERVED.items():
        head, _, key = name.rpartition(".")
        if head != section:
            section = head
            lines += ["", f"[{section}]"]
        lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(config_toml(), end="")
