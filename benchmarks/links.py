"""Links that a stranger could send to whoever runs the dashboard: how long each takes to draw, and
whether the server goes on.

    python -m benchmarks.links [--write]

Opens each in the system's Chromium on a running dashboard, while the server's health is asked
twenty times a second. A pattern that takes Python's engine for ever froze the server before
patterns were matched in a process of their own. --write puts the result into benchmarks/results/.
Needs Chromium.
"""

import argparse
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from benchmarks.dashboard import PORT, RESULTS, chromium, dashboard, settle

PATTERNS = (
    "(.*)*(.*)*(.*)*x",
    "(([a-z_.0-9])*)*!",
    "(.|..)*Z",
    r"^(\w+\.?)+$!",
    "(?:[a-z]|[a-z]\\.?|[0-9_.])*!",
    "(" * 5000,
    "a{99999999999999}",
)
LINKS = {
    **{
        f"pattern {p if len(p) < 40 else p[:8] + '...'}": (
            f"model=gpt2&method=lora&targets=re:{quote(p)}"
        )
        for p in PATTERNS
    },
    "markup as the model": "model=" + quote("<script>alert(1)</script>"),
    "markup as a target": "model=gpt2&method=lora&targets=" + quote("<img src=x onerror=alert(1)>"),
    "a path": "model=/etc/passwd",
    "a path upwards": "model=../../../../etc/passwd",
    "a device": "model=/dev/zero",
    "an address": "model=" + quote("http://169.254.169.254/latest"),
    "sizes of 2^31": "model=gpt2&batch_size=2147483648&seq_len=2147483648",
    "the largest sizes": (
        "model=gpt2&batch_size=2147483647&seq_len=2147483647&rank=2147483647&method=lora"
    ),
    "infinite alpha": "model=gpt2&method=lora&alpha=inf",
    "a million ranks": "model=gpt2&world_size=1048576&sharding=fsdp",
    "a long name": "model=" + "a" * 4000,
}


class Drawn(NamedTuple):
    """Seconds until the page stood, the longest wait for the server's health meanwhile, and dialogs
    that opened."""

    seconds: float
    health_seconds: float
    dialogs: int


def watched(stop: threading.Event, waits: list[float]) -> None:
    while not stop.is_set():
        began = time.perf_counter()
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{PORT}/_stcore/health", timeout=30
            ) as answer:
                answer.read()
        except OSError:
            pass  # the wait says it
        waits.append(time.perf_counter() - began)
        time.sleep(0.05)


def drawn(browser: object, address: str) -> Drawn:
    page = browser.new_page(viewport={"width": 1440, "height": 900})  # type: ignore[attr-defined]
    page.set_default_timeout(60_000)
    dialogs: list[object] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog), dialog.dismiss()))
    stop, waits = threading.Event(), [0.0]
    watcher = threading.Thread(target=watched, args=(stop, waits))
    watcher.start()
    began = time.perf_counter()
    page.goto(address)
    page.locator('[data-testid="stMainBlockContainer"]').wait_for()
    settle(page)
    seconds = time.perf_counter() - began - 0.3  # that `settle` waits at its end
    stop.set()
    watcher.join()
    page.close()
    return Drawn(seconds, max(waits), len(dialogs))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.links", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--write", action="store_true", help="put the result into benchmarks/results/"
    )
    asked = parser.parse_args()
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        dashboard(Path(folder)) as (address, _),
        chromium() as browser,
    ):
        drawn(browser, address)  # what is imported when the first page is drawn is no link's doing
        for name, query in LINKS.items():
            found = drawn(browser, f"{address}&{query}")
            rows.append(
                f"| {name.replace('|', chr(92) + '|')} | {found.seconds:.2f} |"
                f" {found.health_seconds:.3f} | {found.dialogs} |"
            )
            print(rows[-1], flush=True)
    text = "\n".join(
        [
            "# Hostile links to the dashboard",
            "",
            __doc__.partition("\n")[0] + " Made by `python -m benchmarks.links --write`.",
            "",
            "| link | drawn after, s | longest wait for the server, s | dialogs |",
            "| --- | ---: | ---: | ---: |",
            *rows,
            "",
        ]
    )
    if asked.write:
        (RESULTS / "links.md").write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
