"""The dashboard from its start to its end: says where it is, opens it in the browser, and leaves
nothing running."""

import asyncio
import tempfile
import threading
import webbrowser
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from html import escape
from pathlib import Path

import click
from starlette.middleware import Middleware
from streamlit import config
from streamlit.starlette import App

from lora_profiler.dashboard import following
from lora_profiler.dashboard.door import PARAMETER, TOKEN, Door

PAGES = Path(__file__).with_name("main.py")
"""What runs anew at every change of a page."""
MIDDLEWARE = (Middleware(Door),)


@asynccontextmanager
async def lifespan(_: App) -> AsyncIterator[None]:
    """From the port being bound until the last page is gone."""
    host, port = (
        config.get_option("server.address") or "127.0.0.1",
        config.get_option("server.port"),
    )
    address = f"http://{host}:{port}/?{PARAMETER}={TOKEN}"
    click.echo(f"Dashboard on {address} (Ctrl-C ends it)", err=True)
    with nullcontext() if config.get_option("server.headless") else opened(address):
        yield
    await asyncio.to_thread(following.end_all)


@contextmanager
def opened(address: str) -> Iterator[None]:
    """Has the browser open the address by way of a file of this user's alone: all users see what a
    browser is started with."""
    with tempfile.TemporaryDirectory(prefix="lora-profiler-") as folder:
        page = Path(folder) / "dashboard.html"
        page.write_text(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(address)}">\n',
            "utf-8",
        )
        threading.Thread(target=webbrowser.open, args=(page.as_uri(),), daemon=True).start()
        yield
