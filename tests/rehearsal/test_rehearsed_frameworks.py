"""What `lora-profile` says of frameworks' own example files beside what the frameworks' own
commands asked a pretended card for, at full size."""

import json
import re
from typing import Any

import pytest

from benchmarks.rehearsed.framework_cells import cells
from benchmarks.rehearsed.frameworks import BENCHMARK, FAMILY, is_exact, page
from benchmarks.rows import read_rows
from commands import Run
from lora_profiler.facts.stacks import find_stack
from lora_profiler.memory.analytic.plan import EXACT_MOMENTS
from lora_profiler.planning.fit import Growth

ALL = read_rows(FAMILY.rows)
TOLD = (
    "more in a rehearsal|the peak is a lower bound|Unsloth's own code|priced as TRL's"
    "|inputs of int8 layers are kept twice"
)
"""The reasons that an answer gives for being off."""
DONE = [row for row in ALL if row["status"] == "done"]


def test_the_page_says_what_the_rows_say() -> None:
    assert BENCHMARK.page_path.read_text("utf-8") == page(ALL)


def test_every_run_is_of_the_grid_and_every_cell_was_tried() -> None:
    assert sorted(row["key"] for row in ALL) == sorted(cell.key for cell in cells())
    assert {row["framework"] for row in DONE} == {cell.framework for cell in cells()}


@pytest.mark.grid
@pytest.mark.parametrize("row", DONE, ids=lambda row: row["key"])
@pytest.mark.usefixtures("the_bundle")  # laws that take minutes to make are there
def test_an_exact_answer_is_what_the_framework_asked_for(
    row: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of one that is off the file's reading or the framework's stack says why."""
    # for the largest sizes laws of other regimes would be made, which takes minutes
    monkeypatch.setattr(Growth, "_most", lambda *_: None)
    (answer,) = json.loads(run(*row["asked"], "--full", "--format", "json").stdout)["predictions"]
    assert answer["peak"]["total_bytes"] == row["predicted_bytes"]
    assert answer["exactness"] == row["exactness"]
    if FAMILY.error(row) == 0:
        return
    method = row["asked"][row["asked"].index("--method") + 1]
    trainer = row["asked"][row["asked"].index("--trainer") + 1]
    gaps = [gap for gap in find_stack(trainer).gaps if method in gap.methods]
    inside = answer["peak"]["moment"] not in EXACT_MOMENTS
    told = [words for words in answer["assumptions"] if re.search(TOLD, words)]
    within = row["error_bound"] is not None and abs(FAMILY.error(row)) <= row["error_bound"]
    assert not is_exact(row) and (row["not_modelled"] or gaps or inside or told or within)
