"""A run while it goes: where each case stands, how long the rest takes, and rows that keep to the
terminal's width."""

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from lora_profiler.measuring.harness import Heartbeat, make_case
from lora_profiler.measuring.records.record import (
    Conditions,
    Failure,
    PhaseSample,
    Readings,
    readings_from_dict,
)
from lora_profiler.memory.prediction import PHASES
from lora_profiler.planning.engine import predict
from lora_profiler.question.workload import LoraConfig, Workload
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.running import (
    _WIDTHS,
    COLUMNS,
    column_widths,
    drawn,
    footer,
    row_distinctions,
    shown_runs,
    status_text,
    window,
)
from lora_profiler.runs.campaign.planned import Planned
from lora_profiler.runs.campaign.progress import Progress
from records import WORKLOAD, make_record


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def planned(rank: int | None = None, repeat: int = 0, seed: int = 0, **setup: Any) -> Planned:
    lora = None if rank is None else LoraConfig(r=rank)
    workload = Workload(model=WORKLOAD.model, setup=replace(WORKLOAD.setup, lora=lora, **setup))
    return Planned(
        case=make_case(workload, Conditions(seed=seed), repeat=repeat), prediction=predict(workload)
    )


def record_of(each: Planned, **measured: Any) -> Any:
    return make_record(
        each.case.workload, conditions=each.case.conditions, repeat=each.case.repeat, **measured
    )


def progress_of(*cases: Planned, clock: Clock | None = None, **options: Any) -> Progress:
    progress = Progress(clock=clock or Clock(), **options)
    for each in cases:
        progress.add(each)
    return progress


def run(progress: Progress, clock: Clock, index: int, seconds: float, **measured: Any) -> None:
    each = progress.rows[index].planned
    progress.started(index, each.case)
    clock.now += seconds
    progress.finished(index, record_of(each, **measured), False)


# --- times ----------------------------------------------------------------------------------------


def test_time_left_is_known_once_something_is_known() -> None:
    clock = Clock()
    progress = progress_of(
        planned(), planned(rank=4), planned(batch_size=4), planned(rank=8), clock=clock
    )
    assert progress.seconds_left() is None
    progress.started(0, progress.rows[0].planned.case)
    clock.now += 5
    assert progress.seconds_left() is None
    run(progress, clock, 0, 10)
    assert progress.seconds_left() == 30  # nothing else is known of the two LoRAs
    run(progress, clock, 1, 40)
    assert progress.seconds_left() == 10 + 40  # by kind: one more in full, one more LoRA
    progress.started(2, progress.rows[2].planned.case)
    clock.now += 4
    assert progress.seconds_left() == 6 + 40
    clock.now += 100
    assert progress.seconds_left() == 40  # it takes longer than thought, which gives no time back
    assert progress.seconds_gone == 159


def test_cases_side_by_side_share_the_time_that_is_left() -> None:
    clock = Clock()
    progress = progress_of(*[planned()] * 5, clock=clock)
    progress.at_once = 2
    run(progress, clock, 0, 10)
    assert progress.seconds_left() == 4 * 10 / 2


def test_a_case_takes_what_it_took_before_and_what_is_stored_takes_nothing() -> None:
    clock = Clock()
    cases = planned(), planned(rank=4)
    progress = progress_of(
        *cases, clock=clock, earlier=[record_of(cases[0]), record_of(cases[1], status="oom")]
    )
    assert progress.rows[0].expected == 60  # records of this stand-in last a minute
    assert progress.rows[1].expected is None  # what ran out of memory before may take longer now
    progress.finished(1, record_of(cases[1]), True)
    assert progress.seconds_left() == 60
    assert progress.elapsed(progress.rows[1]) is None


def test_probes_have_their_own_rows() -> None:
    progress, clock = progress_of(planned()), Clock()
    place = progress.add(planned(batch_size=3))
    progress.started(place, progress.rows[1].planned.case)
    assert [row.state for row in progress.rows] == ["waiting", "running"]
    progress.interrupt(None)
    assert [row.state for row in progress.rows] == ["waiting", "interrupted"]
    assert clock.now == 100


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beat", "text"),
    [
        (None, "starting"),
        (Heartbeat(phase="load"), "loading the model"),
        (Heartbeat(phase="backward", step=2), "step 2: backward"),
        (Heartbeat(phase="loss", step=1), "step 1: the loss"),
        (Heartbeat(phase="timing"), "timing"),
        (Heartbeat(phase="timing", done=1), "timing, 1 step"),
        (Heartbeat(phase="timing", done=1200), "timing, 1,200 steps"),
        (Heartbeat(phase="something new"), "something new"),
    ],
)
def test_status_text(beat: Heartbeat | None, text: str) -> None:
    progress = progress_of(planned())
    assert status_text(progress.rows[0]) == "waiting"
    progress.started(0, progress.rows[0].planned.case)
    if beat:
        progress.progressed(0, beat)
    assert status_text(progress.rows[0]) == text


def test_every_status_text_fits_its_column() -> None:
    texts = [f"step 4: {run_labels.PHASE_SHORT[phase]}" for phase in PHASES]
    texts += [*run_labels.STAGE_LABELS.values(), *run_labels.STATUS_LABELS.values()]
    assert max(map(len, texts)) <= _WIDTHS["status"]


def test_an_event_for_each_start_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    progress = progress_of(planned(), planned(rank=4), clock=clock)
    with shown_runs(progress, total=2, deadline_seconds=None, transient=False):
        run(progress, clock, 0, 75.2)
        progress.started(1, progress.rows[1].planned.case)
        progress.progressed(1, Heartbeat(phase="backward", step=2))
        progress.interrupt(None)
    events = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    assert [(e["case"], e["of"], e["state"], e["left_s"]) for e in events] == [
        (1, 2, "running", None), (1, 2, "done", 75), (2, 2, "running", 75), (2, 2, "interrupted", 0)
    ]  # fmt: skip


def test_runs_of_one_case_are_numbered_and_settings_named_where_they_differ() -> None:
    rows = progress_of(
        planned(batch_size=1), planned(batch_size=2), planned(batch_size=2, repeat=1)
    ).rows
    assert row_distinctions(rows) == ["batch 1, run 1", "batch 2, run 1", "batch 2, run 2"]


def test_the_footer_counts_what_ended_how() -> None:
    clock = Clock()
    progress = progress_of(planned(), planned(rank=4), planned(rank=8), clock=clock)
    assert footer(progress) == "0 of 3 done; 0:00 gone. Ctrl-C keeps what is done."
    run(progress, clock, 0, 60)
    run(progress, clock, 1, 30, status="oom", failure=Failure(reason="full"))
    done, times = (
        "2 of 3 done (1 out of memory)",
        "1:30 gone, about 0:30 left, 3:30 to the deadline",
    )
    assert footer(progress, 300.0) == f"{done}; {times}. Ctrl-C keeps what is done."


# --- the live table -------------------------------------------------------------------------------


def screen(progress: Progress, width: int, height: int = 30) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    console.print(drawn(progress, row_distinctions(progress.rows), width, height))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def busy(count: int = 4) -> Progress:
    clock = Clock()
    cases = [
        planned(rank=4 * i or None, batch_size=1 + i % 3, checkpointing=bool(i % 2))
        for i in range(count)
    ]
    progress = progress_of(*cases, clock=clock)
    run(progress, clock, 0, 7)
    full = Failure(reason="full")
    run(progress, clock, 1, 4000, status="oom", failure=full, peak_requested_bytes=57 * 2**30 // 5)
    progress.started(2, cases[2].case)
    progress.progressed(2, Heartbeat(phase="optimizer_build"))
    return progress


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_rows_keep_to_the_width_and_their_numbers_stay_whole(width: int) -> None:
    lines = screen(busy(), width)
    assert all(len(text.rstrip()) <= width for text in lines)
    assert len(lines) == 1 + 4 + (2 if width == 80 else 1)
    assert ">= 11.40 GiB" in lines[2] and "1:06:40" in lines[2]
    place, end = lines[0].index("status"), lines[0].index("peak") + len("peak")
    said = [text[place:].split("  ")[0].strip() for text in lines[1:5]]
    assert said == ["ok", "out of memory", "making the optimizer", "waiting"]
    assert lines[1][:end].endswith("1.91 MiB")


def test_a_wide_terminal_shows_all_columns_and_a_narrow_one_leaves_the_prediction_out() -> None:
    words = ["batch 1, checkpointing, 12 tokens"]
    assert tuple(column_widths(160, ["gpt2"], words)) == COLUMNS
    left_out = {width: {*COLUMNS} - {*column_widths(width, ["gpt2"], words)} for width in (100, 72)}
    assert left_out == {100: {"predicted"}, 72: {"predicted", "error"}}
    assert "setup" not in column_widths(160, ["gpt2"], [""])
    for width in range(60, 200):
        sizes = column_widths(width, ["a-model-with-a-long-name"], words)
        assert sum(sizes.values()) + 2 * (len(sizes) - 1) <= max(width, 80)


def test_the_row_that_runs_is_in_sight_in_a_long_list() -> None:
    clock = Clock()
    progress = progress_of(*(planned(batch_size=1 + i) for i in range(40)), clock=clock)
    for i in range(25):
        run(progress, clock, i, 1)
    progress.started(25, progress.rows[25].planned.case)
    first, last = window(progress.rows, 12)
    assert last - first == 12
    assert first < 25 < last - 1
    lines = screen(progress, 100, 16)
    assert len(lines) <= 16
    assert any("starting" in text for text in lines)
    assert window(progress.rows[:3], 12) == (0, 3)
    assert window([], 12) == (0, 0)


# --- for other programs ---------------------------------------------------------------------------


READ = Readings(
    phases=(PhaseSample(step=1, phase="forward", requested_peak_bytes=5),), step_seconds=(0.25, 0.5)
)


def test_every_heartbeat_is_a_line_of_json_where_that_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    progress = progress_of(planned(), planned(rank=4), clock=clock)
    with shown_runs(progress, total=2, deadline_seconds=None, transient=False, as_json=True):
        observer, case = progress, progress.rows[1].planned.case
        observer.started(1, case)
        observer.progressed(1, Heartbeat(phase="backward", step=2))
        observer.progressed(1, Heartbeat(phase="timing", done=7, read=READ))
        observer.finished(1, record_of(progress.rows[1].planned, status="noisy"), False)
    lines = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    whose = {"case": 2, "of": 2, "model": "tiny-gpt2", "method": "lora"}
    assert all(told.items() >= whose.items() for told in lines)
    assert [[told[k] for k in ("state", "phase", "step", "done", "status")] for told in lines] == [
        ["running", None, None, None, None],
        ["running", "backward", 2, None, None],
        ["running", "timing", None, 7, None],
        ["done", None, None, None, "noisy"],
    ]
    nothing = Readings()
    read = [readings_from_dict(told["read"]) for told in lines]
    assert read == [nothing, nothing, READ, nothing]
    predicted = progress.rows[1].planned.prediction.peak.total_bytes
    assert {told["predicted_bytes"] for told in lines} == {predicted}
    assert [told["record_id"] for told in lines] == [None, None, None, progress.rows[1].record.id]  # type: ignore[union-attr]
