"""Answers of real runs, recorded in `data/oracle.json.gz`, so that rules meet them in seconds.

What a real model answers depends on the versions of the libraries, on the cell (config and setup)
and on the code that builds and runs it; none of them changes from commit to commit. So a measure of
`truth` is read from the file, and runs live

- for 3 % of the cells, drawn by a seed that the report's head names, and for 25 % where that code
  is no longer what it was when the file was written,
- for every cell of a family whose program the last commit or the working tree changed,
- for all cells where the installed versions are not the file's, or the file has no such cell.

A live answer must equal the file's. `python -m benchmarks.truth.oracle_grid` writes the file anew;
`pytest --whole` runs everything live.
"""

import ast
import functools
import gzip
import hashlib
import inspect
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests" / "data" / "oracle.json.gz"
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
SHARE, SHARE_OF_CHANGED_CODE = 0.03, 0.25
SEED, CHANGED, PARTS = (
    f"LORA_PROFILER_ORACLE_{name}" for name in ("SEED", "CHANGED", "PARTS")
)  # what decides is decided once, and handed to the workers of xdist

Cells = dict[str, dict[str, Any]]
"""By cell, then by measure."""


# --- what the file holds for ----------------------------------------------------------------------


def versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def processor() -> str:
    """What kernel scratch depends on."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def digest(source: str) -> str:
    """Of code as Python sees it, without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [n for n in body if not _is_text(n)] or [ast.Pass()]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


@functools.cache
def digest_of(place: str) -> str:
    """Of a file, or all in a folder."""
    path = ROOT / place
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return " ".join(digest(file.read_text()) for file in files)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def is_changed(file: Path) -> bool:
    """Whether the last commit, or the working tree, changed it."""
    return file.relative_to(ROOT).as_posix() in os.environ[CHANGED].split()


def changed_families() -> frozenset[str]:
    """Model types whose program lies in a file that is not as before the last commit."""
    from lora_profiler.memory.analytic.families import FAMILIES

    changed = map(Path, os.environ[CHANGED].split())
    modules = {file.stem for file in changed if file.parent.name == "families"}
    return frozenset(name for name, path in FAMILIES.items() if path.partition(".")[0] in modules)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def decide() -> None:
    """The seed, and the changed files, for this process and the workers it starts."""
    os.environ.setdefault(SEED, _git("rev-parse", "--short", "HEAD") or date.today().isoformat())
    os.environ.setdefault(CHANGED, _git("diff", "--name-only", "HEAD~1"))


def lot(name: str) -> float:
    """From 0 to 1, by the seed of this run."""
    drawn_bytes = hashlib.sha256(f"{os.environ[SEED]} {name}".encode()).digest()
    return int.from_bytes(drawn_bytes[:4], "big") / 2**32


def drawn(share: float, name: str) -> bool:
    """Whether `name` is among so many."""
    return lot(name) < share


# --- the file -------------------------------------------------------------------------------------


class Recording:
    """The file as a session uses it; `mode` is "auto", "live" or "record"."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        content = json.loads(gzip.decompress(FILE.read_bytes())) if FILE.exists() else {}
        self.head: dict[str, Any] = content.get("head", {})
        self.cells: Cells = content.get("cells", {})
        self.current = self.head.get("versions") == versions()
        self.answers: Cells = {}
        self.counts = {"from the file": 0, "live": 0, "not in the file": 0}

    def answer(self, measure: "Measure", cell: str, model_type: str, run: Callable[[], Any]) -> Any:
        recorded = self.cells.get(cell, {}).get(measure.name) if self.current else None
        if recorded is not None and not self._runs(measure, cell, model_type):
            self.counts["from the file"] += 1
            return recorded
        value = json.loads(json.dumps(run()))
        self.counts["live"] += 1
        self.answers.setdefault(cell, {})[measure.name] = value
        if recorded is None:
            self.counts["not in the file"] += 1
        elif self.mode != "record" and (
            not measure.by_processor or self.head["processor"] == processor()
        ):
            assert value == recorded, (
                f"{measure.name} of a live run differs from {FILE.name} (which"
                f" `python -m benchmarks.truth.oracle_grid` writes) at {cell}"
            )
        return value

    def _runs(self, measure: "Measure", cell: str, model_type: str) -> bool:
        if self.mode != "auto" or model_type in self._changed:
            return True
        same = self.head["code"].get(measure.name) == measure.digest()
        return drawn(SHARE if same else SHARE_OF_CHANGED_CODE, f"{measure.name} {cell}")

    @functools.cached_property
    def _changed(self) -> frozenset[str]:
        return changed_families()

    def leave(self, folder: Path) -> None:
        """The answers of this process, for `write`."""
        (folder / f"{os.getpid()}.json").write_text(json.dumps(self.answers))

    def describe(self) -> str:
        if self.mode != "auto":
            return f"oracle: every cell {self.mode}"
        if not self.current:
            return "oracle: every cell live, the installed versions are not the recorded ones"
        return f"oracle: recorded; what runs live is drawn by {SEED}={os.environ[SEED]}"


class Totals:
    """A plugin of pytest that adds up the counts of all workers and prints them."""

    def __init__(self, recording: Recording) -> None:
        self.counts = recording.counts

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        for name, count in getattr(node, "workeroutput", {}).get("oracle", {}).items():
            self.counts[name] += count

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if any(self.counts.values()):
            counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
            terminalreporter.write_line(f"oracle: {counts}")


def write(parts: Iterable[Cells], kept: Recording | None) -> Cells:
    """The file, of the answers of some processes and those that are `kept`; returns the cells.
    Raises ValueError where versions or code are no longer those of what is to be kept."""
    import truth  # noqa: F401  # fills MEASURES

    cells: Cells = {cell: dict(answers) for cell, answers in kept.cells.items()} if kept else {}
    for part in parts:
        for cell, answers in part.items():
            cells.setdefault(cell, {}).update(answers)
    used = {name for answers in cells.values() for name in answers}
    head = {
        "versions": versions(),
        "processor": processor(),
        "code": {name: MEASURES[name].digest() for name in sorted(used)},
    }
    if kept and any(
        head["code"][name] != digest for name, digest in kept.head.get("code", {}).items()
    ):
        raise ValueError("the measures run other code than that of the file: write all of it anew")
    if kept and kept.cells and not kept.current:
        raise ValueError("other versions are installed than the file's: write all of it anew")
    ordered = {cell: dict(sorted(cells[cell].items())) for cell in sorted(cells)}
    text = json.dumps({"head": head, "cells": ordered}, separators=(",", ":"))
    FILE.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    return cells


def cells_to_run(cells: list[pytest.Item], share: float) -> list[pytest.Item]:
    """Of a grid's tests a share, at least one, and those of a family whose program the last commit
    changed; all where the libraries are not those with which the file was written."""
    assert THE is not None
    if not THE.current:
        return cells
    changed = tuple(changed_families())
    first = min(cells, key=lambda cell: lot(cell.nodeid))

    def is_changed(cell: pytest.Item) -> bool:
        values = cell.callspec.params.values()  # type: ignore[attr-defined]
        return any(isinstance(value, str) and value.startswith(changed) for value in values)

    return [
        cell for cell in cells if cell is first or drawn(share, cell.nodeid) or is_changed(cell)
    ]


# --- measures -------------------------------------------------------------------------------------

THE: Recording | None = None
"""Of this session; set by `conftest`."""
MEASURES: dict[str, "Measure"] = {}


class Measure:
    """A function of a cell (config, setup, ...) whose answer is JSON, read from the file where that
    holds. `code` are the files and folders that it runs beside itself, the libraries aside;
    `by_processor`: whether another processor may answer something else."""

    def __init__(
        self, function: Callable[..., Any], code: tuple[str, ...], by_processor: bool
    ) -> None:
        self.name, self.code, self.by_processor = function.__name__, code, by_processor
        self.function = function
        MEASURES[self.name] = self

    def digest(self) -> str:
        own = digest(inspect.getsource(self.function))
        together = " ".join([own, *map(digest_of, self.code)])
        return hashlib.sha256(together.encode()).hexdigest()[:16]

    def __call__(self, config: Mapping[str, Any], *arguments: Any) -> Any:
        assert THE is not None
        cell = _line([config, *arguments])
        return THE.answer(
            self, cell, str(config["model_type"]), lambda: self.function(config, *arguments)
        )


def measure(*code: str, by_processor: bool = False) -> Callable[[Callable[..., Any]], Measure]:
    return lambda function: Measure(function, code, by_processor)


def _line(cell: Any) -> str:
    return json.dumps(_plain(cell), separators=(",", ":"), sort_keys=True)


def _plain(value: Any) -> Any:
    """As JSON, of a dataclass the fields that are not its defaults."""
    if is_dataclass(value) and not isinstance(value, type):
        defaults = {f.name: f.default for f in fields(value)}
        changed = {f.name: getattr(value, f.name) for f in fields(value)}
        return {
            name: _plain(field) for name, field in changed.items() if field != defaults[name]
        } or "defaults"
    if isinstance(value, Mapping):
        return {str(name): _plain(field) for name, field in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
