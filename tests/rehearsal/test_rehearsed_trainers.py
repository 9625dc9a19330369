"""What `--trainer` says beside what the trainers themselves asked a pretended card for, at full size:
transformers' Trainer, TRL's SFTTrainer and DPOTrainer over torch's CUDA build."""

from typing import Any

import pytest

from benchmarks.rehearsed.peaks import predicted
from benchmarks.rehearsed.trainers import BENCHMARK, FAMILY, cells, page
from benchmarks.rows import read_rows

ALL = read_rows(FAMILY.rows)
DONE = [row for row in ALL if row["status"] == "done"]
CELLS = {cell.key: cell for cell in cells()}


def test_the_page_says_what_the_rows_say() -> None:
    assert BENCHMARK.page_path.read_text("utf-8") == page(ALL)


def test_every_run_is_of_the_grid_and_every_cell_was_tried() -> None:
    assert sorted(row["key"] for row in ALL) == sorted(CELLS)
    assert len(DONE) >= 100


@pytest.mark.usefixtures("the_bundle")
@pytest.mark.grid(share=1 / 3)
@pytest.mark.parametrize("row", DONE, ids=lambda row: row["command"])
def test_an_exact_answer_is_what_the_trainer_asked_for(row: dict[str, Any]) -> None:
    """To the byte; of an estimate within the bound that it states."""
    told = predicted(lambda: CELLS[row["key"]].workload(row["torch"]))
    assert told == {name: row[name] for name in told}
    assert abs(FAMILY.error(row)) <= (told["error_bound"] or 0.0)
    assert told["exactness"] == "estimate" or FAMILY.error(row) == 0
