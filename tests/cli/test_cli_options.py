"""The options of every command: shown in groups, all of them reachable; what is said of one that is
not there, and of one that is given two values."""

import re
from itertools import chain
from pathlib import Path

import click
import pytest

import commands
from commands import lora_profile
from golden_files import Golden
from lora_profiler.cli.main import root
from lora_profiler.cli.option_groups import TEXT_WIDTH, num_rare, shown_options
from lora_profiler.question.option import GROUP_TITLES
from lora_profiler.question.workload import OPTIONS
from lora_profiler.trainer_files.reading import frameworks, lone_key

VERBS = {verb: root.get_command(click.Context(root), verb) for verb in root.list_commands(None)}  # type: ignore[arg-type]


def flags(verb: str) -> list[str]:
    """As click knows them."""
    command = VERBS[verb]
    assert command is not None
    return [option.flag for option in shown_options(command)]


def sections(text: str) -> dict[str, list[str]]:
    """The long flags under each heading of a help."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in text.splitlines():
        flag = re.match(r"  (?:-\w, |    )(--[\w[\]-]+)", line)
        if flag is not None:
            found.setdefault(title, []).append(flag[1].replace("[no-]", ""))
        elif line and not line.startswith(" "):
            title = line
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_shown_once(verb: str) -> None:
    few = shown = sections(lora_profile(verb, "--help").stdout)
    if num_rare(VERBS[verb]):
        assert 12 <= sum(map(len, few.values())) < len(flags(verb)) / 2
        shown = sections(lora_profile(verb, "--help-all").stdout)
        assert set(chain(*few.values())) < set(chain(*shown.values()))
    assert sorted(chain(*shown.values())) == sorted(flags(verb))


@pytest.mark.parametrize("verb", VERBS)
def test_an_option_has_one_line_in_the_short_help(verb: str) -> None:
    for option in shown_options(VERBS[verb]):
        gap = bool(option.default_text)
        assert option.rare or len(option.help) + gap <= TEXT_WIDTH, option.flag
        assert option.help, option.flag


@pytest.mark.parametrize("words", ["--help", *(f"{verb} --help" for verb in VERBS)])
def test_help_fits_a_terminal_and_breaks_no_name(words: str) -> None:
    lines = lora_profile(*words.split()).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if line.endswith("-")]


def test_a_crossover_lists_its_sizes_alone() -> None:
    shown = set(chain(*sections(lora_profile("crossover", "--help-all").stdout).values()))
    assert "--lengths" in shown and not shown & {"--batch-size", "--seq-len"}
    done = lora_profile("crossover", "gpt2", "--seq-len", "64")
    assert (done.exit_code, "--lengths" in done.stderr) == (2, True)


@pytest.mark.parametrize("verb", ["predict", "bench", "compile", "crossover", "plan"])
def test_an_option_of_the_setup_is_in_its_group(verb: str) -> None:
    shown = sections(lora_profile(verb, "--help-all").stdout)
    for option in OPTIONS:
        if option.flag in flags(verb):
            assert option.flag in shown[GROUP_TITLES[option.declared.group]]


def test_what_a_strange_option_may_mean_and_that_a_second_value_is_refused(
    golden_file: Golden,
) -> None:
    golden_file.compare_answers(
        "refusals-options", lambda words: commands.refused(lora_profile(*words.split()))
    )


def test_any_key_of_any_trainer_is_an_answer_or_none() -> None:
    """By itself a key may contradict itself or lack what it needs, which is no reason to fail."""
    for name in {key for framework in frameworks() for key in framework.keys}:
        for value in (True, False, 1, -1, 1e400, "x", "a\0b", "x" * 5000, [], None):
            found = lone_key(name, [value])
            assert found is None or found.key.endswith(name)


@pytest.mark.parametrize("option", ["--lora-target=", "--targets=a --targets="])
def test_what_is_said_of_an_option_moves_no_cursor(option: str) -> None:
    *words, last = option.split()
    said = commands.refused(lora_profile("gpt2", *words, f"{last}\x1b[2J"))
    assert "\\x1b[2J" in said and "\x1b" not in said


def test_the_same_value_again_and_a_second_method_are_none() -> None:
    question = ("gpt2", "-s", "64", "--method", "full", "--method", "lora")
    once = lora_profile(*question, "--checkpointing")
    again = lora_profile(*question, "--checkpointing", "--checkpointing", "-s", "64", "--help")
    assert once.exit_code == again.exit_code == 0
    again = lora_profile(*question, "--checkpointing", "--checkpointing", "-s", "64")
    assert again == once


def test_what_a_file_implies_with_a_bad_value_is_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text("model_name_or_path: gpt2\nnum_generations: 4\nmax_prompt_length: many\n")
    done = lora_profile("read", str(file))
    assert done.exit_code == 2
    assert done.stderr == "error: sft.yaml:3: max_prompt_length is many\n  It must be a number.\n"


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["checkpointing"], "--checkpointing"),
        (["packing"], "--packed"),
        (["rows"], "--rows"),
        (["adamw_8bit"], "--optimizer"),
        (["per-device-train-batch-size"], "--batch-size"),
        (["nvme"], "--offload-optimizer-device"),
    ],
)
def test_all_options_can_be_searched(words: list[str], first: str) -> None:
    shown = lora_profile("options", *words).stdout
    assert shown.startswith(f"{first} ") and "\n" + " " * 28 + "in predict" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_a_name_that_is_the_word_hides_no_text_about_it() -> None:
    shown = lora_profile("options", "budget").stdout
    assert shown.index("--budget ") < shown.index("\n--max-cost ")


def test_a_word_that_no_option_is_about() -> None:
    done = lora_profile("options", "zzzz")
    assert done.stdout == "No option is about zzzz. All: lora-profile predict --help-all\n"
