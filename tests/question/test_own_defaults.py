"""A user's own defaults: what they change, what overrules them, and a file that is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from commands import Run, refused
from loading import modules_after

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "qlora.yml")
WORDS = ("gpt2", "--method", "lora", "-s", "256", "--format", "json")
GOOD = """
gpu = "rtx_4090"
gpus = ["t4", "l4"]
trainer = "loop"

[prices]
t4 = 0.35
l4 = 0.7
"""


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "lora-profiler" / "config.toml"
    path.parent.mkdir()

    def write(text: str) -> Path:
        path.write_text(text)
        return path

    return write


def asked(run: Run, *words: str) -> tuple[str | None, str, str]:
    """(GPU, trainer, first line of stderr) of an answer."""
    done = run(*words)
    (row,) = json.loads(done.stdout)["predictions"]
    gpu = row["fit"]["gpu"] if row["fit"] else None
    return gpu, row["trainer"]["name"], (done.stderr.splitlines() or [""])[0]


def test_they_are_taken_and_named(run: Run, written: Any) -> None:
    assert asked(run, *WORDS) == (None, "guide", "")
    path = written(GOOD)
    assert asked(run, *WORDS) == (
        "rtx_4090",
        "loop",
        f"From {path}: --gpu rtx_4090; --trainer loop",
    )


def test_options_overrule_them(run: Run, written: Any) -> None:
    path = written(GOOD)
    assert asked(run, *WORDS, "--gpu", "l4")[:2] == ("l4", "loop")
    assert asked(run, *WORDS, "--gpu", "l4", "--trainer", "trl-sft") == ("l4", "trl-sft", "")
    on_cpu = asked(run, *WORDS, "--device", "cpu")
    assert on_cpu == (None, "loop", f"From {path}: --trainer loop")


def test_a_trainer_s_file_has_its_own_trainer(run: Run, written: Any) -> None:
    path = written(GOOD)
    found = asked(run, EXAMPLE, "--format", "json")
    assert found == ("rtx_4090", "axolotl", f"From {path}: --gpu rtx_4090")


def test_a_trainer_writes_its_own_file_and_no_other_s(
    run: Run, written: Any, tmp_path: Path
) -> None:
    written('trainer = "trl-sft"\n')
    for name, is_own in (("trl", True), ("axolotl", False)):
        path = tmp_path / f"{name}.yaml"
        done = run("gpt2", "--method", "lora", "--gpu", "l4", "--write", name, str(path))
        assert ("--trainer trl-sft" in done.stderr) == is_own
        assert (f"lora_r: {8 if is_own else 16}\n") in path.read_text()


def test_plan_takes_gpus_and_prices(run: Run, written: Any) -> None:
    path = written(GOOD)
    words = ("plan", "gpt2", "--tokens", "1M", "--methods", "lora", "--ranks", "8")
    done = run(*words, "--format", "json")
    best = json.loads(done.stdout)["recommended"]["run"]
    assert done.stderr.startswith(f"From {path}: --gpus t4,l4; --trainer loop; --price t4=0.35/h")
    own = run(*words, "--gpus", "t4", "--price", "t4=9/h", "--format", "json")
    assert own.stderr.startswith(f"From {path}: --trainer loop\n")
    assert json.loads(own.stdout)["recommended"]["run"]["cost"] != best["cost"]
    placed = run("plan", "gpt2", "--cluster", "2xrtx_4090")
    assert placed.exit_code == 0 and "--gpus" not in placed.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpu = ", "is not TOML: "),
        ("gpu = 3", ', line 1: gpu is 3\n  Write text, as in gpu = "t4".'),
        ("gpus = []", ", line 1: gpus is []\n"),
        ("gpu = 't4'\n\ngpuz = 't4'", ", line 3: unknown key gpuz\n  Did you mean gpu?"),
        (
            "[prices]\nt4 = 'cheap'",
            ", line 1: prices is {'t4': 'cheap'}\n  Write a table of numbers",
        ),
        ("[prices]\nt4 = -1", ", line 1: prices is {'t4': -1}\n"),
    ],
)
def test_a_bad_file_is_one_sentence(run: Run, written: Any, text: str, said: str) -> None:
    path = written(text)
    for words in (WORDS, ("plan", "gpt2"), ("crossover", "gpt2")):
        assert f"{path}{said}" in refused(run(*words)).replace(f"{path} is not", f"{path}is not")
    assert run("gpus", "4090").exit_code == 0


def test_what_cannot_be_read_is_said(run: Run, written: Any) -> None:
    path = written("")
    path.write_bytes(b"gpu = '\xff'")
    assert "is not TOML" in refused(run(*WORDS))
    path.unlink()
    path.mkdir()
    assert f"{path} cannot be read: Is a directory" in refused(run(*WORDS))


def test_a_gpu_that_is_unknown_comes_after_where_it_is_from(run: Run, written: Any) -> None:
    path = written('gpu = "t5"')
    done = run(*WORDS)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"From {path}: --gpu t5\nerror: unknown GPU t5")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD, ""),
        ('gpu = "auto"\ntrainer = "all"', ""),
        ('gpu = "8xcustom:24GiB"', ""),
        ('trainer = "loop"\ngpu = "t5"', "line 2: gpu: unknown GPU t5"),
        ('gpus = ["t4", "l5"]', "line 1: gpus: unknown GPU l5"),
        ('gpu = "t4"\ntrainer = "trl-sfd"', "line 2: trainer: unknown trainer trl-sfd"),
        ("[prices]\nt5 = 0.3", "line 1: prices: unknown GPU t5"),
        ("gpu = 't4'\ngpuz = 't4'", "line 2: unknown key gpuz"),
    ],
)
def test_doctor_refuses_what_the_commands_would(
    run: Run, written: Any, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.setattr("lora_profiler.measuring.harness.doctor.SECTIONS", ())
    monkeypatch.setattr("lora_profiler.measuring.harness.doctor.diagnosed", lambda: iter(()))
    path = written(text)
    done = run("doctor")
    assert done.exit_code == (2 if said else 0)
    assert not said or f"error: {path}, {said}" in done.stderr


def test_without_a_file_nothing_more_is_loaded() -> None:
    loaded = modules_after(
        "from lora_profiler.cli.main import root; root.main(['gpt2', '-s', '64'], 'x',"
        " standalone_mode=False)"
    )
    assert "tomllib" not in loaded
