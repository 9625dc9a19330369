"""Plan as a page, run without a browser: the same plan as the command's, and what is refused."""

import json
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from streamlit.testing.v1 import AppTest

from commands import Run
from dashboard_app import asked, opened, problems, sound, texts
from lora_profiler.dashboard.link import parsed
from lora_profiler.dashboard.plan_question import PlanQuestion
from lora_profiler.planning.plan import TrainingPlan, make_plan
from lora_profiler.report.json.plan import plan_payload
from lora_profiler.units import GIB, short_in_unit

pytestmark = pytest.mark.usefixtures("own_window")

SMALL = {"page": "plan", "model": "openai-community/gpt2", "method": "lora", "seq_len": "256"}
CARDS = {**SMALL, "gpus": "t4, l4", "ranks": "8"}


def found(app: AppTest) -> TrainingPlan:
    """The plan that is on the page."""
    plan: TrainingPlan = app.session_state["once.plan"][-1][1]
    return plan


@pytest.mark.parametrize(
    "more",
    [
        {},
        {
            "rows": "25000",
            "mean-length": "100",
            "epochs": "2",
            "price": "t4=0.35/h, l4=0.7/h",
            "max-hours": "2",
        },
        {"lengths": "mean=100,max=400,samples=5000", "epochs": "3", "effective-batch": "32"},
        {"gpus": "2xl4", "method": ["lora", "qlora"], "max-cost": "0.0001"},
        {"trainer": "trl-sft", "targets": "attention", "ranks": "8..16"},
        {"gpus": "custom:1GiB", "engine": "analytic"},
    ],
)
def test_the_page_plans_as_the_command_that_it_shows(more: dict[str, Any], run: Run) -> None:
    app = opened(**{**CARDS, **{n.replace("-", "_"): v for n, v in more.items()}})
    app.session_state["export"] = True
    sound(app.run())
    plan = found(app)
    code = [element.value for element in app.code]
    if plan.recommended is None:
        assert len(code) == 0 and "No plan" in texts(app)
        return
    own, link, command = code
    (words,) = [shlex.split(command)[1:]]
    done = run(*words, "--format", "json")
    document = json.loads(done.stdout)
    question = asked(app)
    payload = plan_payload(plan, question.trainer_defaults, arguments(own))
    assert json.loads(json.dumps(payload)) == document
    assert document["recommended"]["run"]["command"] == own
    again = parsed(parse_qs(link.partition("?")[2]))
    assert not again.complaints
    assert again.plan == app.session_state["plan.asked"]


def arguments(command: str) -> tuple[str, ...]:
    """What the command of a run says of the data."""
    words = shlex.split(command)
    first = next((n for n, word in enumerate(words) if word in ("--data", "--lengths")), len(words))
    return tuple(words[first:])


ROWS = [{"text": "word " * n, "note": "x"} for n in (3, 40, 90, 200, 33, 120, 64, 5)]


def data_files() -> dict[str, bytes]:
    """The same samples as each kind of file, and a histogram."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    lines = "\n".join(map(json.dumps, ROWS))
    return {
        "rows.jsonl": lines.encode(),
        "rows.json": json.dumps(ROWS).encode(),
        "rows.parquet": sink.getvalue().to_pybytes(),
        "rows.txt": "\n".join(row["text"] for row in ROWS).encode(),
        "a name, with #.csv": b"length,count\n100,30\n250,4\n",
    }


@pytest.mark.parametrize(
    ("name", "column", "more"),
    [
        ("rows.jsonl", "", {}),
        ("rows.json", "note", {"batching": "grouped", "epochs": "2"}),
        ("rows.parquet", "text", {"batching": "packed", "seq_len": "512"}),
        ("rows.txt", "", {"pad_to_multiple_of": "64"}),
        ("a name, with #.csv", "", {"effective_batch": "8"}),
    ],
)
def test_a_file_of_data_is_planned_for_as_the_command_does(
    name: str,
    column: str,
    more: dict[str, str],
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = data_files()[name]
    (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    app = opened(**{**CARDS, **more})
    if "batching" in more or "pad_to_multiple_of" in more:  # which a link can say, without data
        assert "is about the lengths of samples; add Data file" in problems(app)[0]
    app.file_uploader(key="plan.upload").set_value((name, content, "application/octet-stream"))
    app.text_input(key="plan.column").set_value(column)
    app.session_state["export"] = True
    sound(app.run())
    plan = found(app)
    own, command = [element.value for element in app.code]  # and no link, which holds no file
    done = run(*shlex.split(command)[1:], "--format", "json")
    payload = plan_payload(plan, asked(app).trainer_defaults, arguments(own))
    document = json.loads(done.stdout)
    assert json.loads(json.dumps(payload)) == document
    assert document["recommended"]["run"]["command"] == own
    assert plan.amount.data is not None and f"{plan.amount.data.lengths.source}." in texts(app)
    if name != "a name, with #.csv":
        assert "Tokens are not counted but estimated" in texts(app)
    app.file_uploader(key="plan.upload").set_value(None)
    for field in ("batching", "pad_to_multiple_of"):
        if field in more:
            kind = "selectbox" if field == "batching" else "number_input"
            getattr(app, kind)(key=f"plan.{field}").set_value(None)
    assert plan.amount.data.lengths.source not in texts(sound(app.run()))


@pytest.mark.grid
@pytest.mark.parametrize(
    ("name", "content", "more", "says"),
    [
        ("e.jsonl", b"", {}, "e.jsonl is empty: it has no sample."),
        ("e.jsonl", b"\n\n", {}, "e.jsonl is empty"),
        ("e.jsonl", b'{"text": "a"}\n{"text":', {}, "e.jsonl, line 2, is not valid JSON"),
        ("e.jsonl", b"\xff\xfe", {}, "e.jsonl, line 1, is no text in UTF-8"),
        ("e.jsonl", b"[" * 100_000, {}, "e.jsonl, line 1, is not valid JSON"),
        ("e.json", b'[{"text": 1}, 2]', {}, "e.json, row"),
        ("e.jsonl", b'{"text": ""}', {}, "no text in its column text"),
        ("e.jsonl", b'{"length": 0}', {}, "must be a whole number from 1"),
        ("e.parquet", b"PAR1 no", {}, "e.parquet cannot be read"),
        ("e.arrow", b"\x00" * 64, {}, "e.arrow"),
        ("e.csv", b"512,30,1", {}, "e.csv, line 1, has 3 cells"),
        ("e.csv", b"", {}, "e.csv has no sample"),
        ("<b>x</b>.txt", b"\xff", {}, "<b>x</b>.txt, line 1, is no text in UTF-8"),
        (
            "e.jsonl",
            b'{"text": "a"}',
            {"lengths": "mean=100,max=400"},
            "Data file and Lengths of samples both say how long samples are",
        ),
    ],
)
def test_data_that_cannot_be_read_are_refused_in_a_line(
    name: str, content: bytes, more: dict[str, str], says: str
) -> None:
    app = opened(**{**CARDS, **more})
    app.file_uploader(key="plan.upload").set_value((name, content, "application/octet-stream"))
    (problem,) = problems(app.run())
    assert "This plan cannot be made" in problem and says in problem, problem
    assert "/tmp" not in problem and len(problem.splitlines()) <= 3, problem


def test_a_column_that_is_not_there_is_refused_with_those_that_are() -> None:
    app = opened(**CARDS)
    content = b'{"a": "b", "c": "d"}'
    app.file_uploader(key="plan.upload").set_value(("e.jsonl", content, "text/plain"))
    for column, says in (("", "'a', 'c'. Known"), ("b", "'b'"), ("../../etc", "etc")):
        app.text_input(key="plan.column").set_value(column)
        (problem,) = problems(app.run())
        assert says in problem and "e.jsonl" in problem, problem


def test_what_cannot_be_read_is_refused_in_the_form_s_words() -> None:
    for more, says in (
        ({"gpus": "t5"}, "t5"),
        ({"ranks": "many"}, "Ranks is 'many'; write them as in 8..128"),
        ({"price": "l4=cheap"}, "Prices is 'l4=cheap'; write a GPU and its price per hour"),
        ({"lengths": "mean=many,max=9"}, "many"),
        ({"lengths": "/etc/passwd"}, "Lengths of samples is '/etc/passwd'; write figures"),
        ({"gpus": "a" * 300}, "unknown GPU"),
        ({"engine": "traced"}, "traced"),
    ):
        app = opened(**{**CARDS, **more})
        (problem,) = problems(app)
        assert "This plan cannot be made" in problem and says in problem, problem
    app = opened(**CARDS, max_hours="-1", effective_batch="0", rows="x", batching="pack")
    passed_over = texts(app).partition("Ignored URL parameters\n")[2].splitlines()
    assert "max-hours is '-1'" in passed_over[0]
    assert "batching is 'pack'; accepted: random" in passed_over[2]


def test_nothing_is_searched_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []

    def counted(*arguments: Any) -> TrainingPlan:
        searched.append(1)
        return make_plan(*arguments)

    monkeypatch.setattr("lora_profiler.dashboard.plan_question.make_plan", counted)
    app = sound(opened(**CARDS))
    first = texts(app)
    sound(app.text_input(key="plan.ranks").set_value("16").run())
    assert app.query_params["ranks"] in ("16", ["16"]) and texts(app) != first
    sound(app.text_input(key="plan.ranks").set_value("8").run())
    assert texts(app) == first and len(searched) == 2
    for page in ("Learn", "Plan"):  # what was asked is still there after another page
        sound(app.segmented_control(key="page").set_value(page).run())
    assert texts(app) == first and len(searched) == 2
    assert app.session_state["plan.asked"] == PlanQuestion(gpus="t4, l4", ranks="8")


def test_a_run_is_seen_in_predict_with_the_same_peak() -> None:
    app = sound(opened(**CARDS))
    best = found(app).recommended
    assert best is not None
    sound(next(b for b in app.button if b.label == "See it in Predict").click().run())
    question = asked(app)
    assert app.session_state["page"] == "Predict" and question.gpu == best.cluster.gpu.key
    assert question.options["accumulation"] == best.setup.accumulation
    assert f"\n{short_in_unit(best.peak_bytes, GIB)} + " in texts(app)


def test_sizes_of_other_pages_are_none_of_the_plan_s() -> None:
    app = sound(opened(**{**CARDS, "page": "predict", "batch_size": "7", "checkpointing": "yes"}))
    sound(app.segmented_control(key="page").set_value("Plan").run())
    assert found(app).space.effective_batch == 16 and found(app).space.checkpointing is None
    assert "batch-size" not in app.query_params and "checkpointing" not in app.query_params
