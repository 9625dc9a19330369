"""The project's own reports: one HTML page for each machine whose records are committed, and one of
the mathematics of LoRA.

    python -m benchmarks.truth.reports [--output FOLDER]

Writes `reports/MACHINE.html` from benchmarks/records/MACHINE/, and `reports/mathematics.html` from
benchmarks/results/mathematics.json, or into FOLDER; needs the report extra.

Nothing in a page depends on when or where it is made: the same results, versions and code give the
same bytes. What predicts is what a fresh installation has, the rules and the bundled profiles; a
cache of this machine is not looked into.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pages import parser_of
from lora_profiler._common.paths import CACHE_VARIABLE
from lora_profiler.measuring.records.load import read_set
from lora_profiler.report.page import mathematics_content, report_content, write_page
from lora_profiler.runs.comparison.errors import scored

ROOT = Path(__file__).parents[2]
RECORDS, REPORTS = ROOT / "benchmarks" / "records", ROOT / "reports"
MATHEMATICS = ROOT / "benchmarks" / "results" / "mathematics.json"


def machines() -> list[Path]:
    """The folders of committed records."""
    return sorted(
        path for path in RECORDS.iterdir() if path.is_dir() and any(path.rglob("*.jsonl"))
    )


def page(folder: Path) -> str:
    """The report of one machine's records, by the order of their files."""
    read = read_set([folder])
    assert not read.warnings, read.warnings
    before = os.environ.get(CACHE_VARIABLE)
    with tempfile.TemporaryDirectory() as empty:
        os.environ[CACHE_VARIABLE] = empty
        try:
            found = scored(read.records)
        finally:
            os.environ.pop(CACHE_VARIABLE)
            if before is not None:
                os.environ[CACHE_VARIABLE] = before
    return write_page(report_content(found, title=f"{folder.name}: predicted and measured"))


def pages() -> Iterator[tuple[str, str]]:
    """(name, HTML) of every report that there are results for."""
    for machine in machines():
        yield machine.name, page(machine)
    if MATHEMATICS.exists():
        yield (
            MATHEMATICS.stem,
            write_page(mathematics_content(json.loads(MATHEMATICS.read_text("utf-8")))),
        )


def main() -> int:
    folder: Path = parser_of(__doc__, output=REPORTS).parse_args().output
    folder.mkdir(exist_ok=True)
    for name, text in pages():
        path = folder / f"{name}.html"
        path.write_text(text, "utf-8")
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
