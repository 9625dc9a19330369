"""The league's own columns, its arithmetic, and its texts. Another's answers need its environment
and a network: they are in the results, and here what may be said of them."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pages import RESULTS, read_document
from benchmarks.public.league.__main__ import PAGE
from benchmarks.public.league.ours import COMMAND, REPLAY, command_answers, replay_answers
from benchmarks.public.league.questions import GIB, never_asked, peak_rows, question, questions
from benchmarks.public.league.report import page, report
from benchmarks.public.league.rivals import ASK, RIVALS
from benchmarks.public.league.scores import Pair, Score, pair, score, wins
from lora_profiler import LoraConfig, TrainSetup, Workload, find_model, predict

DOCUMENT = read_document("league")
ROWS = DOCUMENT["rows"]


# --- what is committed ----------------------------------------------------------------------------


def test_the_page_and_the_report_say_what_the_results_say():
    assert PAGE.read_text("utf-8") == page(DOCUMENT)
    assert (RESULTS / "league.md").read_text("utf-8") == report(DOCUMENT)


def test_every_estimator_that_is_asked_is_in_the_results_as_it_is_pinned():
    committed = {rival["name"]: rival for rival in DOCUMENT["rivals"]}
    assert list(committed) == [rival.name for rival in RIVALS]
    for rival in RIVALS:
        found = committed[rival.name]
        assert found["requirement"] == rival.requirement
        versions = {
            name.replace("_", "-"): version
            for name, version in (line.split("==") for line in found["installed"])
        }
        for pin in (rival.requirement, *rival.pins):
            if "==" in pin:
                name, _, version = pin.partition("==")
                assert versions[name].startswith(version)
        assert (found["mapping"], found["total"]) == (rival.mapping, rival.total)
        assert found["lacks"] == list(rival.lacks)


def test_every_row_names_its_source_and_has_an_answer_of_everyone():
    asked = {each.key: each for each in questions()}
    assert [f"{row['id']} {row['quantity']}" for row in ROWS] == list(asked)
    names = {COMMAND, REPLAY, *(rival.name for rival in RIVALS)}
    for row in ROWS:
        assert row["url"].startswith("https://github.com/")
        assert row["measured_bytes"] == asked[f"{row['id']} {row['quantity']}"].measured_bytes
        assert set(row["answers"]) == names
        for answer in row["answers"].values():
            assert ("bytes" in answer) != ("refused" in answer)
            assert answer.get("bytes", 1) > 0 and answer.get("refused", "a reason")


def test_every_published_peak_is_asked_or_left_out_with_its_reason():
    left_out = [name for name, reason in never_asked() if reason]
    assert len(left_out) + len(ROWS) == len(peak_rows())
    assert sum(each["rows"] for each in DOCUMENT["unasked"]) == len(left_out)


def test_no_estimator_sees_what_was_measured():
    for each in questions():
        assert "measured_bytes" not in each.asked()


@pytest.mark.parametrize("program", sorted(ASK.glob("ask_*.py")), ids=lambda path: path.stem)
def test_an_estimator_is_asked_under_its_own_python_alone(program):
    """Nothing of this project, nor of the tests' environment, at the head of its file."""
    top = ast.parse(program.read_text("utf-8")).body
    modules = {node.module for node in top if isinstance(node, ast.ImportFrom)}
    assert "protocol" in modules
    assert not any(module.startswith(("benchmarks", "lora_profiler")) for module in modules)


# --- our own columns ------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["fms:refs_a100_80gb.csv:34", "litgpt-rt:54", "swift:33"])
def test_our_command_answers_as_committed(id):
    (each,) = (each for each in questions() if each.id == id)
    committed = next(row for row in ROWS if row["id"] == id)["answers"]
    assert command_answers([each]) == [committed[COMMAND]]


def test_our_replay_is_what_its_own_results_say():
    assert replay_answers(questions()) == [row["answers"][REPLAY] for row in ROWS]


def test_rows_that_the_replay_was_read_off_do_not_grade_it():
    apart = [row for row in ROWS if row["apart"]]
    assert apart and all("refused" in row["answers"][REPLAY] for row in apart)


# --- what is asked --------------------------------------------------------------------------------


def row_of(id: str) -> Any:
    return next(row for row in peak_rows() if row["id"] == id)


def test_a_question_has_what_the_row_says():
    each = question(row_of("fms:refs_a100_80gb.csv:58"))
    assert (each.method, each.rank, each.double_quant) == ("qlora", 16, True)
    assert (each.batch_size, each.seq_len, each.checkpointing) == (4, 4096, True)
    assert (each.stack, each.is_plain, each.loss) == ("Trainer, k-bit preparation", True, "plain")
    assert each.measured_bytes == round(float(row_of(each.id)["value"]) * GIB)
    liger = question(row_of("fms:refs_a100_80gb_liger.csv:112"))
    assert (liger.is_plain, liger.loss) == (False, "liger")


@pytest.mark.parametrize("id", ["fms:refs_a100_80gb.csv:34", "litgpt-rt:53", "fsdp_qlora:642"])
def test_what_is_trained_is_what_our_own_count_of_adapters_says(id):
    each = question(row_of(id))
    setup = TrainSetup(lora=LoraConfig(r=each.rank, target_modules=each.targets))
    workload = Workload(model=find_model(each.model, offline=True), setup=setup)
    assert predict(workload).parameters.trainable == each.trainable


# --- arithmetic -----------------------------------------------------------------------------------


def a_row(measured: int, **answers: Any) -> dict[str, Any]:
    return {
        "measured_bytes": measured,
        "answers": {
            name: {"bytes": answer} if isinstance(answer, int) else {"refused": "why"}
            for name, answer in answers.items()
        },
    }


def test_a_score_of_a_hand_worked_set():
    rows = [a_row(100, a=105), a_row(100, a=80), a_row(200, a=260), a_row(100, a=None)]
    found = score(rows, "a")
    assert found == Score(
        asked=4, answered=3, mean=pytest.approx((0.05 + 0.2 + 0.3) / 3), median=pytest.approx(0.2),
        under=pytest.approx(-0.2), over=pytest.approx(0.3), near=1, bias=pytest.approx(0.05), low=1,
    )  # fmt: skip
    assert score(rows[3:], "a") is None


def test_a_pair_is_scored_on_the_rows_that_both_answer():
    rows = [
        a_row(100, a=110, **{COMMAND: 130}),
        a_row(100, a=90, **{COMMAND: 95}),
        a_row(100, a=None, **{COMMAND: 500}),
        a_row(100, a=500, **{COMMAND: None}),
    ]
    found = pair(rows, "a")
    assert found == Pair(rows=2, mean=pytest.approx(0.1), ours=pytest.approx(0.175), nearer=1)
    assert pair(rows[2:], "a") is None


def test_a_row_that_another_wins_names_the_nearest_and_the_worst_miss_comes_first():
    own = {COMMAND: 120, REPLAY: 100}
    small = a_row(100, a=110, b=95, c=None, **own)
    large = a_row(100, a=150, b=60, c=None, **{**own, COMMAND: 300})
    lost = a_row(100, a=150, b=60, c=None, **own)
    unanswered = a_row(100, a=150, b=None, c=None, **{**own, COMMAND: None})
    found = list(wins([small, lost, unanswered, large]))
    assert [win.row for win in found] == [large, small, unanswered]
    assert [(win.name, win.count) for win in found] == [("b", 2), ("b", 2), ("a", 1)]
    assert found[1].error == pytest.approx(-0.05)


def test_rows_that_another_wins_stand_before_all_scores():
    text = page(DOCUMENT)
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads[0] == "## Rows where another is nearer"
    for win in wins(ROWS):
        assert win.row["id"] in text.partition("## On the same rows")[0]


# --- the protocol ---------------------------------------------------------------------------------


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "protocol.py").write_text((ASK / "protocol.py").read_text("utf-8"), "utf-8")
    return tmp_path


def asked(program: Path, questions: list[dict[str, Any]]) -> Any:
    done = subprocess.run(
        [sys.executable, str(program)], input=json.dumps(questions), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_an_estimator_says_and_raises_becomes_an_answer(programs):
    program = programs / "ask_it.py"
    program.write_text(
        "from protocol import RefusedError, answer, one_card\n"
        "def estimate(question):\n"
        "    print('a banner')\n"
        "    one_card(question)\n"
        "    if question['bytes'] < 0:\n"
        "        raise ValueError('less than nothing\\nand more words')\n"
        "    return question['bytes']\n"
        "answer(estimate)\n",
        "utf-8",
    )
    found = asked(
        program,
        [
            {"sharding": "none", "bytes": 5.4},
            {"sharding": "none", "bytes": -1},
            {"sharding": "fsdp", "bytes": 1},
        ],
    )
    assert found == [
        {"bytes": 5},
        {"refused": "less than nothing"},
        {"refused": "no option for weights shared by several GPUs"},
    ]
