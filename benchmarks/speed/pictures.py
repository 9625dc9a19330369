"""The pictures of the README: every page of the dashboard and the report, as the system's Chromium
shows them.

    python -m benchmarks.speed.pictures [FOLDER]

Into docs/pictures/, or FOLDER. Starts the dashboard in an empty user folder, asks, trains a small
model for real, and takes what then stands in the window.
"""

import io
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.speed.dashboard import PROGRAMS, dashboard, settle

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
REPORT = ROOT / "reports" / "cpu-epyc.html"
WIDTH, HEIGHT = 1360, 1100
"""Of a picture: enough for text and areas, and small files."""
MOST_BYTES = 256 * 1024
PATIENCE_MS = 180_000
"""For what a page waits for, on a busy machine."""

QUESTION = "model=meta-llama%2FLlama-3.1-8B&gpu=rtx_4090&method=full&method=lora&method=qlora"
CROSSED = "model=Qwen%2FQwen2.5-0.5B&gpu=rtx_4090&method=full&method=lora&method=qlora"
PLANNED = (
    "model=meta-llama%2FLlama-3.1-8B&method=lora&method=qlora&gpus=rtx_4090,+l40s,+a100_sxm_80gb"
)
MEASURED = "page=measure&model=EleutherAI%2Fpythia-14m&method=lora&seq-len=128&dtype=float32"


def predict(page: Any, address: str) -> None:
    page.goto(f"{address}&{QUESTION}")
    page.locator(".lp-plot .main-svg").first.wait_for()


def plan(page: Any, address: str) -> None:
    page.goto(f"{address}&page=plan&{PLANNED}")
    page.locator(".lp-plot .main-svg").first.wait_for()


def crossover(page: Any, address: str) -> None:
    page.goto(f"{address}&page=crossover&{CROSSED}")
    page.locator(".lp-plot .main-svg").first.wait_for()


def compare(page: Any, address: str) -> None:
    page.goto(f"{address}&page=compare")
    page.locator(".lp-plot .main-svg").first.wait_for()


def measure(page: Any, address: str) -> None:
    page.goto(f"{address}&{MEASURED}")
    page.get_by_role("button", name="Start measuring", exact=True).click()
    page.locator(".lp h2", has_text=re.compile("LoRA r16: (ok|noisy)")).wait_for(timeout=300_000)
    page.locator(".lp-plot .legend").nth(1).wait_for()


def learn(page: Any, address: str) -> None:
    page.goto(f"{address}&page=learn")
    page.locator(".lp-plot .main-svg").first.wait_for()


def evidence(page: Any, address: str) -> None:
    page.goto(f"{address}&page=evidence")
    page.locator("[data-testid=stDataFrame] canvas").first.wait_for()


def catalogue(page: Any, address: str) -> None:
    page.goto(f"{address}&page=catalogue")
    page.locator("[data-testid=stDataFrame] canvas").nth(1).wait_for()


SHOWN: dict[str, Callable[[Any, str], None]] = {
    "predict": predict, "plan": plan, "crossover": crossover, "compare": compare,
    "measure": measure, "evidence": evidence, "learn": learn, "catalogue": catalogue,
}  # fmt: skip


def small(png: bytes) -> bytes:
    """The picture without what it does not need; a palette would mend rare colours into others."""
    from PIL import Image

    found = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(found, "PNG", optimize=True)
    return found.getvalue()


def taken(browser: Any, address: str) -> dict[str, bytes]:
    """PNGs by name."""
    found: dict[str, bytes] = {}
    for name, show in SHOWN.items():
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.set_default_timeout(PATIENCE_MS)
        show(page, address)
        settle(page)
        page.mouse.move(WIDTH - 5, HEIGHT - 5)  # away from what it would light up
        page.wait_for_timeout(1000)
        found[name] = page.screenshot()
        page.close()
    if REPORT.exists():
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(REPORT.as_uri())
        page.locator(".lp-plot .main-svg").first.wait_for()
        page.wait_for_timeout(1000)
        found["report"] = page.screenshot()
    return found


def main(folder: Path = PICTURES) -> int:
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise SystemExit(f"no browser: install one of {', '.join(PROGRAMS)}.")
    with (
        tempfile.TemporaryDirectory() as name,
        sync_playwright() as driver,
        dashboard(Path(name)) as (address, _),
    ):
        browser = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-background-networking"]
        )
        pictures = {name: small(png) for name, png in taken(browser, address).items()}
        browser.close()
    folder.mkdir(parents=True, exist_ok=True)
    for picture, png in pictures.items():
        (folder / f"{picture}.png").write_bytes(png)
        print(f"{picture}.png: {len(png):,} bytes")
    return 1 if any(len(png) > MOST_BYTES for png in pictures.values()) else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
