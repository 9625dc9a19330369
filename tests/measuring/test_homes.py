"""Homes and caches that are another user's, or nobody's: commands answer as without one, and what a
crash ends with is never the exit code of an answer."""

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import OFFLINE, ROOT, Done, in_this_process
from lora_profiler.facts.catalog.hub import _headers
from lora_profiler.measuring.harness import doctor
from lora_profiler.measuring.harness.capabilities import Abilities
from lora_profiler.measuring.records.store import Store, StoreError
from lora_profiler.memory.compiled import library

COMMANDS = {
    "predict": ("predict", "gpt2", "-s", "64"),
    "doctor": ("doctor",),
    "plan": ("plan", "gpt2", "-s", "64", "--gpus", "t4", "--tokens", "1M"),
    "compare": ("compare", str(ROOT / "benchmarks" / "records")),
    "crossover": ("crossover", "gpt2"),
    "read": ("read", "axolotl.yml"),
}
AXOLOTL = "base_model: gpt2\nadapter: lora\nlora_r: 8\nsequence_len: 64\nmicro_batch_size: 1\n"


@pytest.fixture(params=["too long", "another user's"])
def closed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder for which `Path.is_file` and its like raise up to Python 3.13: by its name, as
    anybody can have one, or by its mode, which root does not mind."""
    if request.param == "too long":
        yield tmp_path / ("x" * 300)
        return
    if os.geteuid() == 0:
        pytest.skip("root may look into any folder")
    folder = tmp_path / "home"
    folder.mkdir(mode=0)
    yield folder
    folder.chmod(0o700)


def asked(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **home: str) -> Done:
    (tmp_path / "axolotl.yml").write_text(AXOLOTL)
    monkeypatch.chdir(tmp_path)
    # the process that loads torch is not what is asked about
    monkeypatch.setattr(doctor, "abilities", lambda environ: Abilities())
    places = ("HOME", "LORA_PROFILER_CACHE")
    others = {k: v for k, v in OFFLINE.items() if k not in places and not k.startswith("XDG_")}
    return in_this_process(*COMMANDS[command], environment=others | home)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_answer_where_the_home_is_another_user_s(
    command: str, closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = asked(command, tmp_path, monkeypatch, HOME=str(closed))
    assert done.exit_code == 0 and done.stdout, done.stderr
    done = asked(command, tmp_path, monkeypatch, HOME="/", LORA_PROFILER_CACHE=str(closed))
    assert done.exit_code == 0 and done.stdout, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_answer_where_the_user_has_no_home(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs as a number."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    done = asked(command, tmp_path, monkeypatch)
    assert done.exit_code == 0 and done.stdout, done.stderr


def test_what_cannot_be_kept_in_such_a_home_is_said(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_PROFILER_CACHE", str(closed))
    profile = next(library.bundled_profiles(), None)
    assert profile is None or library.keep(profile) is None
    with pytest.raises(StoreError, match="--records PATH"):
        Store(closed / "records.jsonl")


def test_a_token_that_cannot_be_read_is_none(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(closed / "token"))
    assert "authorization" not in _headers()


@pytest.mark.parametrize("words", [("--data", "{}"), ("-o", "{}/answer")])
def test_a_file_that_cannot_be_reached_is_named(words: tuple[str, str], closed: Path) -> None:
    given = (words[0], words[1].format(closed))
    done = in_this_process("gpt2", "-s", "64", *given, environment=OFFLINE)
    assert done.exit_code == 2 and done.stdout == ""
    assert closed.name in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("crash", ["main.root.callback = lambda **_: 1 / 0", "del main.main"])
def test_a_crash_never_ends_with_the_exit_code_of_an_answer(crash: str) -> None:
    script = f"from lora_profiler.cli import main\n{crash}\nfrom lora_profiler.__main__ import main\nmain()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 70
    assert "Traceback" in done.stderr and "lora-profile itself failed" in done.stderr
