"""Predictions in CI: the JSON that is kept, two of them against each other, limits, and the steps of
the GitHub action as a runner takes them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import OFFLINE, Run, refused
from lora_profiler.report.json.changes import differences, too_much

ROOT = Path(__file__).parents[2]
ASKED = ["gpt2", "--method", "lora", "--trainer", "loop", "--gpu", "t4", "-s", "512"]
TRL = """\
model_name_or_path: openai-community/gpt2
use_peft: true
lora_r: 8
max_length: {}
per_device_train_batch_size: 8
"""


def document(run: Run, *words: str) -> Any:
    return json.loads(run(*words, "--format", "json").stdout)


def is_part(small: Any, large: Any) -> bool:
    if isinstance(small, Mapping):
        return all(key in large and is_part(value, large[key]) for key, value in small.items())
    if isinstance(small, list):
        return all(is_part(a, b) for a, b in zip(small, large, strict=False))
    return bool(small == large)


@pytest.mark.parametrize(
    "words",
    [
        ASKED,
        ["gpt2", "-s", "256"],
        [*ASKED, "--lengths", "mean=100,max=300,samples=1000"],
        ["Qwen/Qwen2.5-0.5B", "--gpu", "2xt4", "--dtype", "float32", "--trainer", "loop"],
    ],
)
def test_a_summary_is_short_and_part_of_the_whole(run: Run, words: list[str]) -> None:
    short = run(*words, "--format", "json").stdout
    whole = document(run, *words, "--full")
    assert is_part(json.loads(short), whole)
    assert len(whole["predictions"]) == len(json.loads(short)["predictions"])
    of_trainers = 300 * len(whole.get("by_trainer", ()))
    assert len(short) - of_trainers < 2200 * len(whole["predictions"])
    for row in json.loads(short)["predictions"]:
        assert {"model", "setup", "peak", "fit", "evidence", "step_time"} <= row.keys()


# --- two documents --------------------------------------------------------------------------------


@pytest.fixture
def written(run: Run, tmp_path: Path) -> Any:
    def write(name: str, *words: str) -> str:
        path = tmp_path / name
        path.write_text(run(*words, "--format", "json").stdout)
        return str(path)

    return write


def test_what_got_worse_fails(run: Run, written: Any) -> None:
    base, new = written("base.json", *ASKED), written("new.json", *ASKED, "-b", "2")
    whole = written("whole.json", *ASKED, "--full")
    same = run("compare", base, whole, "--fail-above", "0%")
    assert (same.exit_code, same.stdout) == (0, "✓ Nothing changed in 1 prediction.\n")
    worse = run("compare", base, new, "--fail-above", "1%")
    assert worse.exit_code == 1
    assert re.search(r"^LoRA openai-community/gpt2 +peak .* \+[0-9.]+ %$", worse.stdout, re.M)
    assert re.search(r"^LoRA openai-community/gpt2 +batch size +1 +2$", worse.stdout, re.M)
    assert [line.partition(":")[0] for line in worse.stderr.splitlines()] == [
        "LoRA openai-community/gpt2"
    ] * 2
    assert run("compare", base, new, "--fail-above", "500%").exit_code == 0
    assert run("compare", new, base, "--fail-above", "0%").exit_code == 0
    assert run("compare", base, "--against", new, "--fail-above", "1%").exit_code == 1
    in_json = document(run, "compare", base, new)
    peaks = [
        json.loads(Path(p).read_text())["predictions"][0]["peak"]["total_bytes"]
        for p in (base, new)
    ]
    (row,) = [each for each in in_json["changes"] if each["name"] == "peak_requested_bytes"]
    assert [row["before"], row["after"], row["is_worse"]] == [*peaks, True]


def prediction(peak: int, verdict: str | None = "fits", **more: Any) -> dict[str, Any]:
    row = {
        "model": {"id": "m"},
        "setup": {"method": "lora", "rank": 8},
        "peak": {"total_bytes": peak},
    }
    return row | ({"fit": {"verdict": verdict, "headroom_bytes": 5}} if verdict else {}) | more


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([prediction(100)], [prediction(101)], ["LoRA m: peak 1.00 % more."]),
        ([prediction(1000)], [prediction(1009)], []),
        (
            [prediction(100)],
            [prediction(100, "tight")],
            ["LoRA m: may run out of memory; before: fits."],
        ),
        ([prediction(100, "tight")], [prediction(100)], []),
        (
            [prediction(100, step_time={"seconds": 1.0})],
            [prediction(100, None)],
            ["LoRA m: no verdict; before: fits.", "LoRA m: one step is no longer predicted."],
        ),
        ([prediction(100)], [], ["LoRA m is no longer predicted."]),
        (
            [prediction(100), prediction(200)],
            [prediction(100)],
            ["LoRA m (2) is no longer predicted."],
        ),
        (
            [prediction(100, step_time={"seconds": 1.0})],
            [prediction(100, step_time={"seconds": 1.5})],
            ["LoRA m: one step 50.00 % more."],
        ),
    ],
)
def test_a_limit_judges_peak_time_and_verdict(
    before: list[dict[str, Any]], after: list[dict[str, Any]], said: list[str]
) -> None:
    found = differences(before, after)
    limit = 0.0099999
    assert too_much(found, ("peak_requested_bytes", "step_seconds"), limit) == said


def test_what_cannot_be_compared_is_refused(run: Run, written: Any, tmp_path: Path) -> None:
    base = written("base.json", *ASKED)
    empty, other = tmp_path / "empty.json", tmp_path / "other.json"
    empty.write_text('{"predictions": []}')
    other.write_text('{"predictions": [{"model": {"id": 3}}]}')
    for words in (
        (base,),
        (base, base, base),
        (base, str(ROOT / "benchmarks" / "records")),
        (base, str(empty)),
        (base, str(other)),
        (base, base, "--metric", "num_parameters"),
    ):
        assert refused(run("compare", *words)).startswith("[2] error: ")


# --- limits ---------------------------------------------------------------------------------------


def test_a_peak_above_the_limit_ends_with_1(run: Run) -> None:
    peak = document(run, *ASKED)["predictions"][0]["peak"]["total_bytes"]
    assert run(*ASKED, "--max-peak", f"{peak}").exit_code == 0
    above = run(*ASKED, "--max-peak", f"{peak - 1}")
    assert above.exit_code == 1 and "✓ LoRA r16 fits" in above.stdout
    words = (
        r"LoRA r16 of openai-community/gpt2 by a loop that holds its output: the peak of [\d,]+ bytes"
        r" is above --max-peak [\d,]+ bytes\.\n"
    )
    assert re.search(words, above.stderr)
    wrong = refused(run(*ASKED, "--max-peak", "much"))
    assert wrong.startswith("[2] error: --max-peak: 'much' is not a memory size")


def test_each_of_several_files_must_fit(run: Run, tmp_path: Path) -> None:
    files = {length: tmp_path / f"{length}.yaml" for length in (128, 1024)}
    for length, path in files.items():
        path.write_text(TRL.format(length))
    short, long = map(str, files.values())
    assert run(short, "--gpu", "custom:2GiB").exit_code == 0
    assert run(short, long, "--gpu", "custom:2GiB").exit_code == 1


# --- the action and the hook ----------------------------------------------------------------------


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A repository with a pull request that makes sequences longer; `gh` keeps what it is given."""
    place, programs = tmp_path / "repository", tmp_path / "bin"
    for folder in (place, programs):
        folder.mkdir()
    for name, text in {
        "lora-profile": f'exec "{sys.executable}" -m lora_profiler "$@"',
        "gh": f'echo "$@" >>"{tmp_path}/gh.txt"; cp "$5" "{tmp_path}/comment.md"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    git(place, "init", "-q")
    git(place, "remote", "add", "origin", str(place))
    for length in (256, 1024):
        (place / "sft.yaml").write_text(TRL.format(length))
        git(place, "add", "-A")
        git(place, "commit", "-qm", str(length))
    variables = OFFLINE | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BASE": git(place, "rev-parse", "HEAD~1").strip(),
        "PULL_REQUEST": "7",
        "FILE": "sft.yaml",
        "OPTIONS": "--gpu t4",
        "COMMENT": "true",
        "FAIL_ABOVE": "",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    yield place, variables


def act(place: Path, variables: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    steps = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]
    used = set(steps[-1]["env"]) - {"GH_TOKEN"}
    assert used <= variables.keys()
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", steps[-1]["run"]]
    return subprocess.run(
        command, cwd=place, env=variables | more, capture_output=True, text=True, timeout=200
    )


def test_the_action_comments_what_changes(checkout: Any, tmp_path: Path) -> None:
    place, variables = checkout
    done = act(place, variables)
    assert done.returncode == 0, done.stderr
    comment = (tmp_path / "comment.md").read_text()
    assert comment.startswith("### lora-profile: `sft.yaml`\n\n**! 1 of 1 prediction changed;**")
    assert re.search(r"^\| LoRA openai-community/gpt2 \| seq len \| 256 \| 1024 \|", comment, re.M)
    assert "**✓ sft.yaml fits a T4:**" in comment
    assert (tmp_path / "summary.md").read_text() == comment
    assert (tmp_path / "gh.txt").read_text().startswith("pr comment 7 --body-file ")
    assert git(place, "worktree", "list").count("\n") == 1


def test_the_action_fails_above_its_limits(checkout: Any, tmp_path: Path) -> None:
    place, variables = checkout
    assert act(place, variables, FAIL_ABOVE="1%").returncode == 1
    assert act(place, variables, OPTIONS="--gpu t4 --max-peak 1GiB").returncode == 1
    assert act(place, variables, OPTIONS="--gpu t5").returncode == 2
    assert act(place, variables, FILE="missing.yaml").returncode == 2
    (tmp_path / "gh.txt").unlink()
    new = act(place, variables, BASE="", COMMENT="false")
    assert new.returncode == 0 and not (tmp_path / "gh.txt").exists()
    assert "New in this pull request." in (tmp_path / "summary.md").read_text()


def test_no_input_of_the_action_is_run_as_code() -> None:
    """What a pull request can name goes into the script by variables alone."""
    for step in yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]:
        assert "${{" not in step.get("run", "")


def test_the_hook_takes_files_of_trainers(run: Run, tmp_path: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    names = ["configs/qlora.yml", "sft.yaml", "axolotl/a.yaml", "llama_factory.yml"]
    assert all(re.search(hook["files"], name) for name in names)
    assert not re.search(hook["files"], ".github/workflows/tests.yml")
    path = tmp_path / "sft.yaml"
    path.write_text(TRL.format(128))
    words: Sequence[str] = hook["entry"].split()[1:]
    assert run(*words, "--gpu", "t4", str(path)).exit_code == 0
    assert run(*words, "--max-peak", "100MiB", str(path)).exit_code == 1
