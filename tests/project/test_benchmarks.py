"""That benchmarks/README.md names everything that is there, and that everything there can be
imported."""

import os
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.__main__ import FOLDERS, README, modules, page
from benchmarks.pages import RESULTS
from benchmarks.rehearsed import scripts
from benchmarks.rehearsed.documented_commands import Documented, documented
from benchmarks.rehearsed.newest import change_of, quick_third
from benchmarks.rehearsed.scripts import _LOOKED_INTO, fault_of

MODULES = [each for folder in FOLDERS for each in modules(folder)]
SELDOM = {"truth.liger": "triton"}
"""What not every environment of the tests has."""


def test_the_tables_are_those_of_the_commands() -> None:
    assert README.read_text("utf-8") == page(), "python -m benchmarks --write"


def test_every_file_of_results_is_written_by_one_command() -> None:
    commands = [each for each in MODULES if each.is_command]
    written = sorted(path for each in commands for path in each.written if path[:8] == "results/")
    assert written == sorted(f"results/{path.name}" for path in RESULTS.iterdir())


@pytest.mark.parametrize("name", [each.name for each in MODULES])
def test_every_module_is_imported(name: str) -> None:
    if name in SELDOM:
        pytest.importorskip(SELDOM[name])
    import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("name", ["trainer_files", "misread_keys", "written_files"])
@pytest.mark.parametrize("arguments", [[], ["axolotl"], ["axolotl=x", "other=x"]])
def test_a_command_without_its_checkouts_leaves_the_page_alone(
    name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page_before = (RESULTS / f"{name}.md").read_bytes()
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(os, "environ", {**os.environ})
    monkeypatch.setitem(sys.modules, "torch", sys.modules.get("torch"))
    with pytest.raises(SystemExit, match="usage: NAME=FOLDER"):
        import_module(f"benchmarks.public.{name}").main()
    assert (RESULTS / f"{name}.md").read_bytes() == page_before


def test_documented_commands_are_read_with_their_folder_and_variables(tmp_path: Path) -> None:
    project = tmp_path / "project"
    examples = project / "examples" / "sums"
    examples.mkdir(parents=True)
    (examples / "train.py").write_text("loss.backward()\n")
    (examples / "plain.py").write_text('"""python plain.py --its own"""\ntrainer.train()\n')
    (examples / "show.py").write_text("print(1)\n")
    (project / "README.md").write_text(
        'export MODEL="a/b"\nexport OUTPUT="path to save model"\n'
        "torchrun --nproc_per_node 8 examples/sums/train.py\n"
        "python examples/sums/train.py --model <yours>\n"
        "CUDA_VISIBLE_DEVICES=0 X=1 accelerate launch examples/sums/train.py \\\n  --model $MODEL"
        " --to=$OUTPUT\n"
        "python examples/sums/plain.py --other\npython examples/sums/show.py\n"
    )
    found = {each.script: each for each in documented(project, ("examples",), None)}
    train = found["examples/sums/train.py"]
    assert train.words[:3] == ("accelerate", "launch", "examples/sums/train.py")
    assert train.words[3:] == ("--model", "a/b", "--to=path-to-save-model")
    assert (train.folder, train.environment, train.source) == (".", {"X": "1"}, "README.md:5")
    assert set(found) == {"examples/sums/train.py", "examples/sums/plain.py"}


STARTED = """
import json, os, sys
is_prepared = os.path.exists("rows")
open("rows", "w").close()
rank = {
    "status": "done" if is_prepared else sys.argv[1], "steps": 3 * is_prepared, "error": None,
    "peaks": {"whole": None}, "held": None, "leak": None, "dtypes_of_holes": {}, "data_stood_in": [],
}
print(json.dumps({"ranks": [rank], "nearest_prediction": None}))
sys.exit(0 if is_prepared else 4)
"""


@pytest.mark.parametrize(("first", "end"), [("ended", "done"), ("error", "error")])
def test_a_script_that_stops_before_it_trains_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, end: str
) -> None:
    (tmp_path / "some").mkdir()
    monkeypatch.setattr(scripts, "_git", lambda *_: "")
    command = [sys.executable, "-c", STARTED, first]
    monkeypatch.setattr(scripts, "rehearsal_command", lambda *_: command)
    case = Documented(
        repository="some", script="train.py", folder="", words=("python", "train.py"),
        environment={}, source="train.py",
    )  # fmt: skip
    options = Namespace(checkouts=tmp_path, python="python", minutes=1)
    row = scripts.row_of(case, "t4", tmp_path, options)
    assert (row["status"], row["exit_code"]) == (end, 0 if end == "done" else 4)


def test_a_script_s_failure_has_a_fault_and_running_out_of_memory_is_none() -> None:
    def fault(words: str, **row: object) -> tuple[str, ...] | None:
        return fault_of({"exit_code": 4, "status": "error", "words": words, **row})

    assert fault("", exit_code=1, status="out_of_memory") is None
    assert fault("", exit_code=0, status="done") is None
    assert fault("ModuleNotFoundError: No module named 'x'")[0] == "environment"
    assert fault("KeyError: 'text'")[0] == "product"
    assert fault("unsupported operand type(s) for +: 'Column' and 'list'")[0] == "script"
    halves = "expected mat1 and mat2 to have the same dtype, but got: float != c10::Half"
    assert fault(halves)[0] == "script"
    assert fault("", status="ended", steps=0) == ("script", "ends before it trains")
    by_cpu = "error: python a.py ended with exit code 0 before it used the GPU"
    assert fault(by_cpu) == ("script", "ends without using the GPU")
    eva = "ValueError: last_mean should not be None if last_sample_count > 0."
    assert fault(eva) == ("values", "an initialisation that reads values of the GPU")
    assert fault("", status="ended", steps=2)[0] == "product"
    assert fault("ssd.py: error: argument --bf16: expected one argument")[0] == "script"
    linqs = "Its own error: ConnectionError: HTTPSConnectionPool(host='linqs.edu', port=443): Max"
    assert fault(linqs)[0] == "environment"
    assert fault(linqs.replace("linqs.edu", "huggingface.co"))[0] == "product"
    assert fault("AcceleratorError: CUDA error: invalid device ordinal")[0] == "script"
    none = "TypeError: object of type 'NoneType' has no len()"
    ((project, script), words) = list(_LOOKED_INTO.items())[-1]
    assert words in none and fault(none)[0] == "product"
    assert fault(none, project=project, script=script)[0] == "script"
    assert fault("KeyError: 'text'", project=project, script=script)[0] == "product"
    assert fault("error: x was still running after 4 minutes (--minutes).") == (
        "product",
        "no answer within the limit of time",
    )


RAN = {
    "card": "h100_sxm_80gb",
    "script": "train.py",
    "status": "done",
    "exit_code": 0,
    "words": "",
    "seconds": 9,
}


@pytest.mark.parametrize(
    ("now", "words", "is_worse"),
    [
        ({"reserved_bytes": 1000}, "", False),
        ({"reserved_bytes": 1005}, "0.50 % more memory: 1,000 B before, 1,005 B now", False),
        ({"reserved_bytes": 1020}, "2.00 % more memory: 1,000 B before, 1,020 B now", True),
        ({"reserved_bytes": 500}, "50.00 % less memory: 1,000 B before, 500 B now", False),
        (
            {"exit_code": 4, "status": "error", "words": "TypeError: no"},
            "ran, and does not: TypeError: no",
            True,
        ),
    ],
)
def test_what_newer_libraries_change_is_said(
    now: dict[str, object], words: str, is_worse: bool
) -> None:
    assert change_of(RAN | {"reserved_bytes": 1000}, RAN | now) == (words, is_worse)


def test_the_quick_third_is_of_scripts_that_ran_where_they_suit() -> None:
    rows = [RAN | {"seconds": seconds} for seconds in (30, 20, 10, 40, 50, 60)]
    rows += [RAN | {"seconds": 1, "card": "t4"}, RAN | {"seconds": 1, "exit_code": 4}]
    rows[-1] |= {"status": "error", "words": "TypeError: no"}
    assert [row["seconds"] for row in quick_third(rows)] == [10, 20]
