"""Errors say what is wrong, why, and what to type; what they propose works."""

import re
import sys
from pathlib import Path

import pytest

from commands import OFFLINE, lora_profile, on_a_terminal, refused
from golden_files import Golden
from lora_profiler._common.messages import ERROR, WARNING, message_lines, messages_in

FILES = {
    "several.yaml": "base_model: openai-community/gpt2\ndeepspeed: deepspeed_configs/zero2.json\n"
    "micro_batch_size: 1\nsequence_len: 64\nadapter: lora\nlora_r: 8\nlora_target_linear: true\n",
    "value.yaml": "base_model: openai-community/gpt2\nadapter: lora\nmicro_batch_size: many\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_case_of_the_table(golden_file: Golden, folder: Path) -> None:
    golden_file.compare_answers("errors", lambda words: refused(lora_profile(*words.split())))


PROPOSED = [
    command
    for text in (Path(__file__).parents[1] / "golden/errors.txt").read_text().split("\n\n")
    for command in re.findall(
        r"^  (?!Usage).*?(lora-profile .*?)(?:[?]?$| Any size)", text, re.MULTILINE
    )
]


@pytest.mark.parametrize("command", PROPOSED)
def test_what_an_error_proposes_works(command: str, folder: Path) -> None:
    words = command.replace("[OPTIONS]", "--help").split()[1:]
    done = lora_profile(*words)
    assert done.exit_code in (0, 1), done.stderr


def test_a_message_is_the_same_text_on_a_terminal_in_colour() -> None:
    command = [sys.executable, "-m", "lora_profiler", "gpt2", "-s", "2048", "--method", "lora"]
    coloured = on_a_terminal(command, columns=120, environment=OFFLINE)
    plain = on_a_terminal(command, columns=120, environment=OFFLINE, NO_COLOR="1")
    assert "\x1b[33m\x1b[1mwarning:" in coloured
    assert "warning: openai-community/gpt2's context length is 1,024 tokens\r\n" in plain


def test_messages_are_found_again_among_other_lines() -> None:
    lines = ["Training", "warning: a", "  b", "error: c", "  Try: d", "done"]
    assert list(messages_in(WARNING, lines)) == ["a\nb"]
    assert list(messages_in(ERROR, lines)) == ["c\nTry: d"]
    typed = "Type `lora-profile --gpu t4 ... trl sft ... --bf16`. Then wait."
    assert message_lines(typed) == [
        "Type `lora-profile --gpu t4 ... trl sft ... --bf16`",
        "Then wait.",
    ]
    assert message_lines("torch is old; torch 2.11 will do. take it") == [
        "torch is old",
        "torch 2.11 will do.",
        "Take it",
    ]


@pytest.mark.parametrize("asked", ["Qwen/Qwen2.5-7B --gpu 2xa100", "mistral 7b --gpu t4"])
def test_an_ambiguous_name_says_what_each_choice_would_answer(asked: str) -> None:
    done = lora_profile(*asked.split(), "--method", "qlora")
    answers = re.findall(r"^  (\S+): (.*)$", done.stderr, re.MULTILINE)
    assert done.exit_code in (2, 3) and len(answers) > 1 and not done.stdout
    for choice, words in answers:
        whole = asked.replace("a100", choice).replace("mistral 7b", choice)
        said = lora_profile(*whole.split(), "--method", "qlora").stdout
        assert words in " ".join(said.split())


def test_of_each_choice_the_method_that_fits_is_said():
    error = lora_profile("mistral", "--gpu", "rtx_4090").stderr
    assert "mistralai/Mistral-7B-v0.3: ✓ LoRA" in error
    assert re.search(
        r"mistralai/Mistral-Nemo-Base-2407: .*QLoRA r16 fits with --method qlora", error
    )
    assert "mistralai/Mistral-Small-4-119B-2603: ✗ LoRA" in error
    assert error.rstrip().endswith("1 more: lora-profile models mistral")
