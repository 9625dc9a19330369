"""Every page of the dashboard and every report at three widths, light and dark.

    python -m benchmarks.speed.looks [--write]

Counts what runs out of the window, texts that lie on one another, serious findings of axe, and
figures that are not drawn; all should be 0. Needs Chromium and the test extra. `--write` writes
`results/looks.md`.
"""

import sys
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from shutil import which
from typing import Any

from benchmarks.pages import page_of, parser_of, table, write_page
from benchmarks.speed.dashboard import PROGRAMS, dashboard, settle
from benchmarks.speed.pictures import CROSSED, PLANNED, QUESTION

ROOT = Path(__file__).parents[2]
WIDTHS, SCHEMES = (390, 1024, 1440), ("light", "dark")
DASHBOARD = {
    "Predict": QUESTION,
    "Plan": f"page=plan&{PLANNED}",
    "Crossover": f"page=crossover&{CROSSED}",
    "Compare": "page=compare",
    "Measure": "page=measure",
    "Learn": "page=learn",
    "Evidence": "page=evidence",
    "Catalogue": "page=catalogue",
    "Docs": "page=docs",
}
TABS = ("Timeline", "Breakdown", "Fit map", "Compare", "Explanation")
FOUND = """() => {
    const roots = [document.documentElement, document.querySelector('[data-testid="stMain"]')].filter(Boolean);
    const texts = document.createTreeWalker(roots.at(-1), NodeFilter.SHOW_TEXT), boxes = [];
    while (texts.nextNode()) {
        const node = texts.currentNode, parent = node.parentElement;
        if (!node.data.trim() || parent.closest('script, style, noscript, .main-svg, .st-key-verdict, [data-testid="stHeader"]')) continue;
        if (!parent.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
        const range = document.createRange();
        range.selectNodeContents(node);
        for (const r of range.getClientRects()) if (r.width > 1 && r.height > 1) boxes.push([parent, r]);
    }
    boxes.sort(([, a], [, b]) => a.top - b.top);
    const over = [];
    boxes.forEach(([one, a], n) => {
        for (let m = n + 1; m < boxes.length && boxes[m][1].top < a.bottom - 3; m += 1) {
            const [other, b] = boxes[m];
            if (one !== other && !one.contains(other) && !other.contains(one)
                && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - b.top > 3)
                over.push(`${one.textContent.slice(0, 40)} | ${other.textContent.slice(0, 40)}`);
        }
    });
    return {
        wide: roots.filter((root) => root.scrollWidth > root.clientWidth + 1).length, over,
        blank: [...document.querySelectorAll('.lp-plot')].filter((plot) => plot.checkVisibility() && !plot.querySelector('.main-svg')).length,
    };
}"""  # noqa: E501
"""What runs out of the window, texts on one another, and figures that are not drawn."""


def looked(page: Any, name: str, problems: list[str]) -> str:
    """'0 0 0 0': out of the window, texts on texts, axe, blank figures."""
    from axe_playwright_python.sync_playwright import Axe

    page.wait_for_function("!document.querySelector('[data-stale=true]')")
    page.wait_for_timeout(600)  # what was stale fades in
    found = page.evaluate(FOUND)
    serious = [
        f"{each['id']}: {node['html'][:100]}"
        for each in Axe().run(page).response["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
    problems += [f"{name}: {text}" for text in (*found["over"], *serious)]
    return " ".join(map(str, (found["wide"], len(found["over"]), len(serious), found["blank"])))


def of_dashboard(page: Any, address: str) -> Iterator[str]:
    """Names of what then stands in the window."""
    for name, query in DASHBOARD.items():
        page.goto(f"{address}&{query}")
        page.locator(".lp, [data-testid=stMarkdown]").first.wait_for()
        settle(page)
        page.wait_for_timeout(1000)
        for tab in TABS if name == "Predict" else ("",):
            if tab:
                page.get_by_role("tab", name=tab, exact=True).click()
                settle(page)
            yield f"{name} {tab}".strip()


def of_reports(page: Any) -> Iterator[str]:
    for report in sorted((ROOT / "reports").glob("*.html")):
        page.goto(report.as_uri())
        for place in page.locator(".figure:visible").all():
            place.scroll_into_view_if_needed()
            place.locator(".main-svg").first.wait_for()
        yield f"report {report.stem}"


def main() -> int:
    from playwright.sync_api import sync_playwright

    options = parser_of(__doc__, write=False).parse_args()
    rows: dict[str, list[str]] = {}
    problems: list[str] = []
    program = next(filter(None, map(which, PROGRAMS)))
    with (
        tempfile.TemporaryDirectory() as folder,
        dashboard(Path(folder)) as (address, _),
        sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for width in WIDTHS:
            for scheme in SCHEMES:
                size = {"width": width, "height": 900}
                page = browser.new_page(viewport=size, color_scheme=scheme)
                page.set_default_timeout(60_000)
                for name in chain(of_dashboard(page, address), of_reports(page)):
                    where = f"{name}, {width} px, {scheme}"
                    rows.setdefault(name, []).append(looked(page, where, problems))
                page.close()
        browser.close()
    heads = " | ".join(["page", *(f"{w} {s}" for w in WIDTHS for s in SCHEMES)])
    text = page_of(
        "Pages at three widths, light and dark",
        "Each cell: what runs out of the window, texts on texts, serious findings of axe, figures"
        " not drawn. Written by `python -m benchmarks.speed.looks --write`.",
        table(heads, ([name, *cells] for name, cells in rows.items())),
        [f"- {problem}" for problem in problems],
    )
    print(text)
    if options.write:
        write_page("looks", text)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
