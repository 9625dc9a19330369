"""The browser of the system, and whether a machine must have one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NEEDED = os.environ.get("LORA_PROFILER_NEEDS_BROWSER")
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROGRAM = next(filter(None, map(shutil.which, PROGRAMS)), None)


def require() -> None:
    """Skips the test where there is no browser, or fails it where one is needed."""
    if PROGRAM is None:
        reason = f"no browser: install one of {', '.join(PROGRAMS)}"
        pytest.fail(reason) if NEEDED else pytest.skip(reason)


@contextmanager
def launched(*arguments: str) -> Iterator[Any]:
    """A running one."""
    require()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox", *arguments])
        yield found
        found.close()
