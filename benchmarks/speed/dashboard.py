"""How long a person waits for the dashboard, in a real browser: the first numbers, an update, and
10,000 records.

    python -m benchmarks.speed.dashboard [--write | --render]

Starts `lora-profile app` as anybody does, in an empty user folder, and drives the system's
Chromium. Times are those of the browser's own clock, from the key or the address until the new
numbers stand in the page. --write puts the result into `results/dashboard.md` and
`results/dashboard.json`. Needs Chromium; without one it says so.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.pages import page_of, table
from benchmarks.runner import once
from lora_profiler._common.process import cpu_model
from lora_profiler.measuring.records.load import read_set
from lora_profiler.measuring.records.serialize import record_dict
from space import page as static_page

ROOT = Path(__file__).parents[1]
RECORDS = 10_000
UPDATES = 20
OPENINGS = 5
PORT = 8731
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

CHANGED = """([target]) => new Promise(done => {
    const began = performance.now();
    const there = () => [...document.querySelectorAll('.lp-bars .lp-line > span')].some(e => e.textContent.startsWith(target));
    const observer = new MutationObserver(() => { if (there()) { observer.disconnect(); done(performance.now() - began); } });
    observer.observe(document.body, {subtree: true, childList: true, characterData: true});
    document.querySelector('input[aria-label=Rank]')
        .dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', code: 'Enter', bubbles: true}));
})"""  # noqa: E501
"""Presses Enter in the field of the rank; the time until a bar names the new one."""
DRAGGED = """slider => [...Array(+slider.max + 1).keys()].map(place => {
    slider.value = place;
    const began = performance.now();
    slider.dispatchEvent(new Event('input', {bubbles: true}));
    document.body.getBoundingClientRect();
    return performance.now() - began;
})"""
"""Drags a slider over all of its stops; the times until the bars stand anew, laid out."""


def many_records(path: Path) -> int:
    """As many as with the committed ones, which are shown too, make RECORDS: these again, as other
    runs. The file's bytes."""
    found = read_set([ROOT / "records"]).records
    with open(path, "w", encoding="utf-8") as file:
        for number in range(RECORDS - len(found)):
            file.write(
                json.dumps(record_dict(replace(found[number % len(found)], repeat=number + 1)))
                + "\n"
            )
    return path.stat().st_size


@contextmanager
def dashboard(folder: Path, *arguments: str) -> Iterator[tuple[str, float]]:
    """(address with its token, to which a query is added with &; seconds until it answered)."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "lora_profiler",
            "app",
            "--no-browser",
            "--port",
            str(PORT),
            *arguments,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={
            **os.environ,
            "XDG_DATA_HOME": str(folder),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT.parent),
        },
    )
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        while not _answers():
            if process.poll() is not None:
                raise SystemExit(
                    f"the dashboard ended with {process.returncode}; is port {PORT} free?"
                )
            time.sleep(0.02)
        yield said.split()[2], time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def _answers() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/_stcore/health", timeout=1) as answer:
            return bool(answer.read() == b"ok")
    except OSError:
        return False


def settle(page: Any) -> None:
    page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for()
    page.wait_for_timeout(300)  # figures that were sent are still being drawn


def updates(page: Any, first_rank: int) -> list[float]:
    """Milliseconds from Enter to the new numbers, one for each of UPDATES changes."""
    taken = []
    for rank in range(first_rank, first_rank + UPDATES):
        page.get_by_role("spinbutton", name="Rank", exact=True).fill(str(rank))
        taken.append(page.evaluate(CHANGED, [f"LoRA r{rank}"]))
        settle(page)
    return taken


def of_predictions(browser: Any, address: str) -> dict[str, list[float]]:
    """Milliseconds of first numbers in a new browser and in one that knows the scripts, and of
    updates."""
    found: dict[str, list[float]] = {
        "first numbers, new browser": [],
        "first numbers, known browser": [],
    }
    for _ in range(OPENINGS):
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        for times in found.values():
            page = context.new_page()
            began = time.perf_counter()
            page.goto(address)
            page.locator(".lp-bars").first.wait_for()
            times.append(1000 * (time.perf_counter() - began))
            settle(page)
        context.close()
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(address)
    page.locator(".lp-bars").first.wait_for()
    settle(page)
    page.get_by_text("All settings", exact=True).click()
    for name, tab, rank in (
        ("update", "When", 20),
        ("update, with a map of what fits", "What fits", 50),
    ):
        page.get_by_role("tab", name=tab, exact=True).click()
        settle(page)
        found[name] = updates(page, rank)
    page.close()
    return found


def of_the_page_without_a_server(browser: Any, folder: Path) -> dict[str, list[float]]:
    """Milliseconds of its sliders; the file is made anew."""
    file = folder / "predict.html"
    static_page.write(file, static_page.WANTED[:1])
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(file.as_uri())
    found = dragged(page)
    page.close()
    return {"a slider dragged on the page without a server": found}


def dragged(page: Any) -> list[float]:
    """Milliseconds of each stop of each slider."""
    return [
        time
        for name in ("Length", "Batch", "Rank")
        for time in page.get_by_role("slider", name=name).evaluate(DRAGGED)
    ]


def of_records(browser: Any, address: str) -> dict[str, list[float]]:
    """Milliseconds until the page of RECORDS records stands: the first time, when all are read,
    again, and by a filter."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(300_000)
    title = page.locator(".lp h1")
    whole = f"{RECORDS:,} records"
    began = time.perf_counter()
    page.goto(f"{address}&page=compare")
    page.locator(".lp-table").first.wait_for()
    first = time.perf_counter() - began
    title.filter(has_text=whole).wait_for()
    complete = time.perf_counter() - began
    settle(page)
    again = []
    for _ in range(OPENINGS):
        page.reload()
        began = time.perf_counter()
        title.filter(has_text=whole).wait_for()
        again.append(1000 * (time.perf_counter() - began))
        settle(page)
    filtered = []
    for method in ("LoRA", "QLoRA", "full"):
        box = page.get_by_role("combobox", name="Method", exact=False)
        box.click()
        box.fill(method)
        option = page.get_by_role("option", name=method, exact=True)
        option.wait_for()
        before = title.inner_text()
        began = time.perf_counter()
        option.click()
        page.wait_for_function(
            "before => document.querySelector('.lp h1').innerText !== before", arg=before
        )
        filtered.append(1000 * (time.perf_counter() - began))
        settle(page)
    page.close()
    return {
        "first table of 10,000 records": [1000 * first],
        "all of 10,000 records read": [1000 * complete],
        "page of 10,000 records, again": again,
        "page of 10,000 records, another filter": filtered,
    }


@contextmanager
def chromium() -> Iterator[Any]:
    """The system's browser. Raises SystemExit where there is none."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise SystemExit(f"no browser: install one of {', '.join(PROGRAMS)}.")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield browser
        browser.close()


def measured() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        folder = Path(name)
        with dashboard(folder) as (address, started):
            times = {
                "start of lora-profile app": [1000 * started],
                **of_predictions(browser, address),
                **of_the_page_without_a_server(browser, folder),
            }
        size = many_records(folder / "many.jsonl")
        with dashboard(folder, "--records", str(folder / "many.jsonl")) as (address, _):
            times |= of_records(browser, address)
    return {
        "python": platform.python_version(),
        "streamlit": version("streamlit"),
        "processor": cpu_model(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "nice": os.nice(0),
        "records": RECORDS,
        "bytes_of_records": size,
        "milliseconds": {name: [round(t, 1) for t in found] for name, found in times.items()},
    }


def markdown(result: dict[str, Any]) -> str:
    return page_of(
        "What the dashboard takes",
        f"In Chromium, on {result['processor']} with {result['cores']} cores (load"
        f" {result['load']} at the end, niceness {result['nice']}): CPython {result['python']},"
        f" streamlit {result['streamlit']}. From the key or the"
        f" address until the numbers stand in the page. {result['records']:,} records are"
        f" {result['bytes_of_records'] / 1e6:.0f} MB, of which the first are shown while the"
        " rest is read. Goals: an update in 300 ms, a slider's in 100 ms, a page of records in"
        " 2 s. Written by `python -m benchmarks.speed.dashboard --write`.",
        table(
            "what | >n | >median ms | >worst ms",
            (
                (name, len(t), f"{median(t):,.0f}", f"{max(t):,.0f}")
                for name, t in result["milliseconds"].items()
            ),
        ),
    )


if __name__ == "__main__":
    once(__doc__, "dashboard", measured, markdown)
