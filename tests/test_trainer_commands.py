"""The command that starts a trainer, typed behind `lora-profile`: answered from its arguments."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from commands import Run, refused
from lora_profiler.trainer_files.reading import read_command

AXOLOTL = """\
base_model: Qwen/Qwen2.5-0.5B
adapter: lora
lora_r: 16
lora_alpha: 32
lora_target_linear: true
sequence_len: 1024
micro_batch_size: 2
gradient_checkpointing: true
"""
LLAMAFACTORY = """\
model_name_or_path: Qwen/Qwen2.5-0.5B
stage: sft
finetuning_type: lora
cutoff_len: 1024
per_device_train_batch_size: 2
"""
TORCHTUNE = """\
tokenizer: {path: /tmp/Llama-3.2-1B/tokenizer.model, max_seq_len: 1024}
model:
  _component_: torchtune.models.llama3_2.lora_llama3_2_1b
  lora_attn_modules: [q_proj, v_proj]
  lora_rank: 64
  lora_alpha: 128
batch_size: 4
optimizer: {_component_: torch.optim.AdamW, fused: true}
loss: {_component_: torchtune.modules.loss.LinearCrossEntropyLoss}
dtype: bf16
"""
SCRIPT = """\
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--batch-size", type=int, default=4)
parser.add_argument("--bf16", action="store_true")
args = parser.parse_args()
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B")
training = TrainingArguments(per_device_train_batch_size=args.batch_size, bf16=args.bf16)
Trainer(model, training).train()
"""
MODEL = "--model_name_or_path Qwen/Qwen2.5-0.5B"
TRL = f"{MODEL} --use_peft"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {"ax.yml": AXOLOTL, "lf.yaml": LLAMAFACTORY, "tt.yaml": TORCHTUNE, "own.py": SCRIPT}
    for name, text in {**files, "other.py": "print(1)\n"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMANDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (f"trl sft {TRL} --no_gradient_checkpointing", "trl-sft", {"checkpointing": False}),
    (
        f"trl sft {TRL} --gradient_checkpointing_kwargs '{{\"use_reentrant\": false}}'",
        "trl-sft",
        {"use_reentrant": False},
    ),
    (f".venv/bin/trl dpo {TRL} --max-length=512", "trl-dpo", {"seq_len": 512}),
    (f"accelerate launch --num_processes 2 scripts/sft.py {TRL}", "trl-sft", {"world_size": 2}),
    ("axolotl train ax.yml", "axolotl", {"batch_size": 2, "checkpointing": True}),
    ("uv run axolotl train ax.yml --micro-batch-size 4", "axolotl", {"batch_size": 4}),
    ("axolotl train ax.yml --no-gradient-checkpointing", "axolotl", {"checkpointing": False}),
    (
        "axolotl train ax.yml --launcher torchrun -- --nproc_per_node=2",
        "axolotl",
        {"world_size": 2},
    ),
    ("accelerate launch -m axolotl.cli.train ax.yml", "axolotl", {"rank": 16}),
    ("CUDA_VISIBLE_DEVICES=0,1 axolotl train ax.yml", "axolotl", {"world_size": 2}),
    (
        "llamafactory-cli train lf.yaml per_device_train_batch_size=8 lora_target=[q_proj,v_proj]",
        "llamafactory",
        {"batch_size": 8, "seq_len": 1024, "targets": "q_proj,v_proj"},
    ),
    (
        f"llamafactory-cli train --stage sft {MODEL} --finetuning_type lora --cutoff_len 512",
        "llamafactory",
        {"seq_len": 512},
    ),
    (
        "FORCE_TORCHRUN=1 NNODES=2 NPROC_PER_NODE=4 llamafactory-cli train lf.yaml",
        "llamafactory",
        {"world_size": 8},
    ),
    (
        f"deepspeed --num_gpus 4 src/train.py --stage sft {MODEL} --finetuning_type lora",
        "llamafactory",
        {"world_size": 4},
    ),
    (
        "tune run lora_finetune_single_device --config tt.yaml batch_size=2 model.lora_rank=8",
        "torchtune",
        {"batch_size": 2, "rank": 8, "alpha": 128, "loss": "torchtune"},
    ),
    (
        "tune run --nproc_per_node 2 lora_finetune_distributed --config=tt.yaml ~loss",
        "torchtune",
        {"world_size": 2, "sharding": "fsdp"},
    ),
    (
        "tune run --nproc_per_node 4 full_finetune_distributed --config tt.yaml"
        " fsdp_reshard_after_forward=False",
        "torchtune",
        {"world_size": 4, "sharding": "fsdp-no-reshard"},
    ),
    ("python own.py", "transformers", {"batch_size": 4}),
    (
        "torchrun own.py --batch-size 2 --bf16",
        "transformers",
        {"batch_size": 2, "precision": "amp"},
    ),
)


@pytest.mark.parametrize(("command", "trainer", "options"), COMMANDS)
def test_a_command_is_the_question_that_its_arguments_ask(
    folder: Path, command: str, trainer: str, options: dict[str, Any]
) -> None:
    file = read_command(shlex.split(command), folder)
    assert file.stack == trainer
    assert {name: file.options.get(name) for name in options} == options
    assert not [row.key for row in file.keys if row.state == "unknown"]


@pytest.mark.parametrize(
    ("key", "direction"),
    [("data_parallel_replicate_dim=2", "too low"), ("custom_sharded_layers=[output]", "too high")],
)
def test_sharding_that_nothing_models_is_named_with_how_the_answer_errs(
    folder: Path, run: Run, key: str, direction: str
) -> None:
    words = ["tune", "run", "--nproc_per_node", "4", "lora_finetune_distributed"]
    said = " ".join(run(*words, "--config", str(folder / "tt.yaml"), key).stdout.split())
    assert "Estimate: " in said and " is not modelled" in said
    assert f"(the answer is {direction})" in said


def test_recipes_of_several_gpus_are_estimates(folder: Path, run: Run) -> None:
    """Whose sharding nothing was held against."""
    words = ["tune", "run", "--nproc_per_node", "4", "lora_finetune_distributed"]
    several = run(*words, "--config", str(folder / "tt.yaml")).stdout
    one = run(str(folder / "tt.yaml")).stdout
    assert [("Estimate: " in said) for said in (several, one)] == [True, False]


def test_a_key_that_is_left_out_takes_what_is_under_it_along(folder: Path) -> None:
    words = ["tune", "run", "lora_finetune_single_device", "--config", "tt.yaml", "~loss"]
    assert "loss" not in read_command(words, folder).options


def test_typed_behind_the_name_alone_and_behind_the_verb(folder: Path, run: Run) -> None:
    command = f"trl sft {TRL} --max_length 512"
    before, after = ["--gpu", "t4", "--full", "--format", "json"], command.split()
    answers = [
        json.loads(run(*words).stdout)
        for words in ([*before, *after], ["predict", *before, *after], [*before, "--", *after])
    ]
    assert answers[0] == answers[1] == answers[2]
    asked = "Qwen/Qwen2.5-0.5B --trainer trl-sft --method lora --dtype float32 --rank 16 --alpha 32"
    same = run(*asked.split(), *["--dropout", "0.05", "--targets", "default", "-s", "512"], *before)
    peaks = [answer["predictions"][0]["peak"] for answer in (answers[0], json.loads(same.stdout))]
    assert peaks[0] == peaks[1]


@pytest.mark.parametrize(
    ("command", "message"),
    (
        ("swift sft --model X", "starts no known trainer"),
        ("python other.py --x", "lora-profile rehearse --gpu t4 -- python other.py"),
        ("python nowhere.py --x 1", "rehearse --gpu t4 -- python nowhere.py --x 1"),
        ("axolotl preprocess ax.yml", "rehearse --gpu t4 -- axolotl preprocess ax.yml"),
        (f"trl sft {TRL} --gpu t4", "--gpu would go to TRL"),
        (f"trl sft {TRL} -b 4", "-b would go to TRL"),
        ("axolotl train nowhere.yml", "there is no file nowhere.yml"),
        ("tune run lora_finetune_single_device --config llama3/8B_lora", "tune cp llama3/8B_lora"),
        ("tune run lora_finetune_single_device", "Add --config FILE"),
        ("llamafactory-cli train lf.yaml batch", "'batch' is no KEY=VALUE"),
    ),
)
def test_what_cannot_be_read_is_refused_with_what_to_do(
    folder: Path, run: Run, command: str, message: str
) -> None:
    assert message in refused(run(*command.split()))


def test_a_model_is_no_command(run: Run) -> None:
    assert run("gpt2", "--method", "lora", "-s", "512").exit_code == 0
