"""When a recorded answer is taken, when a real model is asked again, and that the two must agree."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import recording
import slow_tests
from recording import Measure, Recording

CONFIG = {"model_type": "llama"}
CELL = '[{"model_type":"llama"}]'


class Counted(Measure):
    """Answers `answer`, and counts how often it runs."""

    def __init__(self, answer: Any) -> None:
        self.runs = 0

        def flops(config: Any) -> Any:
            self.runs += 1
            return answer

        super().__init__(flops, (), by_processor=False)

    def digest(self) -> str:
        return "as it was"


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recording of one cell, which no seed draws."""
    path = tmp_path / "oracle.json.gz"
    monkeypatch.setattr(recording, "FILE", path)
    monkeypatch.setattr(recording, "MEASURES", {})
    monkeypatch.setattr(recording, "drawn", lambda share, name: share > 0.1)
    monkeypatch.setenv(recording.CHANGED, "")
    kept(path)
    return path


def kept(path: Path, **head: Any) -> None:
    known = {"versions": recording.versions(), "processor": "", "code": {"flops": "as it was"}}
    content = {"head": known | head, "cells": {CELL: {"flops": [1, 2]}}}
    path.write_bytes(gzip.compress(json.dumps(content).encode()))


def ask(monkeypatch: pytest.MonkeyPatch, measure: Measure, mode: str = "auto") -> Any:
    monkeypatch.setattr(recording, "THE", Recording(mode))
    return measure(CONFIG)


def test_what_is_recorded_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = Counted([1, 3])
    assert ask(monkeypatch, measure) == [1, 2]
    assert measure.runs == 0


@pytest.mark.parametrize("why", ["whole", "drawn", "code", "family"])
def test_what_runs_live_must_equal_the_record(
    why: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "drawn":
        monkeypatch.setattr(recording, "drawn", lambda share, name: True)
    if why == "code":
        kept(file, code={"flops": "another"})
    if why == "family":
        monkeypatch.setenv(recording.CHANGED, "lora_profiler/memory/analytic/families/llama.py")
    mode = "live" if why == "whole" else "auto"
    measure = Counted((1, 2))
    assert ask(monkeypatch, measure, mode) == [1, 2]
    assert measure.runs == 1
    with pytest.raises(AssertionError, match=r"flops of a live run differs from oracle\.json\.gz"):
        ask(monkeypatch, Counted([1, 3]), mode)


def test_other_versions_make_the_record_void(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(file, versions={"torch": "1.0"})
    assert ask(monkeypatch, Counted([1, 3])) == [1, 3]


def test_a_cell_that_is_not_recorded_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "THE", Recording("auto"))
    assert Counted([5])(CONFIG | {"n_layer": 2}) == [5]
    assert recording.THE is not None
    assert recording.THE.counts == {"from the file": 0, "live": 1, "not in the file": 1}


def test_families_are_those_whose_program_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        recording.CHANGED,
        "README.md\nlora_profiler/analytic/families/moe.py\nlora_profiler/analytic/families/gone.py",
    )
    assert recording.changed_families() == {"mixtral", "qwen3_moe"}


def test_a_digest_is_of_what_runs() -> None:
    plain = recording.digest("def f(x):\n    return x + 1\n")
    assert plain == recording.digest('def f(x):  # why\n    """What."""\n    return (x+1)\n')
    assert plain != recording.digest("def f(x):\n    return x + 2\n")


def test_the_draw_is_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    names = [str(n) for n in range(4000)]
    draws = []
    for seed in ("one", "two"):
        monkeypatch.setenv(recording.SEED, seed)
        draws.append({name for name in names if recording.drawn(0.03, name)})
        assert draws[-1] == {name for name in names if recording.drawn(0.03, name)}
        assert 80 < len(draws[-1]) < 160
    assert draws[0] != draws[1]


def test_of_a_grid_a_share_runs_and_all_of_a_changed_family(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv(recording.SEED, "one")
    monkeypatch.setenv(recording.CHANGED, "")
    monkeypatch.setattr(recording, "THE", SimpleNamespace(current=True))

    def cell(name: str, number: int) -> Any:
        params = {"name": name, "number": number}
        return SimpleNamespace(
            nodeid=f"a[{name}-{number}]", callspec=SimpleNamespace(params=params)
        )

    cells = [cell(name, n) for name in ("llama", "mixtral-varied") for n in range(500)]
    assert 200 < len(recording.cells_to_run(cells, 1 / 4)) < 300
    assert all(len(recording.cells_to_run([one], 1 / 4)) == 1 for one in cells[:20])
    monkeypatch.setenv(recording.CHANGED, "lora_profiler/memory/analytic/families/moe.py")
    assert set(map(id, cells[500:])) <= set(map(id, recording.cells_to_run(cells, 1 / 4)))
    monkeypatch.setattr(recording, "THE", SimpleNamespace(current=False))
    assert recording.cells_to_run(cells, 1 / 4) == cells


def test_what_is_named_as_slow_exists() -> None:
    for name in slow_tests.FILE.read_text().split():
        file, _, function = name.partition("::")
        assert f"def {function}(" in (recording.ROOT / file).read_text(), name
