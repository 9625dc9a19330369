"""The dashboard from its start to its end: says where it is, opens it in the browser, and leaves
nothing running; and its door: whoever holds the token of its address comes in, from its own pages,
and nobody else.

Every user and program of a machine reaches 127.0.0.1, and every web page can have its reader's
browser ask there. So the token is asked for before anything is answered, and a connection that
drives the pages must come from them. The token is exchanged for a cookie at once and leaves the
address: a copied link holds the question alone, and still opens in the same browser.

A browser sends a cookie to every port of a host. Another server on 127.0.0.1 that its user visits
could read this one; it could not be kept from it without a script of its own in every page."""

import asyncio
import json
import secrets
import tempfile
import threading
import webbrowser
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from html import escape
from pathlib import Path
from typing import Final

import click
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose
from streamlit import config
from streamlit.starlette import App

import lora_profiler
from lora_profiler.dashboard import following
from lora_profiler.report import figures
from lora_profiler.report.palette import ACCENT, FONT, INK, LINE, PANEL, PAPER, Theme, colour

# --- serving --------------------------------------------------------------------------------------

TOKEN: Final = secrets.token_urlsafe(32)
"""Of this process; nowhere but in its memory, the address that it shows, and the browser that
opened it."""
PARAMETER: Final = "token"
_HERE, _EVERYWHERE = "127.0.0.1", "0.0.0.0"
"""What a browser is given, and what a container listens on."""
_HEALTH: Final = "/_stcore/health"
"""Says that a server is there, and no more."""
_CLOSED: Final = """<!doctype html><meta charset="utf-8"><title>lora-profiler</title>
<p style="font: 15px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem">
This dashboard answers the browser of the person who started it. Open the whole address that was printed where it was started;
it ends in a token. Afterwards links without the token work in this browser too.</p>
"""  # noqa: E501


class TokenGate:
    """Stands before `app`, as middleware does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] == _HEALTH:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            connection = HTTPConnection(scope)
            inside = (
                _has_cookie(connection)
                and connection.headers.get("origin") == f"http://{connection.headers.get('host')}"
            )
            await (self._app if inside else WebSocketClose(1008))(scope, receive, send)
        else:
            await (_answer(HTTPConnection(scope)) or self._app)(scope, receive, _unframed(send))


def _answer(connection: HTTPConnection) -> Response | None:
    """What is said instead of the page; None where the page is."""
    if _is_token(connection.query_params.get(PARAMETER, "")):
        response = RedirectResponse(
            connection.url.remove_query_params(PARAMETER), 303, {"Cache-Control": "no-store"}
        )
        # strict: a link in a letter would not open
        response.set_cookie(_cookie(connection), TOKEN, httponly=True, samesite="lax")
        return response
    if _has_cookie(connection):
        return None
    return HTMLResponse(_CLOSED, 403, {"Cache-Control": "no-store"})


def _has_cookie(connection: HTTPConnection) -> bool:
    return _is_token(connection.cookies.get(_cookie(connection), ""))


def _cookie(connection: HTTPConnection) -> str:
    """One for each port, so that two dashboards do not turn each other's browser out."""
    server = connection.scope.get("server") or ("", 0)
    return f"lora_profiler_{server[1]}"


def _is_token(text: str) -> bool:
    return secrets.compare_digest(text.encode(), TOKEN.encode())


def _unframed(send: Send) -> Send:
    """No page of another may hold this one in a frame and have its reader press what is not
    seen."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Content-Security-Policy"] = "frame-ancestors 'none'"
        await send(message)

    return sent


PAGES = Path(__file__).with_name("main.py")
"""What runs anew at every change of a page."""
MIDDLEWARE = (Middleware(TokenGate),)


async def _figures(_: Request) -> Response:
    text = figures.plotly_script() + figures.drawing_script()
    return Response(text, media_type="text/javascript", headers={"Cache-Control": "no-cache"})


ROUTES = (Route("/lora-profiler/figures.js", _figures),)
"""What draws figures in the browser (`figure.js`)."""


@asynccontextmanager
async def lifespan(_: App) -> AsyncIterator[None]:
    """From the port being bound until the last page is gone."""
    host, port = (config.get_option("server.address") or _HERE, config.get_option("server.port"))
    host = _HERE if host == _EVERYWHERE else host
    address = f"http://{host}:{port}/?{PARAMETER}={TOKEN}"
    click.echo(f"Dashboard on {address} (Ctrl-C ends it)", err=True)
    with nullcontext() if config.get_option("server.headless") else opened(address):
        yield
    await asyncio.to_thread(following.end_all)


@contextmanager
def opened(address: str) -> Iterator[None]:
    """Opens the address by a file of this user's alone: all see how a browser is started."""
    with tempfile.TemporaryDirectory(prefix="lora-profiler-") as folder:
        page = Path(folder) / "dashboard.html"
        page.write_text(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(address)}">\n',
            "utf-8",
        )
        threading.Thread(target=webbrowser.open, args=(page.as_uri(),), daemon=True).start()
        yield


# --- folders that the wheel takes -----------------------------------------------------------------


def shipped(folder: str) -> Path | None:
    """That of the checkout, or its copy in the installed package; None where there is neither."""
    package = Path(lora_profiler.__file__).resolve().parent
    places = (package.parent / folder, package / "shipped" / folder)
    return next((place for place in places if place.is_dir()), None)


# --- settings of streamlit ------------------------------------------------------------------------

# Settings for streamlit: it serves this machine alone and sends nothing anywhere, in the colours
# and the type of the figures.

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
        "# Written by `python -m lora_profiler.dashboard.serving`, as `lora-profile app` has it."
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
