"""The committed rehearsals at the boundary of verdicts: the page is that of the rows, the verdicts
are today's, and the simulated allocator is right about them."""

from dataclasses import replace

import pytest

from benchmarks.rehearsed import boundary
from lora_profiler.facts.catalog import find_model
from lora_profiler.memory.compiled.allocator import Trials
from lora_profiler.memory.compiled.requests import requests_for

ROWS = boundary.latest_rows()
SIMULATED = [row for row in ROWS if boundary.outcomes(row) and row["is_simulated"]]
AGAIN = 12


pytestmark = pytest.mark.usefixtures("the_bundle")


def test_the_page_is_that_of_the_rows() -> None:
    assert boundary.BENCHMARK.page_path.read_text("utf-8") == boundary.page(ROWS)


def test_the_rows_are_of_the_questions_that_the_benchmark_asks() -> None:
    asked = {question.key() for question in boundary.questions()}
    assert {boundary.question_of(row).key() for row in ROWS} <= asked


def test_no_simulated_fits_ran_out_of_memory_and_few_refusals_were_false() -> None:
    tries, fits, false_fits, refused, false_refusals = boundary.counts(SIMULATED)
    assert tries >= 400 and min(fits, refused) > 200
    assert false_fits == 0
    assert false_refusals < 0.03 * refused


def test_the_smallest_simulated_card_is_the_smallest_that_completes() -> None:
    pairs = [r for r in SIMULATED if r["kind"] == "card" and len(boundary.outcomes(r)) == 2]
    assert len(pairs) >= 55
    right = [all(boundary.is_right(*o) for o in boundary.outcomes(row)) for row in pairs]
    assert all(right)


@pytest.mark.grid
@pytest.mark.parametrize("number", range(AGAIN))
def test_what_was_said_is_said_today(number: int) -> None:
    rows = sorted(SIMULATED, key=lambda row: sum(t["room_bytes"] for t in row["tries"]))
    row = rows[number * (len(rows) // 2) // AGAIN]
    said = boundary.foretold(boundary.question_of(row), row["torch"])
    assert said["tries"] == row["tries"]


def test_a_verdict_is_right_where_fits_goes_through_and_nothing_else_does() -> None:
    assert boundary.is_right("fits", "done")
    assert boundary.is_right("tight", "out_of_memory")
    assert not boundary.is_right("fits", "out_of_memory")
    assert not boundary.is_right("does_not_fit", "done")


OF_SMALL = [row for row in SIMULATED if find_model(row["model"], offline=True).num_layers <= 12]


@pytest.mark.grid
@pytest.mark.parametrize("tenth", range(10))
def test_the_allocator_comes_to_what_the_rehearsal_came_to(tenth: int) -> None:
    """Small models, replayed anew in the room that the rehearsal had."""
    for row in OF_SMALL[tenth::10]:
        asked = boundary.workload(boundary.question_of(row), row["torch"])
        for tried, (_, status) in zip(row["tries"], boundary.outcomes(row), strict=True):
            setup = replace(asked.setup, batch_size=tried["batch_size"])
            requests = requests_for(replace(asked, setup=setup))
            assert requests is not None
            assert Trials(*requests).completes(tried["room_bytes"]) == (status == "done"), row[
                "model"
            ]
