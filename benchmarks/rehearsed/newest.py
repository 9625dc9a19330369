"""What other versions of torch, transformers, PEFT and TRL change: the quick third of
`rehearsed.scripts`, rehearsed with them, against the last page.

    python -m benchmarks.rehearsed.newest --checkouts CHECKOUTS --python PYTHON [--write]
                                          [--limit N] [--minutes M]

For every night: PYTHON is of an environment into which the newest libraries were installed, and
CHECKOUTS as `rehearsed.scripts` takes them. Scripts that ran on the GPU that suits are taken, the
quickest third of them, each compared with its row on the last page, else with that of
`rehearsed.scripts`. Writes `results/newest.json` and `results/newest.md`; ends with 1 where one
runs no more, or needs over 1 % more memory.
"""

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages import RESULTS, page_of, read_document, table, words_of
from benchmarks.rehearsed.scripts import RUNNER, SUITS, cases, copied_projects, fault_of, row_of
from benchmarks.rows import Row, read_rows
from benchmarks.runner import once
from lora_profiler.units import bytes_text, percent_text

NAME = "newest"
LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "bitsandbytes")
MOST_GROWTH = 0.01
_DRAWS = "hpo/hpo_nli.py"
"""Draws its batch size anew in every run."""
_VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def quick_third(rows: Iterable[Row]) -> list[Row]:
    """Of the scripts that ran on the GPU that suits, the quickest first."""
    ran = [
        row
        for row in rows
        if row["card"] == SUITS and fault_of(row) is None and not row["script"].endswith(_DRAWS)
    ]
    return sorted(ran, key=lambda row: row["seconds"])[: len(ran) // 3]


def change_of(before: Row, now: Row) -> tuple[str, bool]:
    """What is other than it was, "" where nothing is, and whether that is worse."""
    fault = fault_of(now)
    if fault is not None:
        return f"ran, and does not: {now['words'][:160]}", True
    old, new = before.get("reserved_bytes") or 0, now.get("reserved_bytes") or 0
    if new == old:
        return "", False
    growth = new / old - 1 if old else float("inf")
    sizes = f"{bytes_text(old)} before, {bytes_text(new)} now"
    return f"{percent_text(abs(growth))} {'more' if new > old else 'less'} memory: {sizes}", (
        growth > MOST_GROWTH
    )


def outcome(checkouts: Path, python: Path, limit: int, minutes: float) -> dict[str, Any]:
    last = read_document(NAME) if (RESULTS / f"{NAME}.json").exists() else {"rows": []}
    known = {(row["project"], row["script"]): row for row in last["rows"]}
    third = quick_third(read_rows(RUNNER.path))[:limit]
    before = {(row["project"], row["script"]): row for row in third}
    before |= {key: row for key, row in known.items() if key in before}
    options = Namespace(checkouts=checkouts.resolve(), python=python, minutes=minutes)
    chosen = {(case.repository, case.script): case for case in cases(options.checkouts)}
    there = [key for key in before if key in chosen]
    rows = []
    with copied_projects(options.checkouts, [chosen[key] for key in there]) as copies:
        for number, key in enumerate(there, 1):
            row = row_of(chosen[key], SUITS, copies, options)
            change, is_worse = change_of(before[key], row)
            rows.append(row | {"change": change, "is_worse": is_worse})
            print(f"[{number}/{len(there)}] {key} {change}", file=sys.stderr, flush=True)
    return {
        "versions": _versions_in(python),
        "versions_before": last.get("versions", {}),
        "rows": rows,
    }


def _versions_in(python: Path) -> dict[str, str]:
    done = subprocess.run(
        (python, "-c", _VERSIONS, *LIBRARIES), check=True, capture_output=True, text=True
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def report(document: Mapping[str, Any]) -> str:
    rows: Sequence[Row] = document["rows"]
    changed = [row for row in rows if row["change"]]
    worse = sum(row["is_worse"] for row in rows)
    before = document["versions_before"]
    return page_of(
        "Scripts of other projects under the newest libraries",
        f"`python -m benchmarks.rehearsed.newest`: {len(rows)} scripts, the quick third of those"
        f" that ran for `scripts.md`, rehearsed on a simulated {SUITS} with"
        f" {words_of(document['versions'])}; before with"
        f" {words_of(before) if before else 'those of `scripts.md`'}. Nothing here was measured on"
        " a GPU.",
        f"**{len(changed)} changed, {worse} for the worse.**",
        table(
            "script | change | worse",
            (
                (f"{row['project']}: {row['script']}", row["change"], "yes" * row["is_worse"])
                for row in changed
            ),
        )
        if changed
        else "",
        table(
            "script | >reserved bytes | >s",
            (
                (f"{row['project']}: {row['script']}", f"{row.get('reserved_bytes') or 0:,}",
                 row["seconds"])
                for row in rows
            ),
        ),
    )  # fmt: skip


def main() -> int:
    document = once(
        __doc__, NAME, outcome, report,
        checkouts=Path(), python=Path(sys.executable), limit=1 << 30, minutes=5.0,
    )  # fmt: skip
    return int(any(row["is_worse"] for row in document["rows"]))


if __name__ == "__main__":
    sys.exit(main())
