"""The report of a blind prediction: every case is there, errors and bounds are those worked out by
hand, and the whole way from the predictions to the report can be gone on a CPU."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import records
from benchmarks import blind, predictions
from benchmarks.campaign import main
from benchmarks.suites import suites
from lora_profiler.catalog.gpus import context_of
from lora_profiler.harness import Case, make_case
from lora_profiler.records.record import Conditions, Failure, Record
from lora_profiler.records.serialize import record_dict
from lora_profiler.workload import LoraConfig, Workload


def workload(**changes: Any) -> Workload:
    return replace(records.WORKLOAD, setup=replace(records.WORKLOAD.setup, **changes))


FULL = make_case(records.WORKLOAD)
LORA = make_case(workload(lora=LoraConfig(r=4, lora_dropout=0.1)))
CARD = Conditions(min_timed_steps=0, budget_bytes=2_000_000)
EDGES = [make_case(workload(batch_size=batch), CARD) for batch in (3, 4)]


def foretold(*cases: tuple[Case, int], moment: str = "optimizer_step") -> dict[str, Any]:
    """A predictions file of the cases, with peaks that are given."""
    found = predictions.predictions("tiny", [case for case, _ in cases])
    for said, (case, peak) in zip(found["cases"], cases, strict=True):
        said |= {"peak_bytes": peak, "peak_moment": moment, "fits": predictions.fits(case, peak)}
    return found


def measured(case: Case, peak: int = 2_000_000, repeat: int = 0, **fields: Any) -> Record:
    """The peak lies in the optimizer's phase."""
    peaks = {
        "attribution_bytes": None,
        "phase_peak_bytes": {"forward": peak // 2, "optimizer": peak},
    }
    changed = {"peak_requested_bytes": peak, "peak_allocated_bytes": peak, **peaks, **fields}
    return records.make_record(case.workload, conditions=case.conditions, repeat=repeat, **changed)


def failed(case: Case, status: str, **fields: Any) -> Record:
    failure = Failure(reason="as planned", phase="backward")
    return measured(case, status=status, failure=failure, step_seconds=None, **fields)


def table(text: str, heading: str) -> list[list[str]]:
    """The rows of the first table under a heading, without its head."""
    lines = text.partition(f"## {heading}\n")[2].partition("\n## ")[0].splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ][2:]


def report(
    found: dict[str, Any],
    rows: Sequence[Record],
    cases: Sequence[Case] = (),
    problems: Sequence[str] = (),
) -> str:
    return blind.report(found, cases, rows, None, problems)


def test_errors_are_signed_and_gathered_by_method() -> None:
    """Predicted 1,980,000 of 2,000,000 is -1 %; 2,040,000 is +2 %; 1,000,000 of itself is exact."""
    found = foretold((FULL, 1_980_000), (LORA, 1_000_000))
    text = report(
        found, [measured(FULL), measured(FULL, 1_941_176, repeat=1), measured(LORA, 1_000_000)]
    )
    rows = {row[0]: row[1:] for row in table(text, "Errors of the peak")}
    assert rows["full"] == ["2", "1.5000%", "-1.00 %", "+2.00 %", "0", "0"]
    assert rows["lora"] == ["1", "0.0000%", "none", "none", "0", "0"]
    assert rows["all"] == ["3", "1.0000%", "-1.00 %", "+2.00 %", "0", "0"]
    assert [row[4] for row in table(text, "Every case")] == ["-1.00 %", "+2.00 %", "exact"]


def test_every_case_is_there_whatever_became_of_it() -> None:
    """A failure has a lower bound, 1,100,000 of a predicted 1,980,000: at most +80 %. Step 1 counts
    where there is no more."""
    found = foretold((FULL, 1_980_000), (LORA, 1_980_000), (EDGES[0], 1_980_000))
    early = {
        "phase_peak_bytes": None,
        "peak_allocated_bytes": None,
        "step1_phase_peak_bytes": {"forward": 990_000},
    }
    rows = [
        failed(FULL, "oom", peak=1_100_000, step1_phase_peak_bytes={"forward": 900_000}),
        failed(LORA, "crash", **{"peak_requested_bytes": None, **early}),
    ]
    asked = [FULL, LORA, EDGES[0], replace(FULL, repeat=1)]
    found_rows = table(report(found, rows, asked), "Every case")
    assert [row[1:5] for row in found_rows] == [
        ["oom", "1.89 MiB", "at least 1.05 MiB", "at most +80.00 %"],
        ["not measured", "1.89 MiB", "", ""],
        ["crash", "1.89 MiB", "at least 966.80 KiB", "at most +100.00 %"],
        ["not measured", "1.89 MiB", "", ""],
    ]
    assert [row[6] for row in found_rows] == ["ended in backward", "", "ended in backward", ""]
    assert found_rows[0][7] == f"`{rows[0].id}`"
    assert [row[0].endswith("repeat 1") for row in found_rows] == [False, True, False, False]
    *_, together = table(report(found, rows, asked), "Errors of the peak")
    assert together == ["all", "0", "", "", "", "2", "2"]


def test_a_run_without_any_peak_has_no_error_and_is_there() -> None:
    peaks = ("peak_requested", "peak_allocated", "phase_peak", "step1_phase_peak")
    gone = {f"{name}_bytes": None for name in peaks}
    (row,) = table(report(foretold((FULL, 10)), [failed(FULL, "timeout", **gone)]), "Every case")
    assert row[1:7] == ["timeout", "10 B", "", "", "optimizer_step", "ended in backward"]


@pytest.mark.parametrize(
    ("moment", "same"), [("optimizer_step", 1), ("end_of_forward", 0), ("loss_backward", 0)]
)
def test_where_the_peak_lies_is_compared(moment: str, same: int) -> None:
    text = report(foretold((FULL, 2_000_000), moment=moment), [measured(FULL)])
    assert f"foretold part of the step in {same} of 1 records" in text
    (row,) = table(text, "Every case")
    assert row[5:7] == [moment, "optimizer" if same else "**optimizer**"]


@pytest.mark.parametrize(
    ("peak", "record", "shown"),
    [
        (1_999_999, measured(EDGES[0]), ["fits", "fits", "yes"]),
        (2_000_000, failed(EDGES[0], "oom"), ["fits", "does not fit", "no"]),
        (2_000_001, failed(EDGES[0], "host_oom"), ["does not fit", "does not fit", "yes"]),
        (2_000_001, measured(EDGES[0]), ["does not fit", "fits", "no"]),
        (
            1_000,
            measured(EDGES[0], health={"num_alloc_retries": 2}),
            ["fits", "fits only after giving memory back", "no"],
        ),
        (1_000, failed(EDGES[0], "crash"), ["fits", "crash", ""]),
        (1_000, None, ["fits", "not measured", ""]),
    ],
)
def test_edges_say_whether_the_verdict_was_right(
    peak: int, record: Record | None, shown: list[str]
) -> None:
    text = report(foretold((EDGES[0], peak)), [record] if record else [])
    (row,) = table(text, "Emulated cards")
    assert row[:2] == ["1.91 MiB", "3"]
    assert row[3:] == shown
    assert f"Right in {int(shown[2] == 'yes')} of {int(shown[2] != '')}." in text


def test_a_context_leaves_less_of_an_emulated_card() -> None:
    """The most published of an H100 beside a peak on CUDA, nothing on a CPU; and no verdict without
    a card."""
    on_cuda = replace(EDGES[0], workload=workload(device="cuda"))
    roomy = replace(on_cuda, conditions=replace(CARD, budget_bytes=2**30))
    room = 2**30 - context_of("h100_sxm_80gb").most_bytes
    assert 0 < room < 2**30
    assert predictions.fits(roomy, room) is True
    assert predictions.fits(roomy, room + 1) is False
    assert predictions.fits(replace(roomy, workload=EDGES[0].workload), 2**30) is True
    assert predictions.fits(FULL, 1) is None


def test_names_tell_cases_apart() -> None:
    """Of the GPU's suite no two cases are called the same, and each says in what it differs."""
    cases = suites()["h100_campaign"]("cuda")
    rows = table(report(predictions.predictions("h100_campaign", cases), [], cases), "Every case")
    assert len({row[0] for row in rows}) == len(cases)
    assert "meta-llama/Llama-3.2-1B, lora, 4 x 2048, dropout 0.05" in {row[0] for row in rows}
    assert "meta-llama/Meta-Llama-3-8B, lora, 6 x 2048, checkpointing True, budget 40.00 GiB" in {
        row[0] for row in rows
    }


def test_of_several_records_of_one_id_the_last_whole_one_counts() -> None:
    cut = replace(failed(FULL, "interrupted"), ended_at="2026-11-01T12:00:00+00:00")
    first = measured(FULL)
    second = replace(measured(FULL, 2_000_002), ended_at="2026-11-01T11:00:00+00:00")
    assert blind.latest([second, cut, first]) == [second]
    assert blind.latest([cut]) == [cut]
    assert len(blind.latest([first, measured(FULL, repeat=1)])) == 2


def test_what_makes_it_no_blind_prediction_stands_at_its_head() -> None:
    text = report(foretold((FULL, 1)), [measured(FULL)], problems=["It was measured first."])
    assert "- **It was measured first.**" in text.partition("\n## ")[0]


# --- the command ----------------------------------------------------------------------------------


def write(path: Path, rows: Sequence[Record]) -> Path:
    path.write_text("".join(json.dumps(record_dict(record)) + "\n" for record in rows))
    return path


def test_the_report_is_of_the_file_and_not_predicted_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that says something else than the present rules would is taken at its word."""
    cases = suites()["tiny"]("cpu")
    predictions.write("tiny", cases, tmp_path)
    said = json.loads((tmp_path / "tiny.json").read_text())
    said["cases"][0]["peak_bytes"] = 4_000_000
    said["sha256"] = predictions.digest(said)
    (tmp_path / "tiny.json").write_text(json.dumps(said))
    rows = write(tmp_path / "rows.jsonl", [measured(cases[0])])
    arguments = ["report", "tiny", "--predictions", str(tmp_path), "--records", str(rows)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    found = table(text, "Every case")
    assert found[0][1:5] == ["ok", "3.81 MiB", "1.91 MiB", "+100.00 %"]
    assert [row[1] for row in found[1:]] == ["not measured"] * 3
    assert f"sha256 {said['sha256']}" in text
    assert main([*arguments, "-o", str(tmp_path / "report.md")]) == 0
    assert (tmp_path / "report.md").read_text() == text


def test_a_report_of_changed_predictions_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = suites()["tiny"]("cpu")
    path = predictions.write("tiny", cases, tmp_path)
    path.write_text(path.read_text().replace('"peak_bytes":', '"peak_bytes":1', 1))
    rows = write(tmp_path / "rows.jsonl", [measured(cases[0]), measured(FULL)])
    assert main(["report", "tiny", "--predictions", str(tmp_path), "--records", str(rows)]) == 1
    head = capsys.readouterr().out.partition("\n## ")[0]
    assert "changed after they were written" in head
    assert f"{measured(FULL).id} was measured, but not predicted" in head


def test_there_is_no_report_without_predictions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "tiny"]) == 2
    assert "there are no predictions of tiny" in capsys.readouterr().err


def test_predictions_of_a_rehearsal_do_not_take_the_place_of_the_real_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = (predictions.PREDICTIONS / "h100_campaign.json").read_bytes()
    assert main(["predict", "h100_campaign", "--device", "cpu", "--force"]) == 2
    assert "--into DIR" in capsys.readouterr().err
    assert (predictions.PREDICTIONS / "h100_campaign.json").read_bytes() == before


def percent(text: str) -> float:
    """What `error_text` writes, as a number: 'exact', '+<0.01 %' or '-1.25 %'."""
    return 0.0 if text == "exact" else float(text.removesuffix(" %").replace("<", ""))


def test_a_rehearsal_goes_the_whole_way_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predict, run, report: an edge of the GPU's suite, of which the second batch does not fit,
    really trained."""
    whole = suites()["h100_campaign"]("cpu")
    edges = [case for case in whole if case.conditions.budget_bytes is not None][:2]
    monkeypatch.setattr(
        "benchmarks.campaign.suites", lambda: {"h100_campaign": lambda device: tuple(edges)}
    )
    rehearsal = ["--predictions", str(tmp_path)]
    on_cpu, folder = ["h100_campaign", "--device", "cpu"], str(tmp_path)
    assert main(["predict", *on_cpu, "--into", folder]) == 0
    assert main(["run", *on_cpu, "--out", folder, *rehearsal]) == 0
    assert "not foretold" not in capsys.readouterr().out
    stored = ["--records", str(tmp_path / "records.jsonl")]
    assert main(["report", "h100_campaign", *rehearsal, *stored]) == 0
    text = capsys.readouterr().out
    assert [row[3:] for row in table(text, "Emulated cards")] == [
        ["fits", "fits", "yes"],
        ["does not fit", "does not fit", "yes"],
    ]
    rows = table(text, "Every case")
    assert [row[1] for row in rows] == ["ok", "oom"]
    assert all(abs(percent(row[4])) < 1 for row in rows[:1]), rows
    assert rows[1][3].startswith("at least ") and rows[1][4].startswith("at most ")
