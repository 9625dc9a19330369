"""Rows of results: JSON lines that are written as each ends, the options of what makes them, and
their tables in Markdown."""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def read_rows(path: Path) -> list[dict[str, Any]]:
    """None where there is no file yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def parser_of_rows(description: str | None) -> argparse.ArgumentParser:
    """--python: of an environment with a CUDA build of torch; --seconds: after which nothing more
    is begun; --again: predict anew what is there and run nothing."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=raw)
    parser.add_argument("--python", type=Path)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--again", action="store_true")
    return parser


def table(heads: str, rows: Iterable[Iterable[object]]) -> list[str]:
    """Lines of Markdown. Heads are parted by `|`; a column whose head begins with `>` is aligned to
    the right."""
    names = [head.strip() for head in heads.split("|")]
    marks = ["---:" if name.startswith(">") else "---" for name in names]
    cells = ([name.removeprefix(">") for name in names], marks, *rows)
    return [f"| {' | '.join(map(str, row))} |" for row in cells]
