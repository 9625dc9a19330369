"""What the pages are put together from: escaped text, records from files and uploads, filters, and
a followed process."""

import json
import os
import re
import signal
import sys
import threading
import time
from dataclasses import replace
from html import escape, unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lora_profiler
import records
from dashboard_app import ROOT, figures, opened, problems, tags_of, text_of, texts
from lora_profiler._common.messages import printable
from lora_profiler.dashboard import export, following, measuring, serving, widgets
from lora_profiler.dashboard import records as shown_records
from lora_profiler.dashboard.answered import Answered, answered
from lora_profiler.dashboard.compare_page import FILTERS, choices, filtered, runs
from lora_profiler.dashboard.following import AlreadyRunningError
from lora_profiler.dashboard.measure_page import where
from lora_profiler.dashboard.measuring import BenchConditions, Measuring, read_case
from lora_profiler.dashboard.question import Question
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.measuring.records.load import StoreError
from lora_profiler.measuring.records.record import Failure
from lora_profiler.measuring.records.serialize import record_dict
from lora_profiler.planning.engine import predict
from lora_profiler.planning.fit import BEYOND, batches, fit, lengths, size_fits
from lora_profiler.planning.setups import DEFAULTS
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from lora_profiler.report.blocks import (
    Bar,
    Bars,
    Card,
    Drawing,
    Row,
    Table,
    VerdictLine,
    heading,
    paragraph,
)
from lora_profiler.report.measured.comparisons import run_name
from lora_profiler.report.page import embedded_data
from lora_profiler.report.page.accuracy import errors_drawing, scatter_drawing
from lora_profiler.report.page.runs import numbered
from lora_profiler.report.page.write import drawn
from lora_profiler.runs.comparison.errors import scored
from lora_profiler.runs.comparison.throughput import throughput
from lora_profiler.units import GIB
from waiting import wait_until

# --- text -----------------------------------------------------------------------------------------

TEXTS = st.text(max_size=40) | st.sampled_from(
    ["<script>", "</p><b>", "&amp;", '" onload="x', "a\x1b[2Jb", "\u202ekcab", "<!--"]
)


@given(TEXTS)
def test_any_text_is_shown_word_for_word(text: str) -> None:
    expected = text_of(f"<p>{escape(printable(text))}</p>")
    for html in (
        drawn("note", "problem", [text], ""),
        drawn("small", [text]),
        drawn("title", text, []),
        drawn("section", text),
    ):
        assert text_of(html) in (expected, text_of(re.sub("`([^`]*)`", r"\1", expected)))
        assert tags_of(html) <= {"div", "p", "h1", "h2", "code"}
    picture = drawn("picture", "data:,", text)
    assert tags_of(picture) == {"div", "img"}
    assert unescape(picture.split('"')[-2]) == printable(text)


@given(TEXTS, TEXTS)
def test_tables_hold_their_cells_as_text(name: str, cell: str) -> None:
    rows = (
        Row(cells=(name,), kind="section"),
        Row(cells=(name, cell), indent=1),
        Row(cells=(name,), kind="total"),
    )
    html = drawn(
        "blocks", [Table(title=name, columns=("", cell or "x"), rows=rows), paragraph(cell)]
    )
    table = {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert tags_of(html) <= {"div", "p", "code", *table}
    assert html.count("<tr") == 3 + 1 and html.count("<td") + html.count("<th ") == 2 + 1 + 2 + 2


def test_every_kind_of_block_is_drawn() -> None:
    """The sign of a verdict, what is to be typed as code, bars with their numbers, and a heading."""
    bars = Bars(rows=(Bar(name="LoRA r16", parts={"weights": 3 * GIB}, overhead_bytes=GIB),))
    blocks = (
        VerdictLine(sign="fits", words="LoRA fits:", rest=" 3 GiB."),
        paragraph("Add `--checkpointing`, or wait."),
        bars,
        heading("Parts"),
    )
    html = drawn("blocks", blocks)
    assert "<strong>✓ LoRA fits:</strong> 3 GiB." in html
    assert "Add <code>--checkpointing</code>, or wait." in html
    assert "<code>gpus</code>." in drawn("small", ["List: `gpus`."])
    timed = drawn("bars", bars._replace(rows=(bars.rows[0]._replace(speed="9"),), speed_title="/s"))
    assert "<span>/s</span>" in timed
    assert "LoRA r16\n3.00 + 1.00\nweights 3.00" in text_of(html) and "<h2>Parts</h2>" in html


def test_a_short_name_of_a_row_is_in_one_line() -> None:
    """Of which the style sheet breaks none on a phone."""
    html = drawn("blocks", [Table(columns=("", "x"), rows=(Row(cells=("LoRA r16", "1")),))])
    assert '<th scope="row" class="s">LoRA r16</th>' in html


@given(TEXTS.filter(lambda text: printable(text).strip()))  # of blanks alone nothing is shown
def test_cards_hold_their_texts_as_text(text: str) -> None:
    rows = Card(label=text, rows=((text, text, ""),), note=text)
    html = drawn("cards", [Card(label=text, value=text, note=text), rows], 2)
    cells = {"table", "tbody", "tr", "th", "td"}
    assert tags_of(html) <= {"div", "section", "h2", "p", *cells}
    assert html.count("<td") + html.count("<th ") == 1 + 1  # a column that no row fills has none
    shown = text_of(f"<p>{escape(printable(text))}</p>")
    assert text_of(html).count(shown) >= 7  # label, value and note, label, row's name, cell, note


@given(TEXTS)
def test_labels_of_widgets_are_no_markdown(text: str) -> None:
    """Every ASCII mark stands behind a backslash, which Markdown takes for the mark itself."""
    label = widgets.plain(text)
    assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", label) == printable(text)
    assert not re.search(r"[!-/:-@\[-`{-~]", re.sub(r"\\[!-/:-@\[-`{-~]", "", label))


@given(TEXTS)
def test_any_name_makes_a_file_name(text: str) -> None:
    name = export.plain_name(text)
    assert name and "/" not in name and not name.startswith(".") and name == os.path.basename(name)


# --- how it is served -----------------------------------------------------------------------------


def test_the_checkout_s_own_configuration_is_the_launcher_s() -> None:
    committed = ROOT / ".streamlit" / "config.toml"
    assert committed.read_text("utf-8") == serving.config_toml(), (
        "python -m lora_profiler.dashboard.serving > .streamlit/config.toml"
    )


def test_streamlit_knows_every_setting_and_serves_this_machine_alone() -> None:
    from streamlit import config

    for name in serving.SERVED:
        assert name in config._config_options_template, name
    assert serving.SERVED["server.address"] == "127.0.0.1"
    assert serving.SERVED["browser.gatherUsageStats"] is False
    told = {"allowedHosts=localhost", "headless=true", "port=8501"}
    assert {f"--server.{each}" for each in told} < set(serving.flags(8501, headless=True))


# --- records --------------------------------------------------------------------------------------


def lines(*found: Any) -> bytes:
    return records.jsonl(found).encode()


def test_only_what_was_asked_for_is_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "stray.jsonl").write_bytes(lines(records.make_record()))
    committed = ROOT / "benchmarks" / "records"
    assert [s.path for s in shown_records.sources([])] == [committed]
    asked = ["--records", "a.jsonl", "--other", "--records", str(tmp_path / "b")]
    found = shown_records.sources(asked)
    assert [s.path for s in found] == [Path("a.jsonl"), tmp_path / "b", committed]
    assert len({s.label for s in found}) == 3


def all_of(source: Any) -> Any:
    """What is shown when the rest is read."""
    shown_records.loaded(source, "auto")
    shown_records.read_on()
    wait_until(lambda: not shown_records.still_reading())
    return shown_records.loaded(source, "auto")


def test_of_a_large_file_a_part_is_shown_until_all_of_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.jsonl"
    path.write_bytes(lines(*(records.make_record(repeat=n) for n in range(40))))
    no_committed_records = str(tmp_path / "lora_profiler" / "__init__.py")
    monkeypatch.setattr(lora_profiler, "__file__", no_committed_records)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(shown_records, "AT_ONCE_BYTES", 10_000)
    monkeypatch.setattr(shown_records, "_FIRST_BYTES", path.stat().st_size // 4)
    may_read = threading.Event()
    read = shown_records.read_set
    monkeypatch.setattr(shown_records, "read_set", lambda paths: may_read.wait(30) and read(paths))
    source = shown_records.RecordSource(label="large", path=path)
    part = shown_records.loaded(source, "auto")
    assert not part.complete and 0 < len(part.scored) < 40 and shown_records.still_reading()
    monkeypatch.setattr(sys, "argv", ["app.py", "--records", str(path)])
    app = opened(page="compare")
    assert "first records of a large file" in texts(app) and not app.exception
    assert shown_records.still_reading() and not shown_records.loaded(source, "auto").complete
    may_read.set()
    whole = all_of(source)
    assert whole.complete and [s.record.repeat for s in whole.scored] == list(range(40))
    assert not shown_records.still_reading() and shown_records.loaded(source, "auto") is whole


def test_a_large_file_without_a_record_is_refused_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.jsonl"
    path.write_bytes(b"nonsense\n" * 100)
    monkeypatch.setattr(shown_records, "AT_ONCE_BYTES", 10)
    asked: list[Any] = []
    read = shown_records.read_set
    monkeypatch.setattr(shown_records, "read_set", lambda paths: asked.append(paths) or read(paths))
    source = shown_records.RecordSource(label="large", path=path)
    assert shown_records.loaded(source, "auto").scored == () and not asked
    for _ in range(3):
        with pytest.raises(StoreError, match="No record can be read"):
            all_of(source)
    assert len(asked) == 1


def test_sources_of_one_name_are_told_apart(tmp_path: Path) -> None:
    places = [str(tmp_path / name / "r.jsonl") for name in ("a", "b")]
    found = shown_records.sources(["--records", places[0], "--records", places[1]])
    assert len({s.label for s in found}) == len(found)


def test_a_source_is_read_again_when_it_has_grown(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(lines(records.make_record()))
    source = shown_records.RecordSource(label="r", path=path)
    first = shown_records.loaded(source, "auto")
    assert shown_records.loaded(source, "auto") is first
    path.write_bytes(lines(records.make_record(), records.make_record(repeat=1)))
    assert len(shown_records.loaded(source, "auto").scored) == 2


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_any_upload_is_records_or_a_refusal(content: bytes) -> None:
    with pytest.raises(StoreError, match=r"x\.jsonl"):
        shown_records.uploaded("x.jsonl", content, "auto")


def test_an_upload_is_lines_or_what_bench_printed() -> None:
    record = records.make_record()
    newer = replace(record, ended_at="2026-11-02T00:00:00+00:00")
    (only,) = shown_records.uploaded("x.jsonl", lines(newer, record), "auto").scored
    assert only.record == newer  # of one id the one that ended last
    document = dict(json.loads(export.of_records(scored([record]), "x")[0][3]()))
    (again,) = shown_records.uploaded("x.json", json.dumps(document).encode(), "auto").scored
    assert again.record == record
    many = b"".join(b'{"number": %d}\n' % n for n in range(40)) + lines(record)
    found = shown_records.uploaded("x.jsonl", many, "auto")
    assert len(found.scored) == 1 and len(found.warnings) == 4 and "37 more" in found.warnings[-1]


def test_several_sources_are_one_set(tmp_path: Path) -> None:
    record = records.make_record()
    newer = replace(record, ended_at="2026-11-02T00:00:00+00:00")
    one = shown_records.Loaded(scored=tuple(scored([newer])), warnings=("a",))
    two = tuple(scored([record, records.make_record(repeat=1)]))
    other = shown_records.Loaded(scored=two, warnings=("b",))
    found = shown_records.merged((one, other))
    assert [s.record.repeat for s in found.scored] == [0, 1] and found.warnings == ("a", "b")
    assert found.scored[0].record == newer


def some_runs() -> Any:
    failed = {"status": "oom", "failure": Failure(reason="no room"), "step_seconds": None}
    found = [
        records.make_record(),
        records.make_record(records.LORA_WORKLOAD),
        records.make_record(device=records.H100),
        records.make_record(records.LORA_WORKLOAD, repeat=1, **failed),
    ]
    return runs(shown_records.Loaded(scored=tuple(scored(found)), warnings=()))


CHOSEN = {by: st.lists(st.sampled_from(choices(some_runs(), by)), unique=True) for by in FILTERS}


@given(st.fixed_dictionaries(CHOSEN))
def test_filters_let_through_what_has_all_of_them(wanted: Any) -> None:
    found = filtered(some_runs(), wanted)
    for run in some_runs():
        has_all = all(not names or getattr(run, by) in names for by, names in wanted.items())
        assert (run in found) == has_all


def test_speeds_in_the_table_are_those_of_the_record() -> None:
    for run in some_runs():
        speed = throughput(run.scored.record)
        assert (run.step_seconds, run.tokens_per_second) == (
            (speed.steps.median, speed.tokens_per_second) if speed else (None, None)
        )
        assert run.name == f"#{run.number} {run_name(run.scored.record)}"


def test_two_records_are_compared_where_one_holds_nothing() -> None:
    made = [records.make_record(peak_requested_bytes=size) for size in (0, 2**20)]
    table = shown_records.pair_table(*numbered(scored(made)))
    (peak,) = (row.cells for row in table.rows if row.cells[0] == "peak, measured")
    assert peak[1:] == ("0 B", "1.00 MiB", "")


def test_figures_of_many_records_leave_out_what_was_not_compared() -> None:
    compared = [run for run in some_runs() if run.status == "ok"]
    assert len(compared) == 3
    by_method = dots(errors_drawing(some_runs(), "method"))
    assert len(dots(scatter_drawing(some_runs()))) == len(by_method) == len(compared)
    assert {text.split("<br>")[0] for text in by_method} == {run.name for run in compared}
    strips = errors_drawing(some_runs(), "method").figure["layout"]["yaxis"]["ticktext"]
    assert strips == ["full<br>n = 2", "LoRA<br>n = 1"]
    devices = errors_drawing(compared, "device").figure
    drawn_at = [x for trace in devices["data"] if trace["name"] != "median" for x in trace["x"]]
    errors = [100 * run.error for run in compared if run.error is not None]
    assert sorted(drawn_at) == sorted(errors)


def dots(drawing: Drawing) -> list[str]:
    """What is shown where a run is pointed at."""
    marks = (trace for trace in drawing.figure["data"] if trace["name"] != "median")
    return [text for trace in marks for text in trace.get("hovertext", ())]


# --- sizes that fit -------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LoraConfig(r=8)])
def test_every_cell_of_the_map_is_its_own_prediction_and_verdict(lora: LoraConfig | None) -> None:
    setup = TrainSetup(lora=lora, batch_size=3, seq_len=200)
    workload = Workload(model=find_model("gpt2"), setup=setup)
    gpu = find_gpu("custom:4GiB")
    cells = size_fits(predict(workload), gpu)
    assert (3, 200) in {(c.batch_size, c.seq_len) for c in cells}
    for of in ("batch_size", "seq_len"):
        last = max(getattr(c, of) for c in cells if c.verdict == "fits")
        assert len({getattr(c, of) for c in cells if getattr(c, of) > last}) <= BEYOND
    assert {"fits", "does_not_fit"} <= {c.verdict for c in cells}
    for cell in cells[::5]:
        sizes = {"batch_size": cell.batch_size, "seq_len": cell.seq_len}
        asked = replace(workload, setup=replace(setup, **sizes))
        judged = fit(asked, gpu)
        assert judged is not None
        assert (cell.peak_bytes, cell.verdict) == (predict(asked).peak.total_bytes, judged.verdict)


def test_the_map_ends_where_the_model_does() -> None:
    assert list(lengths(2048, 2048)) == [128, 256, 512, 1024, 2048]
    assert list(lengths(100, 1024)) == [100, 128, 256, 512, 1024]
    assert len(lengths(2048, 131_072)) == 9 and max(lengths(2048, 131_072)) == 131_072
    assert max(lengths(64, None)) == 8192 and list(batches(3)) == [1, 2, 3, 4, 8, 16, 32, 64]


# --- downloads ------------------------------------------------------------------------------------


def test_downloads_of_records_hold_all_of_them() -> None:
    found = scored([records.make_record(), records.make_record(records.LORA_WORKLOAD)])
    made = {label: make() for label, _, _, make in export.of_records(found, "records")}
    document = json.loads(made["JSON"])
    assert [r["id"] for r in document["records"]] == [s.record.id for s in found]
    assert len(document["comparisons"]) == sum(len(s.comparisons) for s in found)
    assert len(made["CSV of runs"].splitlines()) == 3
    assert len(made["CSV of errors"].splitlines()) == len(document["comparisons"]) + 1
    assert len(embedded_data(made["Report, HTML"])["records"]["record_id"]) == 2


# --- a measurement --------------------------------------------------------------------------------


class Process:
    """Stands in for a started one."""

    pid, stdout, stderr = -1, None, None


def followed(*heard: str, exit_code: int | None = None, **more: Any) -> Measuring:
    process: Any = Process()
    began = time.monotonic()
    found = Measuring(command="bench x", began=began, process=process, read=read_case, **more)
    for line in heard:
        found._handle_line(line)
    found.exit_code = exit_code
    return found


def told(**fields: Any) -> str:
    empty = dict.fromkeys(("of", "predicted_bytes", "phase", "step", "done", "status", "record_id"))
    case = {"case": 1, "model": "gpt2", "method": "full", "state": "running"}
    return json.dumps(empty | case | fields)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (told(), "starting"),
        (told(phase="load"), "loading the model"),
        (told(phase="backward", step=2), "step 2: backward"),
        (told(phase="timing", done=1), "timing, 1 step"),
        (told(status="oom", state="done"), "out of memory"),
        (told(phase="something new"), "something new"),
        (told(status="new"), "new"),
    ],
)
def test_where_a_case_stands_is_said_in_words(line: str, words: str) -> None:
    assert where(followed(line).states[1]) == words


@given(st.text(max_size=60))
def test_whatever_a_process_says_is_heard(line: str) -> None:
    found = followed(line, "{", "{}", '{"case": 1}', told(step=1, phase="forward"))
    assert list(found.states) == [1]


def test_what_is_read_while_a_case_runs_is_drawn_at_once(nothing_measured: Path) -> None:
    phases = [
        {"step": 1, "phase": phase, "requested_peak_bytes": size * 2**20}
        for phase, size in (("forward", 300), ("backward", 700))
    ]
    lines = [
        told(phase="forward", step=1, predicted_bytes=2**30),
        told(phase="backward", step=1, read={"phases": phases[:1]}, predicted_bytes=2**30),
        told(phase="timing", read={"phases": phases[1:]}, predicted_bytes=2**30),
        told(phase="timing", done=2, read={"warmup_seconds": [2.0]}, predicted_bytes=2**30),
        told(phase="timing", done=1, read={"step_seconds": [1.5]}, predicted_bytes=2**30),
    ]
    following._started["measuring"] = followed(*lines)
    drawn = figures(opened(page="measure", model="gpt2", seq_len="64"))
    memory, times = drawn["measure.memory"], drawn["measure.times"]
    assert memory["data"][0]["y"] == [300 / 1024, 700 / 1024]
    notes = [note["text"] for note in memory["layout"]["annotations"]]
    assert notes == ["step 1", "predicted peak: 1.00 GiB"]
    assert [(trace["x"], trace["y"]) for trace in times["data"]] == [([1], [2.0]), ([2], [1.5])]
    following._started["measuring"] = followed(*lines[:1])
    assert not figures(opened(page="measure", model="gpt2", seq_len="64"))


def test_why_nothing_was_measured_is_its_own_last_word() -> None:
    said = ("warning: long", "error: no torch here", "  Install it.")
    assert followed(*said, exit_code=4).refusal() == "no torch here\nInstall it."
    assert followed("Traceback", "KeyError: 1", exit_code=1).refusal() == "Traceback\nKeyError: 1"
    assert followed(exit_code=1).refusal() == "It ended with 1."
    assert followed("error: x", exit_code=0, document={"records": []}).refusal() is None
    assert followed("error: x", exit_code=130, cancelled=True).refusal() is None
    assert followed("error: x").refusal() is None


@pytest.fixture
def nothing_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(following, "_started", {})
    monkeypatch.setattr(sys, "argv", ["app.py"])
    return tmp_path


def ended(found: Measuring) -> Measuring:
    wait_until(lambda: not found.runs)
    assert not found.runs
    return found


LARGE = Question(model="meta-llama/Llama-3.1-405B", options={**DEFAULTS, "methods": ("full",)})


def test_what_this_machine_cannot_hold_is_refused_before_it_is_started(
    nothing_measured: Path,
) -> None:
    app = opened(page="measure", model=LARGE.model, method=["full"])
    app.selectbox(key="measure.device").set_value("cpu").run()
    (problem,) = problems(app)
    assert problem.startswith("This machine cannot measure it\n")
    assert "by its prediction, and this machine has" in problem
    start = app.button(key="measure.start")
    assert start.disabled and not app.exception


def test_what_bench_refuses_is_shown_where_it_was_asked(nothing_measured: Path) -> None:
    found = ended(measuring.start(find_model("gpt2"), LARGE, BenchConditions(), uploaded=False))
    assert "by its prediction, and this machine has" in str(found.refusal())
    app = opened(page="measure", model="EleutherAI/pythia-14m", seq_len="32", method=["lora"])
    assert "Nothing was measured" in problems(app)[0] and not app.exception


def result_of(**options: Any) -> Answered:
    options = {**DEFAULTS, "device": "cpu", **options}
    asked = Question(model="EleutherAI/pythia-14m", options=options)
    return answered(find_model(asked.model), asked)


@pytest.mark.parametrize(
    ("options", "conditions", "says"),
    [
        ({"seq_len": 32}, BenchConditions(), None),
        ({"seq_len": 32}, BenchConditions(budget="much"), "much"),
        ({"seq_len": 2**20}, BenchConditions(), "this machine has"),
        ({"seq_len": 2**20}, BenchConditions(budget="100MiB"), None),
        ({"seq_len": 2**20}, BenchConditions(rehearsed_on="t4"), None),
    ],
)
def test_what_bench_would_refuse_is_known_before(
    options: dict[str, Any], conditions: BenchConditions, says: str | None
) -> None:
    found = measuring.refusal(result_of(**options), conditions)
    assert found is None if says is None else says in str(found)


def test_how_long_it_takes_is_told_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where no calibration is
    result = result_of(seq_len=32, methods=("lora",))
    assert "lora-profile calibrate" in measuring.duration_words(result, BenchConditions())
    rehearsed = measuring.duration_words(result, BenchConditions(rehearsed_on="t4"))
    assert "computes nothing" in rehearsed
    step = SimpleNamespace(step=SimpleNamespace(time=SimpleNamespace(seconds=2.0)), refusal=None)
    monkeypatch.setattr(measuring, "step_time", lambda *_, **__: step)
    for conditions, words in (
        (BenchConditions(), "about 30 s to about a minute,"),  # 3 + 10 steps; 3 steps and 60 s
        (BenchConditions(no_timing=True), "takes some seconds,"),
        (BenchConditions(no_timing=True, repeats=20), "takes about 2 min,"),
        (BenchConditions(timing_seconds=4.0), "takes about 10 s,"),
    ):
        assert words in measuring.duration_words(result, conditions)


def test_the_bar_goes_on_with_every_step() -> None:
    def share(*lines: str) -> float:
        return measuring.share(followed(*lines).states.values())

    steps = ({"phase": "forward", "step": n} for n in (1, 3))
    timed = ({"phase": "timing", "done": n} for n in (1, 500))
    shares = [
        share(told(of=2, **at)) for at in ({"phase": "load"}, *steps, *timed, {"status": "ok"})
    ]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 0.5
    assert share(told(of=2)) == share() == 0


def test_a_rehearsal_asks_bench_for_its_card_and_times_nothing() -> None:
    asked = BenchConditions(rehearsed_on="t4", budget="2GiB", steps=5)
    words = measuring.bench_arguments("gpt2", LARGE, asked)
    assert words[-3:] == ["--rehearse", "--gpu", "t4"]
    assert not {"--budget", "--steps", "--no-timing", "--device"} & set(words)


def test_a_rehearsal_without_its_environment_says_how_to_make_one(
    nothing_measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_PROFILER_CUDA_PYTHON", str(nothing_measured / "none"))
    app = opened(page="measure", model="EleutherAI/pythia-14m", seq_len="32", method=["lora"])
    app.selectbox(key="measure.rehearsed_on").set_value("rtx_4090").run()
    assert "Rehearse EleutherAI/pythia-14m on rtx_4090" in texts(app) and not problems(app)
    app.button(key="measure.start").click().run()
    found = ended(following.present("measuring"))  # type: ignore[arg-type]
    assert measuring.is_rehearsal(found)
    (problem,) = problems(app.run())
    assert problem.startswith("Nothing was measured\n") and "none" in problem


def started(monkeypatch: pytest.MonkeyPatch, code: str, model: str = "gpt2") -> Measuring:
    """A measurement of that model, in whose place Python runs `code`."""
    monkeypatch.setattr(following, "_COMMAND", (sys.executable, "-c", code))
    asked = Question(model=model)
    return measuring.start(find_model(model), asked, BenchConditions(), uploaded=False)


SLEEPS = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.{})
print("error: up", file=sys.stderr, flush=True)
time.sleep(60)
"""
TELLS_ITS_CONFIG = """
import json, os, sys
path = sys.argv[2]
mode = os.stat(os.path.dirname(path)).st_mode & 0o777
print(json.dumps({"records": [], "path": path, "mode": mode, "type": json.load(open(path))["model_type"]}))
"""


@pytest.mark.parametrize("what", ["default_int_handler", "SIG_IGN"])
def test_a_cancelled_process_ends_with_all_that_it_started(
    what: str, nothing_measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that winds up at Ctrl-C, and one that does not hear it."""
    monkeypatch.setattr(following, "WIND_UP_SECONDS", 5.0 if what == "default_int_handler" else 0.3)
    found = started(monkeypatch, SLEEPS.format(what))
    with pytest.raises(AlreadyRunningError, match="spoil each other"):
        started(monkeypatch, "")
    wait_until(lambda: bool(found.stderr_lines))
    found.cancel()
    ended(found)
    assert found.exit_code == (-signal.SIGTERM if what == "SIG_IGN" else found.exit_code) != 0
    assert found.refusal() is None and measuring.records(found) == []


def test_an_uploaded_config_lies_in_a_folder_of_its_own_while_it_is_measured(
    nothing_measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_COMMAND", (sys.executable, "-c", TELLS_ITS_CONFIG))
    model = replace(find_model("gpt2"), id="../../evil <b>")
    found = ended(measuring.start(model, Question(), BenchConditions(), uploaded=True))
    assert found.document is not None
    assert (found.document["type"], found.document["mode"]) == ("gpt2", 0o700)
    path = Path(found.document["path"])
    assert not path.exists() and "evil" in path.name
    assert "/" not in found.command.split()[2].strip("'")


def test_a_record_that_ran_out_of_memory_is_a_result(
    nothing_measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = Failure(reason="no room for 2 GiB", phase="backward", step=1)
    record = records.make_record(status="oom", failure=failure, step_seconds=None)
    document = {"schema_version": "1.0", "records": [record_dict(record)], "comparisons": []}
    ended(started(monkeypatch, f"print({json.dumps(document)!r})"))
    app = opened(page="measure", model="gpt2", seq_len="64")
    assert not app.exception and not problems(app)
    for part in ("tiny-gpt2, full: out of memory", "no room for 2 GiB", "Predicted: "):
        assert part in texts(app)


def test_what_is_no_record_spoils_no_page(
    nothing_measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(started(monkeypatch, 'print(\'{"records": [{"a": 1}]}\')'))
    app = opened(page="measure", model="gpt2", seq_len="64")
    assert "schema_version" in problems(app)[0]
