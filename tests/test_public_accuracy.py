"""The replay of public memory rows: what is committed, what a rerun gives, and how its errors are
made into statements."""

import gc
import json

import pytest
import torch

from benchmarks import public_accuracy as accuracy
from benchmarks.public_rows import grade
from benchmarks.public_rows.conditions import NotExpressibleError
from benchmarks.public_rows.memory import memory_row, memory_rows
from benchmarks.public_rows.report import MARKS
from benchmarks.public_rows.tape import tape_of

DOCUMENT = json.loads(accuracy.FILE.read_text("utf-8"))
ROWS = {(row["id"], row["quantity"]): row for row in DOCUMENT["rows"]}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    gc.collect()


def test_the_committed_errors_reach_what_was_asked():
    for tier, (mean, worst) in MARKS.items():
        errors = [row["error"] for row in grade.graded(DOCUMENT["rows"], tier)]
        assert grade.mean(errors) <= mean
        assert worst is None or max(map(abs, errors)) <= worst
    assert len(grade.graded(DOCUMENT["rows"], 1)) == 45


def test_the_committed_report_is_what_the_numbers_say():
    assert accuracy.FILE.with_suffix(".md").read_text("utf-8") == accuracy.report(DOCUMENT)


def test_every_open_memory_row_is_predicted_or_has_a_reason():
    told = {f"{row['id']} {row['quantity']}" for row in DOCUMENT["rows"]} | set(
        DOCUMENT["left_out"]
    )
    assert told == {f"{row['id']} {row['quantity']}" for row in memory_rows()}
    assert all(DOCUMENT["left_out"].values())


@pytest.mark.parametrize(
    "id",
    [
        "fms:refs_a100_80gb.csv:34",  # stock LoRA, float32 logits in the loss
        "fms:refs_a100_80gb_liger.csv:104",  # full, fused linear loss, bound by backward
        "fms:refs_a100_80gb_liger.csv:163",  # four cards
        "litgpt-rt:53",
        "peft:lora/llama-3.2-3B-rank32@5d602fdb",
        "torchtune-flags:5",
    ],
)
def test_a_row_comes_out_again_as_it_was_committed(id):
    raw = next(
        row for row in memory_rows() if row["id"] == id and "reserved" not in row["quantity"]
    )
    row = memory_row(raw)
    found = accuracy.predicted(row, tape_of(row.workload, row.build, row.contexts))
    assert found["bytes"] == ROWS[id, raw["quantity"]]["predicted_bytes"]


def test_a_grown_error_is_named_and_a_smaller_one_is_not():
    old = [
        {"id": "a", "quantity": "peak", "error": 0.001},
        {"id": "b", "quantity": "peak", "error": -0.02},
    ]
    assert accuracy.moved(old, old) == []
    assert accuracy.moved(old, [{**old[0], "error": -0.0005}, {**old[1], "error": 0.01}]) == []
    assert accuracy.moved(old, [{**old[0], "error": -0.0025}, old[1]]) == [
        "a peak: -0.250 %, was +0.100 %"
    ]
    assert accuracy.moved(old, old[:1]) == ["b peak: gone"]


def test_the_interval_is_the_conformal_quantile():
    assert grade.half_width([0.01 * i for i in range(1, 20)]) == pytest.approx(
        0.18
    )  # number 18 of 19
    assert grade.half_width([0.5, -0.1]) == 0.5  # too few: the largest


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(45, 50, 0.7819, 0.9667), (0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0)],
)
def test_binomial_intervals_are_those_of_published_tables(hits, n, low, high):
    """Clopper and Pearson, as R's binom.test prints them."""
    assert grade.binomial_interval(hits, n) == pytest.approx((low, high), abs=1e-4)


def test_verdicts_count_refusals_and_acceptances_apart():
    row = {
        "reading": "peak",
        "tier": 1,
        "measured_bytes": 23_500_000_000,
        "predicted_bytes": 23_600_000_000,
    }
    assert grade.verdicts([row], 0.02) == {
        "asked": 9,
        "fits": 7,
        "refused though it fits": 1,
        "accepted though it does not": 0,
    }
    low = {**row, "measured_bytes": 24_500_000_000, "predicted_bytes": 23_000_000_000}
    assert grade.verdicts([low], 0.0)["accepted though it does not"] == 1


def test_a_reserve_is_raised_by_what_other_sources_were_above():
    rows = [
        {
            "source": source,
            "reading": "reserved",
            "predicted_bytes": 100,
            "measured_bytes": measured,
        }
        for source, measured in (("a", 104), ("a", 90), ("b", 102), ("b", 103), ("c", 50))
    ]
    assert grade.reserved_margins(rows) == {
        "a": pytest.approx(0.03),
        "b": pytest.approx(0.04),
        "c": pytest.approx(0.04),
    }
    assert grade.reserved_margins(rows[4:]) == {"c": 0.0}
    assert grade.reserved_margins([row | {"reading": "peak"} for row in rows]) == {}


def test_rows_that_no_workload_says_give_their_reason():
    raw = next(row for row in memory_rows() if row["id"].startswith("swift"))
    with pytest.raises(NotExpressibleError, match="random length"):
        memory_row(raw)


def test_rows_of_one_run_are_changed_alike():
    runs = {}
    for raw in memory_rows():
        try:
            row = memory_row(raw)
        except NotExpressibleError:
            continue
        runs.setdefault(row.run, set()).add(tuple(change.__qualname__ for change in row.changes))
    assert all(len(kinds) == 1 for kinds in runs.values())


def test_a_base_prepared_for_training_is_another_run_than_a_stock_one():
    stock, prepared = (
        memory_row(
            next(row for row in memory_rows() if row["id"].endswith(f"a100_80gb.csv:{line}"))
        )
        for line in (78, 58)
    )
    assert stock.workload == prepared.workload
    assert stock.run != prepared.run
