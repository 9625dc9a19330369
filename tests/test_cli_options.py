"""The options of every command: shown in groups, all of them reachable; what is said of one that is
not there, and of one that is given two values."""

import os
from pathlib import Path

import click
import pytest

import commands
from lora_profiler.cli.main import root
from lora_profiler.option import GROUP_TITLES
from lora_profiler.trainer_files.lone_key import lone_key
from lora_profiler.trainer_files.reading import FRAMEWORKS
from lora_profiler.workload import OPTIONS

ENVIRONMENT = {
    k: v for k, v in os.environ.items() if not k.startswith(("HF_", "COLUMNS", "NO_COLOR"))
} | {"HF_HUB_OFFLINE": "1"}
VERBS = {verb: root.get_command(click.Context(root), verb) for verb in root.list_commands(None)}  # type: ignore[arg-type]


def lora_profile(*arguments: str) -> commands.Done:
    return commands.in_this_process(*arguments, environment=ENVIRONMENT)


def flags(verb: str) -> list[str]:
    """As click knows them."""
    command = VERBS[verb]
    assert command is not None
    options = (p for p in command.params if isinstance(p, click.Option) and not p.hidden)
    return ["--help", *(max(option.opts, key=len) for option in options)]


def sections(text: str) -> dict[str, list[str]]:
    """The long flags under each heading of a help."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            title = line[:-1]
        elif line.startswith("  -"):
            words = line.replace(",", " ").split()
            found.setdefault(title, []).append(next(w for w in words if w.startswith("--")))
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_shown_once(verb: str) -> None:
    few = sections(lora_profile(verb, "--help").stdout)
    shown = few
    if "--help-all" in flags(verb):
        assert list(few) == ["Options"] and 12 <= len(few["Options"]) <= 20
        shown = sections(lora_profile(verb, "--help-all").stdout)
        assert set(few["Options"]) < set(sum(shown.values(), []))
    assert sorted(sum(shown.values(), [])) == sorted(flags(verb))


@pytest.mark.parametrize("verb", ["predict", "bench", "compile", "crossover", "plan"])
def test_an_option_of_the_setup_is_in_its_group(verb: str) -> None:
    shown = sections(lora_profile(verb, "--help-all").stdout)
    for option in OPTIONS:
        if not option.declared.hidden:
            assert option.flag in shown[GROUP_TITLES[option.declared.group]]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("gpt2 --lora-rank 8", "What LLaMA-Factory calls lora_rank is --rank 8 here."),
        ("gpt2 --lora_r=8", "What TRL calls lora_r is --rank 8 here."),
        ("gpt2 --lora-r", "What TRL calls lora_r is --rank here."),
        ("gpt2 --max-seq-len 512", "tokenizer.max_seq_len is --seq-len 512 here."),
        ("gpt2 --load-in-4bit", "load_in_4bit is --method qlora here."),
        ("gpt2 --quantization-bit 4", "quantization_bit is --method qlora here."),
        ("gpt2 --gradient-checkpointing", "gradient_checkpointing is --checkpointing here."),
        ("--gradient-checkpointing gpt2", "gradient_checkpointing is --checkpointing here."),
        ("gpt2 --use_liger_kernel", "use_liger_kernel is --kernels liger here."),
        ("gpt2 --per-device-train-batch-size 4", "is --batch-size 4 here."),
        ("gpt2 --optim adamw_torch_fused", "is --optimizer adamw --optimizer-impl fused here."),
        ("gpt2 --flash-attn fa2", "What LLaMA-Factory calls flash_attn is --attention flash here."),
        ("gpt2 --flash-attn", "Did you mean --attention flash?"),
        ("gpt2 --bf16", "What TRL calls bf16 is --precision amp here."),
        ("gpt2 --fp16", "as bfloat16's; nearest is --precision amp."),
        ("gpt2 --load-in-8bit", "is not modelled: a base in 8 bit, answered in 16."),
        ("gpt2 --packing", "--packed tells the data's mean length"),
        ("gpt2 --lr 1e-4", "optimizer.lr changes no answer here; leave it out."),
        ("gpt2 --bs 4", "Did you mean --batch-size?"),
        ("gpt2 --batch_size 4", "Did you mean --batch-size?"),
        ("gpt2 --smoothing 0.1", "Did you mean --label-smoothing-factor?"),
        ("gpt2 --qlora", "Did you mean --method qlora?"),
        ("gpt2 --modules-to-sav lm_head", "Did you mean --modules-to-save?"),
        ("--model_name_or_path gpt2", "model_name_or_path is MODEL here."),
        ("bench gpt2 --epochs 3", "--epochs is an option of lora-profile predict."),
        ("gpt2 --timing 3", "--timing-seconds is an option of lora-profile bench."),
        ("compare runs --rank 8", "--rank is an option of lora-profile predict, bench, compile."),
        ("gpt2 --zzz", "No such option '--zzz'."),
    ],
)
def test_what_a_strange_option_may_mean(arguments: str, hint: str) -> None:
    done = lora_profile(*arguments.split())
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith(hint), done.stderr


def test_any_key_of_any_trainer_is_an_answer_or_none() -> None:
    """By itself a key may contradict itself or lack what it needs, which is no reason to fail."""
    for name in {key for framework in FRAMEWORKS for key in framework.keys}:
        for value in (True, False, 1, -1, "x", [], None):
            found = lone_key(name, [value])
            assert found is None or found.key.endswith(name)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--rank 8 --rank=16", "was given 2: --rank 8, --rank 16; leave out all but one. From"),
        ("-b 1 -s 64 -b4 -b 2", "was given 3: --batch-size 1, --batch-size 4, --batch-size 2;"),
        ("--checkpointing --no-checkpointing", "given 2: --checkpointing, --no-checkpointing;"),
        ("--targets c_attn --targets c_proj", "Several go into one value, with commas"),
        ("--write trl a.yml --write trl b.yml", "given 2: --write trl a.yml, --write trl b.yml;"),
        ("--gpu t4 --gpu l4", "--gpu takes one value, and was given 2: --gpu t4, --gpu l4; leave"),
    ],
)
def test_a_second_value_is_refused(arguments: str, said: str) -> None:
    done = lora_profile("gpt2", *arguments.split())
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr.splitlines()[-1]


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
    assert done.stderr == "Error: sft.yaml: it must be a number.\n"
