"""The time of trainers' own steps, rehearsed, beside what the command says of the same question."""

import json
from typing import Any

import pytest

from benchmarks.rehearsed.step_time import BOUND
from benchmarks.rehearsed.trainers_step_time import (
    BENCHMARK,
    CAUSES,
    cause_of,
    compared,
    page,
    scripts,
)
from benchmarks.rows import read_rows
from commands import Run

ALL = read_rows(BENCHMARK.path)


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, Any]]:
    """By script; filled by whoever asks first."""
    return {}


def answer(row: dict[str, Any], run: Run, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if row["script"] not in known:
        done = run(*row["asked"], "--full", "--format", "json")
        (known[row["script"]],) = json.loads(done.stdout)["predictions"]
    return known[row["script"]]


@pytest.mark.grid
@pytest.mark.parametrize("row", ALL, ids=lambda row: row["script"])
def test_a_step_of_others_takes_what_the_command_says_or_a_cause_is_named(
    row: dict[str, Any], run: Run, answers: dict[str, dict[str, Any]]
) -> None:
    found = compared(row, answer(row, run, answers))
    assert (abs(found["difference"]) > BOUND) == bool(cause_of(row["script"]))
    told = sum(whole for *_, whole in found["operators"])
    besides = found["parts"].get("update", 0.0)
    assert told + besides == pytest.approx(found["difference"], abs=0.005)


def test_the_page_says_what_the_rows_and_the_command_say(
    run: Run, answers: dict[str, dict[str, Any]]
) -> None:
    assert BENCHMARK.page_path.read_text("utf-8") == page(
        ALL, [answer(row, run, answers) for row in ALL]
    )


def test_every_script_was_run_on_several_cards_and_no_cause_is_left_over() -> None:
    assert sorted(row["script"] for row in ALL) == sorted(scripts())
    assert all(row["status"] == "done" for row in ALL)
    assert len({row["card"] for row in ALL}) >= 3
    assert all(any(row["script"].startswith(start) for row in ALL) for start in CAUSES)
