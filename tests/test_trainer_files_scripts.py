"""Scripts with PEFT and a Trainer: read as questions without being run, and written from them. What
they hold when they are run is in `benchmarks/rehearsed/written_scripts.py`."""

import json
import re
from pathlib import Path
from typing import Any

import peft
import pytest

from commands import Run
from lora_profiler import find_model
from lora_profiler.adapters import adapters
from lora_profiler.errors import UsageError
from lora_profiler.planning.setups import DEFAULTS, setup_for, setups
from lora_profiler.trainer_files.document import TrainerFileError
from lora_profiler.trainer_files.reading import read_files
from lora_profiler.trainer_files.trainer_file import TrainerFile
from lora_profiler.trainer_files.writing import written
from lora_profiler.workload import Workload

SCRIPT = """\
import torch, argparse
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers import Trainer, TrainingArguments
NAME = "Qwen/Qwen2.5-0.5B"
max_seq_length = 512
tokenizer = AutoTokenizer.from_pretrained("somebody/else")
model = AutoModelForCausalLM.from_pretrained(
    NAME,
    torch_dtype=torch.bfloat16,
    attn_implementation="flash_attention_2",
    quantization_config=BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
    ),
)
model = prepare_model_for_kbit_training(model)
config = LoraConfig(r=32, lora_alpha=64, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
model = get_peft_model(model, config)
args = TrainingArguments(
    output_dir="out",
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    optim="paged_adamw_8bit",
    bf16=True,
    learning_rate=2e-4,
)
trainer = Trainer(model=model, args=args, train_dataset=load(tokenizer))
trainer.train()
"""


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def run(text: str) -> TrainerFile:
        path = tmp_path / "train.py"
        path.write_text(text)
        return read_files([path])

    return run


def test_a_plain_script(read: Any) -> None:
    file = read(SCRIPT)
    assert (file.framework, file.stack, file.model) == ("peft", "transformers", "Qwen/Qwen2.5-0.5B")
    assert not file.not_modelled
    assert file.options == {
        "seq_len": 512,
        "methods": ("qlora",),
        "dtype": "bfloat16",
        "attention": "flash_attention_2",
        "double_quant": True,
        "recipe": "kbit",
        "checkpointing": True,  # prepare_model_for_kbit_training's own default
        "rank": 32,
        "alpha": 64.0,
        "targets": "q_proj,v_proj",
        "batch_size": 4,
        "accumulation": 2,
        "optimizer": "paged_adamw_8bit",
        "precision": "amp",
    }


def test_what_bitsandbytes_and_peft_take_by_themselves(read: Any) -> None:
    file = read(SCRIPT.replace("bnb_4bit_compute_dtype=torch.bfloat16,", ""))
    assert [key.missing for key in file.not_modelled] == ["products of the 4-bit base in float32"]
    file = read(SCRIPT.replace('bnb_4bit_quant_type="nf4", ', ""))
    assert [key.missing for key in file.not_modelled] == ["a base in fp4, answered as NF4"]
    told = SCRIPT.replace("training(model)", "training(model, use_gradient_checkpointing=False)")
    assert read(told).options["checkpointing"] is False
    narrow = SCRIPT.replace("(model, config)", "(model, config, autocast_adapter_dtype=False)")
    assert "adapter_dtype" not in read(narrow).options  # packed weights have no dtype to take
    plain = narrow.replace("load_in_4bit=True", "load_in_4bit=False")
    assert read(plain).options["adapter_dtype"] == "bfloat16"
    pattern = SCRIPT.replace('["q_proj", "v_proj"]', '"q_proj,v_proj"')
    assert read(pattern).options["targets"] == "re:q_proj,v_proj"  # PEFT matches it in full


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("VeraConfig()", {"peft_type": "vera", "rank": 256}),
        ("VeraConfig(r=16, vera_dropout=0.1)", {"peft_type": "vera", "rank": 16, "dropout": 0.1}),
        (
            'IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])',
            {"peft_type": "ia3", "targets": "k_proj,down_proj", "feedforward_modules": "down_proj"},
        ),
        ("OFTConfig(oft_block_size=64)", {"peft_type": "oft", "oft_block_size": 64}),
    ],
)
def test_other_adapters_of_peft(read: Any, config: str, options: dict[str, Any]) -> None:
    text = f'SFTTrainer(model="gpt2", args=SFTConfig(max_length=64), peft_config={config})\n'
    file = read(text)
    assert file.options == {"methods": ("lora",), "seq_len": 64, **options}
    assert not file.not_modelled


def test_gpt_oss_as_its_guides_train_it(read: Any) -> None:
    """OpenAI's cookbook and TRL's example: MXFP4 brought back, experts of three layers."""
    experts = [f"{n}.mlp.experts.{one}_proj" for n in (7, 15, 23) for one in ("gate_up", "down")]
    text = f"""config = LoraConfig(r=8, target_modules="all-linear", target_parameters={experts})
base = Mxfp4Config(dequantize=True)
model = AutoModelForCausalLM.from_pretrained("openai/gpt-oss-20b", quantization_config=base)
SFTTrainer(model=get_peft_model(model, config), args=SFTConfig(max_length=64))
"""
    file = read(text)
    assert file.options["target_parameters"] == ",".join(experts)
    assert not any(key.state in ("not modelled", "unknown") for key in file.keys)
    (setup,) = setups(find_model(file.model), {**DEFAULTS, **file.options}, set(file.options))
    found = adapters(find_model(file.model), setup.lora)
    assert [(a.in_features, a.out_features) for a in found if a.num_experts == 32] == [
        (2880, 5760),
        (2880, 2880),
    ] * 3
    fp8 = text.replace("Mxfp4Config", "FineGrainedFP8Config")
    (gap,) = read(fp8).not_modelled
    assert gap.missing.startswith("a base brought back")


def test_every_adapter_of_the_installed_peft_is_known_for_one(read: Any) -> None:
    for config in set(peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING.values()):
        text = f'SFTTrainer(model="gpt2", peft_config={config.__name__}())\n'
        assert read(text).options["methods"] == ("lora",), config


def test_adapters_that_have_no_option_are_named(read: Any) -> None:
    text = 'SFTTrainer(model="gpt2", peft_config=LoHaConfig(r=4))\n'
    (gap,) = read(text).not_modelled
    assert (gap.missing, gap.direction) == ("LoHaConfig, answered as LoRA", "either way")


def test_a_trainer_of_trl_has_its_own_defaults(read: Any) -> None:
    text = 'SFTTrainer(model="gpt2", args=SFTConfig(max_length=64, packing=True))\n'
    file = read(text)
    assert (file.framework, file.stack, file.model) == ("peft", "trl-sft", "gpt2")
    assert (file.options["methods"], file.options["seq_len"]) == (("full",), 64)
    assert file.has_one_row
    assert read(text.replace("SFT", "DPO")).stack == "trl-dpo"
    other = read(text.replace("SFTTrainer", "MyTrainer"))
    assert {key.direction for key in other.not_modelled} == {"too low"}


def test_what_the_script_computes_is_said(read: Any) -> None:
    file = read(SCRIPT.replace("per_device_train_batch_size=4", "per_device_train_batch_size=b()"))
    (gap,) = file.not_modelled
    assert (gap.key, gap.line, gap.direction) == ("per_device_train_batch_size", 22, "either way")
    assert "batch_size" not in file.options


def test_a_script_without_a_trainer_is_refused(read: Any) -> None:
    with pytest.raises(TrainerFileError, match="no call of a Trainer"):
        read(SCRIPT.replace("Trainer(", "Loop("))


NO_SCRIPTS = {
    (
        "cut.py",
        "def f(:\n",
    ): "cut.py:1: not valid Python: invalid syntax; rehearse any script: `lora-profile"
    " rehearse --gpu t4 -- python cut.py`",
    ("a.ipynb", "{\n"): "a.ipynb:2: not a notebook, not valid JSON: ",
    ("b.ipynb", '{"cells": 3}'): "b.ipynb is no notebook: it has no list of cells.",
    ("c.ipynb", "[]"): "c.ipynb is no notebook: it has no list of cells.",
    ("d.py", b"\xff"): "/d.py is not UTF-8 text (byte 0); save it as UTF-8.",
    ("none.py", None): "none.py; check the path.",
}


@pytest.mark.parametrize(("name", "content"), NO_SCRIPTS)
def test_a_file_that_is_no_script_says_why(
    name: str, content: str | bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TrainerFileError, match=re.escape(NO_SCRIPTS[name, content])):
        read_files([path])


def test_a_written_script_says_what_it_cannot(tmp_path: Path) -> None:
    model = find_model("Qwen/Qwen2.5-0.5B")

    def asked(**options: Any) -> Workload:
        return Workload(model=model, setup=setup_for(model, "transformers", "lora", **options))

    usual = {"batch_size": 1, "seq_len": 64}
    assert "Qwen/Qwen2.5-0.5B" in written("peft", asked(**usual), "train.py")
    for more in ({"padding": 0.5}, {"packed": 8}, {"attention": "math"}, {"loss": "triton"}):
        with pytest.raises(UsageError, match="cannot express --"):
            written("peft", asked(**usual, **more), "train.py")
    with pytest.raises(UsageError, match=r"ends in \.py"):
        written("peft", asked(**usual), "train.yaml")


@pytest.mark.parametrize(
    ("loading", "dtype"),
    [
        ('"Qwen/Qwen2.5-0.5B"', "float32"),  # by TRL, create_model_from_path
        ('AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B")', "bfloat16"),
        ('AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B", dtype="float32")', "float32"),
    ],
)
def test_weights_are_in_the_format_that_who_loads_them_takes(
    run: Run, tmp_path: Path, loading: str, dtype: str
) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        f"model = {loading}\nSFTTrainer(model=model, args=SFTConfig(max_length=64)).train()\n"
    )
    done = run(str(script), "--full", "--format", "json")
    assert json.loads(done.stdout)["predictions"][0]["setup"]["dtype"] == dtype


def test_the_command_that_a_script_amounts_to_asks_the_same(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        'model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-0.5B")\n'
        "SFTTrainer(model=model, args=SFTConfig(max_length=64)).train()\n"
    )
    words = json.loads(run("read", str(script), "--format", "json").stdout)["command"]
    asked, said = (
        json.loads(run(*command, "--full", "--format", "json").stdout)["predictions"][0]
        for command in (words[1:], [str(script)])
    )
    for answer in (asked, said):
        del answer["evidence"]  # what a script does not set is the trainer's default
    assert asked == said


BITSANDBYTES = SCRIPT[SCRIPT.index("BitsAndBytesConfig(\n") : SCRIPT.index("    ),\n)")] + "    )"


@pytest.mark.parametrize(
    ("config", "kind", "gap"),
    [
        ("GPTQConfig(bits=4, backend='torch')", "gptq", ""),
        ("GPTQConfig(bits=8)", "gptq", "a base in 8 bit, answered in 4"),
        ("AwqConfig(bits=4, group_size=64)", "awq", "a scale for each 64 weights"),
        ("FineGrainedFP8Config()", "fp8", ""),
    ],
)
def test_other_packages_quantise_the_base_of_a_script(
    read: Any, config: str, kind: str, gap: str
) -> None:
    file = read(SCRIPT.replace(BITSANDBYTES, config))
    assert (file.options["methods"], file.options["quant_type"]) == (("qlora",), kind)
    assert [row.missing[: len(gap)] for row in file.not_modelled] == [gap] * bool(gap)


def test_a_script_whose_optimizer_is_pefts_own(read: Any) -> None:
    steps = "optimizer = create_lorafa_optimizer(model=model, r=32, lora_alpha=64, lr=7e-5)\n"
    file = read(SCRIPT.replace("trainer = ", f"{steps}trainer = "))
    assert file.options["optimizer"] == "lorafa"
    assert not file.not_modelled
