"""A trainer's file dropped on Predict: the same answer as the command's, what it leaves out by line,
and nothing read that it names."""

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from test_trainer_files import AXOLOTL, LLAMAFACTORY, NOTEBOOK, TORCHTUNE, TRL

from commands import Run
from dashboard_app import asked, opened, problems, sound, texts
from lora_profiler.dashboard.answered import answered, published_model
from lora_profiler.trainer_files.reading import read_content

pytestmark = pytest.mark.usefixtures("own_window")

BAD = {
    "list.yaml": (b"- a\n- b\n", "list.yaml holds no keys"),
    "torn.yaml": (b"base_model: [a\n", "torn.yaml:2: not valid YAML"),
    "twice.yaml": (b"adapter: lora\nadapter: qlora\n", "twice.yaml:2: adapter is given twice"),
    "bytes.yaml": (b"\xff\xfe\x00", "bytes.yaml is not UTF-8 text"),
    "other.yaml": (b"apiVersion: v1\nkind: Pod\n", "other.yaml"),
    "large.yaml": (b"# \n" * 200_000, "large.yaml is larger than"),
    "empty.json": (b"{", "empty.json is not valid JSON"),
    "none.ipynb": (b"{}", "none.ipynb is no notebook"),
}


def drop(app: AppTest, name: str, content: bytes | str) -> AppTest:
    data = content.encode() if isinstance(content, str) else content
    app.file_uploader(key="dropped").set_value((name, data, "text/plain"))
    return app.run()


@pytest.mark.grid
@pytest.mark.parametrize(
    ("name", "text", "more"),
    [
        ("qlora.yml", AXOLOTL, ()),
        ("full.yaml", LLAMAFACTORY, ()),
        ("lora.yaml", TORCHTUNE, ("--seq-len", "512")),
        ("sft.yaml", TRL, ()),
        ("unsloth.ipynb", "", ()),
    ],
)
def test_the_page_answers_a_file_as_the_command_does(
    name: str, text: str, more: tuple[str, ...], run: Run, tmp_path: Path
) -> None:
    if name.endswith(".ipynb"):
        cell = {"cell_type": "code", "source": NOTEBOOK.splitlines(keepends=True)}
        text = json.dumps({"cells": [cell]})
    app = opened(model="openai-community/gpt2", gpu="rtx_4090", seq_len="512")
    app = sound(drop(app, name, text))
    path = tmp_path / name
    path.write_text(text, "utf-8")
    document = json.loads(
        run(str(path), *more, "--gpu", "rtx_4090", "--full", "--format", "json").stdout
    )["predictions"]
    question = asked(app)
    model = published_model(question.model, question.revision, question.offline)
    found = json.loads(json.dumps(answered(model, question).payload))["predictions"]
    assert [(p["setup"], p["peak"], p["fit"]) for p in found] == [
        (p["setup"], p["peak"], p["fit"]) for p in document
    ]
    counts = json.loads(run("read", str(path), "--format", "json").stdout)["keys"]
    assert f"{len(counts)} settings read" in texts(app)
    address = app.query_params
    assert address["model"] in (question.model, [question.model])
    app.session_state["export"] = True
    sound(app.run())
    chosen = app.selectbox(key="trainer_file").value
    assert chosen == {"qlora.yml": "axolotl", "full.yaml": "llamafactory"}.get(name, chosen)


def test_what_is_not_understood_is_listed_by_its_line() -> None:
    app = sound(drop(opened(model="openai-community/gpt2"), "q.yml", AXOLOTL + "lora_what: 3\n"))
    shown = texts(app)
    assert "q.yml:22: lora_what: unknown key" in shown
    assert "q.yml:17: activation_offloading: activations offloaded to CPU" in shown
    app.file_uploader(key="dropped").set_value(None)
    assert "lora_what" not in texts(sound(app.run()))


@pytest.mark.grid
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_gets_one_clear_line_and_changes_nothing(name: str) -> None:
    app = opened(model="openai-community/gpt2", gpu="rtx_4090")
    before = asked(app)
    content, says = BAD[name]
    (problem,) = problems(drop(app, name, content))
    assert problem.startswith("This file is no question\n") and says in problem
    assert len(problem.splitlines()) == 2 and asked(app) == before


def test_nothing_is_looked_for_that_a_file_names(tmp_path: Path) -> None:
    """A dropped file names a DeepSpeed configuration: whether it is there or not, its name alone
    tells the stage."""
    there = tmp_path / "zero3.json"
    there.write_text('{"zero_optimization": {"stage": 2}}')
    for path in (there, tmp_path / "no" / "zero3.json"):
        text = f"{TRL}deepspeed: {path}\n"
        keys = {key.key: key for key in read_content("sft.yaml", text.encode()).keys}
        assert keys["deepspeed"].note == "the file is not at hand; its stage is taken from its name"
        assert keys["deepspeed"].options == {"sharding": "zero3"}


def test_a_model_that_is_not_there_is_told_and_the_rest_is_taken() -> None:
    app = drop(
        opened(model="openai-community/gpt2"), "a.yml", AXOLOTL.replace("NousResearch", "no-one")
    )
    assert any("There is no model" in problem for problem in problems(app))
    assert asked(app).options["rank"] == 32


def test_an_adapter_of_peft_is_taken_into_the_question() -> None:
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
    }
    app = opened(model="openai-community/gpt2", gpu="rtx_4090", seq_len="512")
    app = sound(drop(app, "adapter_config.json", json.dumps(config)))
    question = asked(app)
    assert question.model == "HuggingFaceTB/SmolLM2-135M"
    assert question.options["methods"] == ("lora",)
    assert {question.options[name] for name in ("rank", "alpha")} == {4, 8}
    assert question.options["targets"] == "q_proj,v_proj"
    app = drop(app, "adapter_config.json", json.dumps(config | {"task_type": "TOKEN_CLS"}))
    assert any("task_type is 'TOKEN_CLS'" in text for text in problems(app))
