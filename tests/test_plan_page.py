"""Plan as a page, run without a browser: the same plan as the command's, and what is refused."""

import json
import shlex
import sys
from collections.abc import Iterator
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

SMALL = {"page": "plan", "model": "openai-community/gpt2", "method": "lora", "seq_len": "256"}
CARDS = {**SMALL, "gpus": "t4, l4", "ranks": "8"}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", ["app.py"])
    yield


def found(app: AppTest) -> TrainingPlan:
    """The plan that is on the page."""
    plan: TrainingPlan = app.session_state["once.plan"][-1][1]
    return plan


def box(app: AppTest, kind: str, key: str) -> Any:
    return next(element for element in getattr(app, kind) if element.key == key)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tokens": "2500000", "epochs": "2", "price": "t4=0.35/h, l4=0.7/h", "max-hours": "2"},
        {"lengths": "mean=100,max=400,samples=5000", "epochs": "3", "effective-batch": "32"},
        {"gpus": "2xl4", "method": ["lora", "qlora"], "max-cost": "0.0001"},
        {"trainer": "trl-sft", "targets": "attention", "ranks": "8..16"},
        {"gpus": "custom:1GiB", "engine": "analytic"},
    ],
)
def test_the_page_plans_as_the_command_that_it_shows(more: dict[str, Any], run: Run) -> None:
    app = opened(**{**CARDS, **{n.replace("-", "_"): v for n, v in more.items()}})
    app.session_state["take_along"] = True
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
    payload = plan_payload(plan, question.whose, arguments(own))
    assert json.loads(json.dumps(payload)) == document
    assert document["recommended"]["run"]["command"] == own
    again = parsed(parse_qs(link.partition("?")[2]))
    assert not again.complaints
    assert again.plan == app.session_state["plan.asked"]


def arguments(command: str) -> tuple[str, ...]:
    """What the command of a run says of the data."""
    words = shlex.split(command)
    return tuple(words[words.index("--lengths") :]) if "--lengths" in words else ()


def test_what_cannot_be_read_is_refused_in_the_form_s_words() -> None:
    for more, says in (
        ({"gpus": "t5"}, "t5"),
        ({"ranks": "many"}, "Ranks is 'many'; write them as in 8..128"),
        ({"price": "l4=cheap"}, "Prices is 'l4=cheap'; write a card and the price of its hour"),
        ({"lengths": "mean=many,max=9"}, "many"),
        ({"lengths": "/etc/passwd"}, "Lengths of samples is '/etc/passwd'; write figures"),
        ({"gpus": "a" * 300}, "There is no card"),
        ({"engine": "traced"}, "traced"),
    ):
        app = opened(**{**CARDS, **more})
        (problem,) = problems(app)
        assert "This plan cannot be made" in problem and says in problem, problem
    app = opened(**CARDS, max_hours="-1", effective_batch="0", tokens="x")
    passed_over = [text for text in texts(app).splitlines() if "Passed over" in text]
    assert len(passed_over) == 3 and "max-hours is '-1'" in passed_over[0]


def test_nothing_is_searched_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []

    def counted(*arguments: Any) -> TrainingPlan:
        searched.append(1)
        return make_plan(*arguments)

    monkeypatch.setattr("lora_profiler.dashboard.plan_question.make_plan", counted)
    app = sound(opened(**CARDS))
    first = texts(app)
    sound(box(app, "text_input", "plan.ranks").set_value("16").run())
    assert app.query_params["ranks"] in ("16", ["16"]) and texts(app) != first
    sound(box(app, "text_input", "plan.ranks").set_value("8").run())
    assert texts(app) == first and len(searched) == 2
    for page in ("Learn", "Plan"):  # what was asked is still there after another page
        sound(box(app, "segmented_control", "page").set_value(page).run())
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
    assert f"Fits: {best.peak_bytes / 2**30:.2f} and" in texts(app)


def test_sizes_of_other_pages_are_none_of_the_plan_s() -> None:
    app = sound(opened(**{**CARDS, "page": "predict", "batch_size": "7", "checkpointing": "yes"}))
    sound(box(app, "segmented_control", "page").set_value("Plan").run())
    assert found(app).space.effective_batch == 16 and found(app).space.checkpointing is None
    assert "batch-size" not in app.query_params and "checkpointing" not in app.query_params
