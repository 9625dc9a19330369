"""Answers for agents: by the SDK's own client, where that is installed, and the process that reads
one folder alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commands import OFFLINE, Run
from loading import modules_after
from lora_profiler import UsageError
from lora_profiler.cli.options import words_of

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "examples" / "qlora.yml").read_text("utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The server's, with a file beside it that is not its business."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "qlora.yml").write_text(EXAMPLE)
    (own / "rows.jsonl").write_text('{"text": "a b c"}\n' * 20)
    (tmp_path / "secret.jsonl").write_text('{"text": "a b c"}\n' * 20)
    (tmp_path / "secret.yml").write_text(EXAMPLE)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (own / "link.yml").symlink_to(tmp_path / "secret.yml")
    (own / "outside.yml").write_text(EXAMPLE.replace("NousResearch/Meta-Llama-3-8B", "../model"))
    return own


def guarded(folder: Path, *asked: list[str]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lora_profiler.cli.guarded"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        cwd=folder,
        env=OFFLINE
        | {
            "PYTHONPATH": os.pathsep.join(
                p for p in [str(ROOT), os.environ.get("PYTHONPATH", "")] if p
            )
        },
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def test_its_process_reads_its_folder_and_no_other_file(folder: Path) -> None:
    outside = folder.parent
    inside = [
        ["qlora.yml", "--gpu", "rtx_4090"],
        ["gpt2", "--data", "rows.jsonl", "--method", "lora"],
        ["read", "qlora.yml"],
    ]
    refused = [
        ["../secret.yml"],
        [str(outside / "secret.yml")],
        ["link.yml"],
        ["outside.yml"],
        ["read", "../secret.yml"],
        ["gpt2", "--data", "../secret.jsonl"],
        ["gpt2", "--lengths", "../secret.jsonl"],
        [str(outside / "model")],
        ["compare", "../secret.jsonl"],
        ["compare", ".."],
    ]
    writing = [["gpt2", "-o", "answer.txt"], ["gpt2", "-o", str(outside / "answer.txt")]]
    answers = guarded(folder, *inside, *refused, *writing)
    for asked, answer in zip(inside, answers, strict=False):
        assert answer["stdout"], (asked, answer)
    for asked, answer in zip([*refused, *writing], answers[len(inside) :], strict=True):
        assert answer["code"] in (2, 3) and not answer["stdout"], (asked, answer)
        assert "Traceback" not in answer["stderr"]
    for asked, answer in zip(refused[:5], answers[len(inside) :], strict=False):
        assert "outside the folder of the server" in answer["stderr"], (asked, answer)
    assert not (folder / "answer.txt").exists() and not (outside / "answer.txt").exists()


def test_a_model_that_has_to_be_built_is_answered(folder: Path) -> None:
    config = {
        "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "vocab_size": 100, "architectures": ["BertForMaskedLM"],
    }  # fmt: skip
    (folder / "tiny").mkdir()
    (folder / "tiny" / "config.json").write_text(json.dumps(config))
    (answer,) = guarded(folder, ["tiny", "--method", "lora", "-s", "32", "--format", "json"])
    assert json.loads(answer["stdout"])["predictions"], answer["stderr"]


def test_what_others_than_python_open_is_refused_too(folder: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    table = pa.table({"text": ["a b c"] * 20})
    write_table(table, folder / "own.parquet")
    write_table(table, folder.parent / "secret.parquet")
    with pa.ipc.new_stream(str(folder.parent / "secret.arrow"), table.schema) as stream:
        stream.write_table(table)
    asked = ["gpt2", "--method", "lora", "--data"]
    own, *others = guarded(
        folder,
        *([*asked, name] for name in ("own.parquet", "../secret.parquet", "../secret.arrow")),
    )
    assert own["stdout"]
    for answer in others:
        assert "outside the folder of the server" in answer["stderr"] and not answer["stdout"]


def test_its_answers_are_the_command_s(folder: Path, run: Run) -> None:
    words = ["gpt2", "--method", "lora", "--trainer", "loop", "--gpu", "t4", "-s", "256"]
    (answer,) = guarded(folder, words)
    done = run(*words)
    assert (answer["code"], answer["stdout"]) == (done.exit_code, done.stdout)


@pytest.mark.parametrize("name", ["output=x", "output x", "-o", "", "no-checkpointing"])
def test_what_is_no_option_s_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no option; write it as in batch_size"):
        list(words_of(name, True))


def test_without_the_sdk_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_profiler.cli import mcp

    monkeypatch.setattr(mcp, "find_spec", lambda name: None)
    done = run("mcp")
    assert done.exit_code == 2 and "pip install 'lora-profiler[mcp]'" in done.stderr


def test_other_commands_load_none_of_it() -> None:
    loaded = modules_after("import lora_profiler.cli.main, lora_profiler.cli.mcp")
    assert loaded.isdisjoint({"mcp", "anyio", "pydantic", "lora_profiler.cli.guarded"})


# --- by the SDK's own client ----------------------------------------------------------------------


def called(folder: Path, *calls: tuple[str, dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """The tools, and the result of each call, of a server that starts in `folder`."""
    anyio = pytest.importorskip("anyio")
    pytest.importorskip("mcp")
    from mcp.client import Client
    from mcp.client.stdio import StdioServerParameters, stdio_client

    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    started = StdioServerParameters(
        command=sys.executable,
        args=["-P", "-m", "lora_profiler", "mcp"],
        cwd=str(folder),
        env=OFFLINE | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )

    async def talk() -> tuple[list[Any], list[Any]]:
        with (folder.parent / "log.txt").open("w") as log:
            async with Client(stdio_client(started, errlog=log)) as client:
                tools = (await client.list_tools()).tools
                return tools, [await client.call_tool(name, given) for name, given in calls]

    found: tuple[list[Any], list[Any]] = anyio.run(talk)
    return found


def test_a_client_asks_all_five(folder: Path, run: Run) -> None:
    question = {"model": "gpt2", "method": ["lora"], "gpu": "t4", "trainer": "loop"}
    more = {"seq_len": 256, "options": {"checkpointing": False}}
    for name, length in (("base.json", "256"), ("new.json", "512")):
        words = ("gpt2", "--method", "lora", "--trainer", "loop", "-s", length)
        (folder / name).write_text(run(*words, "--format", "json").stdout)
    tools, results = called(
        folder,
        ("predict", question | more),
        ("fit", {"model": "qlora.yml", "gpu": "rtx_4090"}),
        ("plan", {"model": "gpt2", "gpus": "t4", "tokens": "1M"}),
        ("read", {"file": "qlora.yml"}),
        ("compare", {"before": "base.json", "after": "new.json", "fail_above": "1%"}),
    )
    assert [tool.name for tool in tools] == ["predict", "fit", "plan", "read", "compare"]
    assert all(tool.annotations.read_only_hint and tool.description for tool in tools)
    predicted, fitted, planned, understood, compared = [
        json.loads(result.content[0].text) for result in results if not result.is_error
    ]
    (row,) = predicted["data"]["predictions"]
    assert (
        row["evidence"]["low_bytes"] <= row["peak"]["total_bytes"] <= row["evidence"]["high_bytes"]
    )
    assert not row["setup"]["checkpointing"] and row["setup"]["seq_len"] == 256
    assert predicted["text"].startswith("✓ LoRA r16 fits a T4:") and "Expect " in predicted["text"]
    assert fitted["exit_code"] == 1 and "Expect " in fitted["text"] and "→ " in fitted["text"]
    assert planned["data"]["recommended"]["run"] and "Expect " in planned["text"]
    assert understood["data"]["keys"]
    assert compared["exit_code"] == 1 and "got worse" in compared["text"]


def test_a_client_gets_the_command_s_refusals(folder: Path) -> None:
    _, results = called(
        folder,
        ("fit", {"model": "gpt2", "gpu": "t5"}),
        ("read", {"file": "../secret.yml"}),
        ("predict", {"model": "--output=x"}),
        ("predict", {"model": "gpt2", "options": {"write": "axolotl"}}),
        ("compare", {"before": "../secret.jsonl", "after": "rows.jsonl"}),
        ("fit", {"model": "gpt2", "gpu": "t4", "checkpointing": False}),
    )
    said = [result.content[0].text for result in results]
    assert all(result.is_error for result in results), said
    assert "unknown GPU t5" in said[0]
    assert "outside the folder of the server" in said[1]
    assert "is no name of a model or file" in said[2]
    assert "leave it out" in said[3]
    assert "fit does not know checkpointing" in said[5]
    assert sorted(path.name for path in folder.iterdir()) == [
        "link.yml", "outside.yml", "qlora.yml", "rows.jsonl",
    ]  # fmt: skip
