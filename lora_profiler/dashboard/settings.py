"""How the dashboard is served: on this machine alone, asking nobody for anything. No module here loads streamlit."""

from pathlib import Path
from typing import Final

SCRIPT = Path(__file__).with_name("main.py")
"""What `streamlit run` is given."""
FIRST_PORT = 8501
UPLOAD_MIB = 64
"""A file of records or a config.json: the largest that may be uploaded."""

SERVED: Final[dict[str, str | int | bool | list[str]]] = {
    "server.address": "127.0.0.1",
    "server.allowedHosts": ["127.0.0.1", "localhost"],
    "server.fileWatcherType": "none",
    "server.maxUploadSize": UPLOAD_MIB,
    "server.showEmailPrompt": False,
    "browser.gatherUsageStats": False,
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "type",
    "client.showErrorLinks": False,
    "runner.magicEnabled": False,
}
"""`.streamlit/config.toml` says the same for `streamlit run app.py`."""


def flags(port: int, *, headless: bool) -> list[str]:
    """The options of `streamlit run`."""
    settings = {**SERVED, "server.port": port, "server.headless": headless, "logger.hideWelcomeMessage": True}
    return [f"--{name}={text}" for name, value in settings.items() for text in _texts(value)]


def _texts(value: object) -> list[str]:
    if isinstance(value, list):
        return value
    return [str(value).lower() if isinstance(value, bool) else str(value)]
