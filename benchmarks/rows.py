"""Rows of results: JSON lines that are written as each ends, so that a benchmark can be run in
pieces, and the options of what makes them."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.pages import parser_of

Question = TypeVar("Question")
Row = Mapping[str, Any]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """None where there is no file yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def append_row(path: Path, row: Row) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def continued(
    path: Path,
    key: Callable[[Row], Hashable],
    questions: Iterable[tuple[Hashable, Question]],
    made: Callable[[Question], dict[str, Any]],
    seconds: float = float("inf"),
) -> list[dict[str, Any]]:
    """The rows of `path`, and one `made` of each question whose key none of them has, written as
    it ends; none is begun after so many seconds."""
    began = time.monotonic()
    rows = read_rows(path)
    known = {key(row) for row in rows}
    left = {name: question for name, question in questions if name not in known}
    for number, (name, question) in enumerate(left.items(), 1):
        if time.monotonic() > began + seconds:
            break
        rows.append(made(question))
        append_row(path, rows[-1])
        each = (time.monotonic() - began) / number
        told = f"[{number}/{len(left)}] {str(name)[:100]} {rows[-1].get('status', '')}"
        rest = f"{each:.0f} s each, {each * (len(left) - number) / 60:.0f} min left"
        print(f"{told}, {rest}", file=sys.stderr, flush=True)
    return rows


def grouped(rows: Sequence[Row], kinds: Mapping[str, Callable[[Row], str]]) -> dict[str, list[Row]]:
    """By each of `kinds` in turn, as `card: t4`."""
    return {
        f"{name}: {value}": [row for row in rows if kind(row) == value]
        for name, kind in kinds.items()
        for value in sorted({kind(row) for row in rows})
    }


def parser_of_rows(description: str | None) -> argparse.ArgumentParser:
    """--python: of an environment with a CUDA build of torch; --seconds: after which nothing more
    is begun; --again: predict anew what is there and run nothing."""
    parser = parser_of(description, seconds=float("inf"), again=False)
    parser.add_argument("--python", type=Path)
    return parser
