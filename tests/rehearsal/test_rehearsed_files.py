"""What `lora-profile` says of public files' settings beside what TRL's own trainers asked a pretended
card for, at full size."""

from typing import Any

import pytest

from benchmarks.rehearsed import frameworks as rehearsed_frameworks
from benchmarks.rehearsed.files import BENCHMARK, FAMILY, handed, key, page, told
from benchmarks.rows import read_rows

ALL = read_rows(FAMILY.rows)
DONE = [row for row in ALL if row["status"] == "done" and "predicted_bytes" in row]
WITHIN = 0.05
"""What an estimate of rules says of itself."""


def test_the_page_says_what_the_rows_say() -> None:
    assert BENCHMARK.page_path.read_text("utf-8") == page(ALL)


def test_sixty_public_files_were_rehearsed_each_once() -> None:
    """By their own framework, else with the same settings in TRL."""
    own = read_rows(rehearsed_frameworks.FAMILY.rows)
    by_own = {row["file"] for row in own if row["file"] and row["status"] == "done"}
    assert len({key(row) for row in ALL}) == len(ALL)
    assert len(by_own | {row["file"] for row in DONE}) >= 60


def test_a_file_is_handed_on_as_it_was_read() -> None:
    for row in DONE:
        given, options = handed(row), row["options"]
        assert given["arguments"]["per_device_train_batch_size"] == options["batch_size"]
        assert (given["lora"] is None) == (row["method"] == "full")
        assert (given["quantization"] is None) == (row["method"] != "qlora")


@pytest.mark.parametrize("row", DONE, ids=lambda row: row["file"].partition(":")[2])
def test_an_exact_answer_is_what_the_trainer_asked_for(row: dict[str, Any]) -> None:
    found = told(row)
    assert found["predicted_bytes"] == row["predicted_bytes"]
    assert found["exactness"] == row["exactness"]
    is_exact = row["exactness"] == "exact"
    assert abs(FAMILY.error(row)) <= (0 if is_exact else WITHIN)
