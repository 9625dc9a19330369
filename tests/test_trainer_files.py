"""Trainers' own files as questions: each framework's keys, what is refused, and what is said of the
rest. The expected options are those of shared configurations worked out by hand, from the
frameworks' sources."""

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from commands import lora_profile
from golden_files import Golden
from loading import modules_after
from lora_profiler import find_model, predict, setup_for
from lora_profiler.adapters import adapters
from lora_profiler.catalog.bundled import vision_rows
from lora_profiler.errors import LoraProfilerError
from lora_profiler.planning.setups import DEFAULTS, setups
from lora_profiler.stacks import find_stack
from lora_profiler.trainer_files.document import TrainerFileError, parse
from lora_profiler.trainer_files.reading import read_command, read_document, read_files, recognised
from lora_profiler.trainer_files.resolving import resolve_images
from lora_profiler.trainer_files.scripts import parse_calls
from lora_profiler.trainer_files.trainer_file import TrainerFile, on_model, with_images
from lora_profiler.trainer_files.writing import suffix_of, written
from lora_profiler.workload import LoraConfig, Workload

AXOLOTL = """\
base_model: NousResearch/Llama-3.2-1B
load_in_4bit: true
adapter: qlora
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
sequence_len: 512
sample_packing: true
micro_batch_size: 2
gradient_accumulation_steps: 4
optimizer: adamw_bnb_8bit
learning_rate: 2e-4
bf16: auto
attn_implementation: flash_attention_2
gradient_checkpointing: true
activation_offloading: legacy
lora_mlp_kernel: false
datasets:
  - path: mhenrichsen/alpaca_2k_test
    type: alpaca
"""
LLAMAFACTORY = """\
model_name_or_path: Qwen/Qwen3-0.6B
stage: sft
do_train: true
finetuning_type: full
template: qwen3
cutoff_len: 1024
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
bf16: true
flash_attn: fa2
optim: paged_adamw_8bit
"""
TORCHTUNE = """\
model:
  _component_: torchtune.models.llama3_2.lora_llama3_2_1b
  lora_attn_modules: ['q_proj', 'v_proj', 'output_proj']
  apply_lora_to_mlp: True
  lora_rank: 64
  lora_alpha: 128
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
  max_seq_len: null
checkpointer:
  checkpoint_dir: /tmp/Llama-3.2-1B-Instruct/
batch_size: 4
optimizer:
  _component_: torch.optim.AdamW
  fused: True
loss:
  _component_: torchtune.modules.loss.LinearCrossEntropyLoss
dtype: bf16
enable_activation_checkpointing: False
"""
TRL = """\
model_name_or_path: Qwen/Qwen2-0.5B
dtype: bfloat16
use_peft: true
lora_r: 8
lora_target_modules: all-linear
max_length: 512
per_device_train_batch_size: 4
packing: true
bf16: true
gradient_checkpointing: true
eval_strategy: "no"
"""
ACCELERATE = """\
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
mixed_precision: bf16
num_processes: 4
fsdp_config:
  fsdp_reshard_after_forward: false
  fsdp_version: 2
"""
OVER_DEEPSPEED = """\
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
mixed_precision: bf16
num_processes: 8
deepspeed_config:
  zero_stage: 3
"""
NOTEBOOK = """\
%%capture
!pip install unsloth
from unsloth import FastLanguageModel
max_seq_length = 1024
model, tokenizer = FastLanguageModel.from_pretrained(
    model_name="unsloth/llama-3-8b-bnb-4bit", max_seq_length=max_seq_length, load_in_4bit=True,
)
model = FastLanguageModel.get_peft_model(
    model, r=16, target_modules=["q_proj", "v_proj"], lora_alpha=16,
    use_gradient_checkpointing="unsloth",
)
trainer = SFTTrainer(model=model, args=SFTConfig(
    per_device_train_batch_size=2, gradient_accumulation_steps=4, optim="adamw_8bit",
))
"""


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """A file's reading: `read(text, name)`."""

    def run(text: str, name: str = "file.yaml", *beside: str, **options: Any) -> TrainerFile:
        paths = [tmp_path / name, *(tmp_path / f"beside{n}.yaml" for n in range(len(beside)))]
        for path, content in zip(paths, (text, *beside), strict=True):
            path.write_text(content)
        return read_files(paths, **options)

    return run


def told(text: str, framework: str, name: str = "file.yaml") -> TrainerFile:
    """What a file of that framework says, without a file."""
    return read_document(parse(text, name, None, is_json=False), framework)


def keys(file: TrainerFile) -> dict[str, Any]:
    return {key.key: key for key in file.keys}


def test_axolotl(read: Any) -> None:
    file = read(AXOLOTL)
    assert (file.framework, file.stack) == ("axolotl", "axolotl")
    assert file.model == "NousResearch/Llama-3.2-1B"
    assert file.completing({}) == {
        "methods": ("qlora",),
        "rank": 32,
        "alpha": 16.0,
        "dropout": 0.05,
        "targets": "all-linear",
        "batch_size": 1,  # a packed batch is one row
        "seq_len": 1024,
        "accumulation": 4,
        "optimizer": "adamw_8bit",
        "precision": "amp",
        "checkpointing": True,
        "attention": "flash_attention_2",
        "lora_kernels": "peft",
    }
    (gap,) = file.not_modelled
    assert (gap.key, gap.direction) == ("activation_offloading", "too high")
    assert keys(file)["learning_rate"].state == "costs nothing"
    assert keys(file)["optimizer"].line == 12
    # given on the command line, the length overrules; a mean length leaves the layout to the stack
    assert file.completing({"seq_len": 2048})["seq_len"] == 4096
    assert file.completing({"packed": 100})["batch_size"] == 2


def test_what_axolotl_takes_where_nothing_is_said(read: Any) -> None:
    """Its schema's defaults, not what most of its examples set (benchmarks/public/misread_keys.py)."""
    bare = AXOLOTL.replace("lora_dropout: 0.05\n", "")
    bare = bare.replace("gradient_accumulation_steps: 4\n", "batch_size: 8\n")
    options = read(bare.replace("lora_target_linear: true\n", "")).options
    assert options["dropout"] == 0.0
    assert options.get("accumulation", find_stack("axolotl").defaults["lora"]["accumulation"]) == 1
    assert options["targets"] == "default"
    loaded = read(AXOLOTL + "bfloat16: true\n").options
    assert (loaded["precision"], loaded["dtype"]) == ("amp", "bfloat16")
    pure = read(AXOLOTL.replace("bf16: auto", "bf16: false") + "bfloat16: true\n").options
    assert (pure["precision"], pure["dtype"]) == ("pure", "bfloat16")


def test_axolotl_switches_its_kernels_on_where_nothing_is_said(read: Any) -> None:
    silent = AXOLOTL.replace("lora_mlp_kernel: false\n", "")
    assert read(silent).options["lora_kernels"] == "axolotl"
    assert read(AXOLOTL).options["lora_kernels"] == "peft"
    assert read(silent + "rl: dpo\n").options["lora_kernels"] == "peft"
    sharded = silent + "fsdp_config:\n  fsdp_version: 2\n"
    assert read(sharded).options["lora_kernels"] == "peft"
    row = keys(read(sharded + "fsdp_version: 2\n"))["lora_kernels"]  # of which no rule is
    assert row.options == {"lora_kernels": "peft"} and row.direction == "too high"
    named = "".join(f"lora_{part}_kernel: true\n" for part in ("mlp", "qkv", "o"))
    assert read(silent + named).options["lora_kernels"] == "axolotl"
    some = keys(read(silent + "lora_mlp_kernel: true\n"))["lora_mlp_kernel"]
    assert some.missing.startswith("only some of axolotl's LoRA kernels")


def test_evaluation_has_a_batch_of_its_own(read: Any) -> None:
    row = keys(read(AXOLOTL + "val_set_size: 0.1\neval_batch_size: 8\n"))["val_set_size"]
    assert row.options == {"eval_batch_size": 8} or row.direction == "too low"
    off = read(AXOLOTL + "val_set_size: 0.1\neval_strategy: 'no'\n")
    assert keys(off)["val_set_size"].state == "costs nothing"
    usual = keys(read(TRL.replace('"no"', "epoch")))["eval_strategy"]
    assert usual.options == {"eval_batch_size": 8} or usual.direction == "too low"


def test_kernels_that_are_not_known_of_a_model_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    liger = "".join(f"liger_{key}: true\n" for key in ("rope", "rms_norm", "glu_activation"))
    asked = AXOLOTL.replace("lora_mlp_kernel: false\n", "") + liger
    path.write_text(asked.replace("NousResearch/Llama-3.2-1B", "microsoft/Phi-3-mini-4k-instruct"))
    done = lora_profile(str(path), "--full", "--format", "json")
    (prediction,) = json.loads(done.stdout)["predictions"]
    assert prediction["setup"]["kernels"] == "transformers"
    assert prediction["setup"]["lora_kernels"] == "peft"
    told = "\n".join(prediction["assumptions"])
    assert "Liger's kernels on phi3" in told and "LoRA kernels on phi3" not in told


@pytest.mark.parametrize(
    ("model", "missing"),
    [
        ("EleutherAI/gpt-j-6b", None),  # axolotl's patch_self_attn_lora raises an error
        ("tiiuae/Falcon-H1-0.5B-Instruct", None),
        ("Qwen/Qwen3.5-27B", "axolotl's LoRA kernels on qwen3_5"),
    ],
)
def test_axolotl_runs_without_lora_kernels_where_it_stops_at_them(
    read: Any, model: str, missing: str | None
) -> None:
    text = AXOLOTL.replace("lora_mlp_kernel: false\n", "")
    text = text.replace("activation_offloading: legacy\n", "")
    file = read(text.replace("NousResearch/Llama-3.2-1B", model))
    fitted = on_model(file, find_model(model, offline=True))
    assert fitted.options["lora_kernels"] == "peft"
    found = [row.missing.partition(",")[0] for row in fitted.not_modelled]
    assert found == ([] if missing is None else [missing])


EXPERTS = """\
base_model: Qwen/Qwen3-30B-A3B
load_in_4bit: true
quantize_moe_experts: true
adapter: qlora
lora_r: 16
lora_dropout: 0
lora_target_modules: [q_proj, v_proj]
lora_mlp_kernel: false
sequence_len: 2048
micro_batch_size: 1
optimizer: adamw_torch_fused
"""


@pytest.mark.parametrize(
    ("before", "after", "in_4_bit", "gap"),
    [
        ("", "", True, None),
        ("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-0.6B", False, None),  # none to pack
        ("load_in_4bit: true", "load_in_8bit: true", False, "experts in 8 bit"),
        ("q_proj, v_proj", "q_proj, gate_proj, up_proj, down_proj", False, "adapters on experts"),
        ("micro", "lora_target_parameters: [experts.down_proj]\nmicro", True, "adapters on"),
        (
            "q_proj, v_proj",
            "q_proj, gate_proj, up_proj]\nlora_target_parameters: [experts.down_proj",
            False,
            "adapters on experts",
        ),
        ("micro", "dp_shard_size: 2\nmicro", False, "experts in 4 bit under fsdp"),
    ],
)
def test_experts_in_4_bit(
    read: Any, before: str, after: str, in_4_bit: bool, gap: str | None
) -> None:
    text = EXPERTS.replace(before, after, 1)
    if "8bit" in after:
        text = text.replace("adapter: qlora", "adapter: lora")
    file = read(text)
    fitted = on_model(file, find_model(file.model, offline=True))
    assert bool(fitted.options.get("quantize_experts")) is in_4_bit
    assert not (in_4_bit and "target_parameters" in fitted.options)  # which PEFT would not train
    gaps = [row.missing for row in fitted.not_modelled]
    assert len(gaps) == (gap is not None) and all(each.startswith(gap or "") for each in gaps)


def test_what_axolotl_freezes_and_drops(read: Any) -> None:
    """freeze_layers_except matches names from their beginning, and runs after PEFT has renamed
    them; ParamWrapper is made without dropout."""
    full = EXPERTS.replace("adapter: qlora\nlora_r: 16\n", "").replace("load_in_4bit: true\n", "")
    for text, pattern, missing in (
        (EXPERTS, "^model.layers.*", "adapters frozen"),
        (EXPERTS, ".*layers", "some parameters frozen"),
        (full, "^model.layers.*", "some parameters frozen"),
    ):
        row = keys(read(f"{text}unfrozen_parameters:\n  - {pattern}\n"))["unfrozen_parameters"]
        assert row.missing.startswith(missing)
    dropped = EXPERTS.replace("lora_dropout: 0", "lora_dropout: 0.1")
    dropped = dropped.replace("quantize_moe_experts: true\n", "")
    model = find_model("Qwen/Qwen3-30B-A3B", offline=True)
    assert on_model(read(dropped), model).options["dropout"] == 0.1
    routed = on_model(read(dropped.replace("q_proj, v_proj", "q_proj, down_proj")), model)
    assert routed.options["dropout"] == 0.0
    assert [key.direction for key in routed.not_modelled] == ["too low"]


def test_a_gated_norm_of_liger_matters_where_axolotl_has_one(read: Any) -> None:
    file = read(EXPERTS + "liger_rms_norm_gated: true\nexperts_implementation: grouped_mm\n")
    assert [row.missing for row in file.not_modelled] == ["Liger's gated RMSNorm"]
    for name, count in (("Qwen/Qwen3-30B-A3B", 0), ("Qwen/Qwen3.5-35B-A3B", 1)):
        fitted = on_model(file, find_model(name, offline=True))
        assert sum(row.missing == "Liger's gated RMSNorm" for row in fitted.not_modelled) == count


def test_llamafactory(read: Any) -> None:
    file = read(LLAMAFACTORY)
    assert (file.framework, file.model) == ("llamafactory", "Qwen/Qwen3-0.6B")
    assert file.options == {
        "methods": ("full",),
        "seq_len": 1024,
        "batch_size": 1,
        "accumulation": 8,
        "precision": "amp",
        "dtype": "float32",  # trained weights are cast
        "checkpointing": True,  # on though the file is silent
        "attention": "flash_attention_2",
        "optimizer": "paged_adamw_8bit",
    }
    assert file.not_modelled == ()
    pure = read(LLAMAFACTORY.replace("bf16: true", "pure_bf16: true"))
    assert (pure.options["dtype"], pure.options["precision"]) == ("bfloat16", "pure")


IN_8_BIT = """
base_model: NousResearch/Llama-3.2-1B
load_in_8bit: true
adapter: lora
peft_use_dora: true
peft_init_lora_weights: {}
sequence_len: 2048
micro_batch_size: 2
optimizer: {}
"""


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("adamw_torch_8bit", "adamw_torch_8bit"),
        ("ao_adamw_4bit", "adamw_torch_4bit"),
        ("paged_adamw_32bit", "paged_adamw_32bit"),
        ("lion_32bit", "lion"),
        ("paged_lion_8bit", "paged_lion_8bit"),
    ],
)
def test_methods_that_are_options(read: Any, name: str, option: str) -> None:
    file = read(IN_8_BIT.format("pissa", name))
    assert file.options["optimizer"] == option
    assert (file.options["methods"], file.options["quant_type"]) == (("qlora",), "int8")
    assert file.options["use_dora"] is True
    row = keys(file)["peft_init_lora_weights"]
    assert row.state == "costs nothing" and "once, before training" in row.note
    assert keys(read(IN_8_BIT.format("gaussian", name)))["peft_init_lora_weights"].note == ""
    assert file.not_modelled == ()


FULL_BY_LLAMAFACTORY = """
model_name_or_path: meta-llama/Llama-3.1-8B
stage: sft
finetuning_type: {}
cutoff_len: 2048
per_device_train_batch_size: 1
optim: adamw_torch
{}
"""


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        ("use_galore: true\ngalore_target: all", ("galore_adamw", 16)),
        ("use_apollo: true\napollo_rank: 256", ("apollo_adamw", 256)),
        ("use_adam_mini: true", ("adam_mini", None)),
        ("optim_args: rank=64, update_proj_gap=100", ("adamw", 64)),
    ],
)
def test_optimizers_that_project(read: Any, lines: str, options: tuple[str, int | None]) -> None:
    file = read(FULL_BY_LLAMAFACTORY.format("full", lines))
    assert (file.options["optimizer"], file.options.get("optimizer_rank")) == options
    assert not file.not_modelled
    if "use_" in lines:
        (row,) = read(FULL_BY_LLAMAFACTORY.format("lora", lines)).not_modelled
        assert "of adapters" in row.missing and row.direction == "too high"


@pytest.mark.parametrize(
    ("lines", "missing"),
    [
        ("optimizer: galore_adamw\noptim_target_modules: all-linear", ()),
        ("optimizer: apollo_adamw\noptim_target_modules: [mlp]", ("optim_target_modules",)),
        ("optimizer: galore_adamw_8bit_layerwise", ("optimizer",)),
    ],
)
def test_transformers_names_of_projecting_optimizers(
    read: Any, lines: str, missing: tuple[str, ...]
) -> None:
    file = read(f"base_model: gpt2\nsequence_len: 512\nmicro_batch_size: 1\n{lines}\n")
    assert file.options["optimizer"] in ("galore_adamw", "apollo_adamw")
    assert tuple(row.key for row in file.not_modelled) == missing


def test_a_checkpoint_of_gptq(read: Any) -> None:
    lines = "base_model: TheBloke/Llama-2-7B-GPTQ\ngptq: true\nsequence_len: 512\n"
    file = read(f"{lines}micro_batch_size: 1\nadapter: lora\nlora_r: 8\nloraplus_lr_ratio: 16\n")
    assert (file.options["methods"], file.options["quant_type"]) == (("qlora",), "gptq")
    assert keys(file)["loraplus_lr_ratio"].state == "costs nothing"


def test_a_muon_that_trains_more_than_matrices_is_not_torchs(read: Any) -> None:
    assert keys(read(IN_8_BIT.format("true", "muon")))["optimizer"].direction == "too high"


@pytest.mark.parametrize(
    ("size", "told", "num_trained"),
    [
        ("11b", ("True", "frozen", "lora", "lora", "q_proj, v_proj, output_proj"), 11_468_800),
        ("90b", ("True", "frozen", "lora", "lora", "q_proj, v_proj, output_proj"), 30_965_760),
        ("11b", ("False", "lora", "frozen", "lora", "q_proj, v_proj"), 4_587_520),
        ("90b", ("False", "lora", "frozen", "lora", "q_proj, v_proj"), 20_807_680),
    ],
)
def test_torchtune_adapts_the_parts_of_llama_3_2_vision_that_it_names(
    read: Any, size: str, told: tuple[str, ...], num_trained: int
) -> None:
    """As many elements as the adapters of torchtune 0.7's own builders have."""
    mlp, decoder, encoder, fusion, names = told
    begin, _, rest = TORCHTUNE.partition("  lora_attn_modules:")
    model = f"""\
  lora_attn_modules: [{names}]
  apply_lora_to_mlp: {mlp}
  lora_rank: 8
  decoder_trainable: {decoder}
  encoder_trainable: {encoder}
  fusion_trainable: {fusion}"""
    after = rest[rest.index("tokenizer:") :]
    builder = f"llama3_2_vision.lora_llama3_2_vision_{size}"
    file = read(f"{begin.replace('llama3_2.lora_llama3_2_1b', builder)}{model}\n{after}")
    spec = find_model(str(file.model), offline=True)
    pattern = file.options["targets"].removeprefix("re:")
    found = adapters(spec, LoraConfig(r=8, target_modules=pattern))
    assert sum(adapter.num_parameters(8) for adapter in found) == num_trained
    assert resolve_images(file, spec).options["images"] == 1


@pytest.mark.parametrize(
    ("builder", "decoder", "missing"),
    [
        ("qlora_", "frozen", "stays in 16 bit"),
        ("qlora_", "lora", ""),
        ("", "False", "frozen, answered as trained"),
        ("", "True", ""),
    ],
)
def test_what_no_option_says_of_torchtune_s_parts(
    read: Any, builder: str, decoder: str, missing: str
) -> None:
    name = f"llama3_2_vision.{builder}llama3_2_vision_11b"
    begin, _, rest = TORCHTUNE.partition("  lora_attn_modules:")
    rest = rest[rest.index("tokenizer:") :]
    begin = begin.replace("llama3_2.lora_llama3_2_1b", name)
    file = read(f"{begin}  decoder_trainable: {decoder}\n{rest}")
    words = [row.missing for row in file.not_modelled if row.key == "model.decoder_trainable"]
    assert len(words) == bool(missing) and missing in "".join(words)


def test_torchtune(read: Any) -> None:
    file = read(TORCHTUNE)
    assert (file.framework, file.model) == ("torchtune", "meta-llama/Llama-3.2-1B")
    assert file.asks == ("seq_len",)
    assert file.options["targets"] == "q_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    assert file.options["optimizer_impl"] == "fused"
    assert file.options["adapter_dtype"] == "bfloat16"
    assert file.options["checkpointing"] is False
    with pytest.raises(
        TrainerFileError, match=r"file.yaml:9 \(tokenizer.max_seq_len\): .*--seq-len"
    ):
        file.completing({})
    assert "seq_len" not in file.completing({"seq_len": 1024})


@pytest.mark.parametrize(
    ("component", "optimizer"),
    [
        ("bitsandbytes.optim.AdamW8bit", "adamw_8bit"),
        ("bitsandbytes.optim.PagedAdamW", "paged_adamw_32bit"),
        ("bitsandbytes.optim.Lion8bit", "lion_8bit"),
        ("torchao.prototype.low_bit_optim.AdamW8bit", "adamw_torch_8bit"),
        ("torchao.prototype.low_bit_optim.AdamW4bit", "adamw_torch_4bit"),
        ("torch.optim.SGD", "sgd"),
    ],
)
def test_torchtune_s_optimizers(read: Any, component: str, optimizer: str) -> None:
    """bitsandbytes and torchao have a class of the same name."""
    file = read(TORCHTUNE.replace("torch.optim.AdamW", component))
    assert file.options["optimizer"] == optimizer


def test_trl_with_accelerate_s_file(read: Any) -> None:
    file = read(TRL)
    assert (file.framework, file.stack) == ("trl", "trl-sft")
    assert file.options["alpha"] == 32.0  # ModelConfig's, not twice the rank
    assert file.completing({})["seq_len"] == 2048
    assert not file.not_modelled
    sharded = read(TRL, "sft.yaml", ACCELERATE)
    assert sharded.options["sharding"] == "fsdp-no-reshard"
    assert sharded.options["world_size"] == 4
    assert sharded.options["precision"] == "fsdp-mixed"
    assert sharded.options["adapter_dtype"] == "float32"
    dealt = read(TRL, "sft.yaml", OVER_DEEPSPEED)
    assert not dealt.not_modelled
    assert (dealt.options["sharding"], dealt.options["world_size"]) == ("zero3", 8)
    assert (dealt.options["precision"], dealt.options["dtype"]) == ("pure", "bfloat16")
    wrapped = read(TRL + "packing_strategy: wrapped\n").completing({})
    assert (wrapped["batch_size"], wrapped["seq_len"]) == (4, 512)


def test_arguments_as_json(read: Any, tmp_path: Path) -> None:
    content = {"per_device_train_batch_size": 2, "max_length": 256, "optim": "adamw_torch_fused"}
    file = read(json.dumps(content, indent=1), "sft_config.json")
    assert (file.stack, file.asks) == ("trl-sft", ("model",))
    assert file.options["batch_size"] == 2
    assert keys(file)["optim"].line == 4
    plain = read(json.dumps({"per_device_train_batch_size": 2, "bf16": True}), "arguments.json")
    assert plain.stack == "transformers"
    path = str(tmp_path / "arguments.json")
    assert "names no model of the hub\n  Add --model ID" in lora_profile(path, "-s", "64").stderr
    done = lora_profile(path, "-s", "64", "--model", "gpt2", "--full", "--format", "json")
    (prediction,) = json.loads(done.stdout)["predictions"]
    assert prediction["setup"]["batch_size"] == 2


def test_a_notebook_of_unsloth(read: Any) -> None:
    cells = [{"cell_type": "code", "source": NOTEBOOK.splitlines(keepends=True)}]
    file = read(json.dumps({"cells": cells}), "train.ipynb")
    assert (file.framework, file.model) == ("unsloth", "unsloth/llama-3-8b-bnb-4bit")
    assert file.options["methods"] == ("qlora",)
    assert file.options["seq_len"] == 1024
    assert file.options["targets"] == "q_proj,v_proj"
    assert file.options["checkpointing"] is True
    assert keys(file)["use_gradient_checkpointing"].options["offload_checkpoints"] is True
    assert read(NOTEBOOK.replace("%%capture\n", ""), "train.py").options == file.options
    fp8 = read(NOTEBOOK.replace("load_in_4bit", "load_in_fp8"), "train.py")
    assert (fp8.options["methods"], fp8.options["quant_type"]) == (("qlora",), "fp8")
    assert any("scale for each row" in row.missing for row in fp8.not_modelled)


SEEING = """\
base_model: llava-hf/llava-1.5-7b-hf
processor_type: AutoProcessor
image_size: 336
adapter: lora
lora_target_linear: true
micro_batch_size: 1
sequence_len: 2048
lora_mlp_kernel: false
"""
LORA_KERNELS_ON = "lora_mlp_kernel: true\nlora_qkv_kernel: true\nlora_o_kernel: true"


@pytest.mark.parametrize(
    ("more", "images", "missing"),
    [
        ("", 1, ""),
        ("base_model: Qwen/Qwen2.5-VL-7B-Instruct", 1, ""),
        ("attn_implementation: flash_attention_2", 1, ""),
        (LORA_KERNELS_ON, 1, ""),
        ("base_model: alpindale/Llama-3.2-11B-Vision-Instruct", 1, ""),
        ("base_model: google/gemma-4-26B-A4B", 1, ""),
        ("sample_packing: true", None, "images: the vision side"),
        ("dp_shard_size: 8", None, "images: the vision side"),
        ("base_model: meta-llama/Llama-3.1-8B", None, "images: the vision side"),
        ("base_model: unsloth/Qwen2.5-VL-7B-Instruct-bnb-4bit", None, "images: the vision side"),
    ],
)
def test_images_that_a_file_tells_of(
    read: Any, more: str, images: int | None, missing: str
) -> None:
    """One a sequence where those of the model are priced and go with the rest."""
    key = more.partition(":")[0] or "-"
    kept = [line for line in SEEING.splitlines() if not line.startswith(key)]
    file = read("\n".join([*kept, more]))
    assert file.options["image_size"] == "336x336"
    seen = resolve_images(file, find_model(str(file.model), offline=True))
    assert seen.options.get("images") == images
    if images:
        assert seen.options.get("attention") == file.options.get("attention")
        assert seen.options["lora_kernels"] == "peft"
    assert [row.missing[: len(missing)] for row in seen.not_modelled] == [missing] * bool(missing)
    assert "images" not in resolve_images(file, None).options


def test_flash_attention_2_is_left_out_where_transformers_refuses_it(read: Any) -> None:
    kept = SEEING.splitlines()[1:]
    asked = "base_model: meta-llama/Llama-3.2-11B-Vision"
    file = read("\n".join([*kept, asked, "attn_implementation: flash_attention_2"]))
    seen = resolve_images(file, find_model(str(file.model), offline=True))
    assert (seen.options["attention"], seen.options["images"]) == ("auto", 1)
    assert not seen.not_modelled


def test_axolotl_has_its_kernels_below_images_of_three_types(read: Any) -> None:
    for name, kernels in (
        ("google/gemma-3-4b-it", "axolotl"),
        ("Qwen/Qwen3-VL-8B-Instruct", "axolotl"),
        ("mistralai/Magistral-Small-2509", "axolotl"),
        ("mistral-community/pixtral-12b", "peft"),
        ("Qwen/Qwen3.5-35B-A3B", "peft"),
    ):
        lines = SEEING.splitlines()
        kept = [line for line in lines if not line.startswith(("base_model", "lora_"))]
        file = read("\n".join([*kept, f"base_model: {name}", "lora_r: 8", LORA_KERNELS_ON]))
        seen = resolve_images(file, find_model(name, offline=True))
        assert (seen.options["lora_kernels"], seen.options["images"]) == (kernels, 1)
        unknown = name.startswith("Qwen/Qwen3.5")  # of which axolotl has other functions
        assert bool(seen.not_modelled) is unknown


def test_the_largest_image_of_a_file_of_llama_factory(read: Any) -> None:
    text = "model_name_or_path: Qwen/Qwen3-VL-4B-Instruct\nstage: sft\nimage_max_pixels: 262144\n"
    assert read(text).options["image_size"] == "512x512"


def test_a_vocabulary_rounded_up(read: Any) -> None:
    """axolotl adds rows where the tokenizer has more words than the model has rows."""
    text = AXOLOTL.partition("\n")[2] + "resize_token_embeddings_to_32x: true\n"
    for model, gaps in (("microsoft/phi-2", 0), ("openai-community/gpt2", 1)):
        spec = find_model(model, offline=True)
        file = on_model(read(f"base_model: {model}\n{text}"), spec)
        assert sum("rounded up" in row.missing for row in file.not_modelled) == gaps


GRPO_NOTEBOOK = """\
os.environ["UNSLOTH_VLLM_STANDBY"] = "1"
max_seq_length = 1024
model, tokenizer = FastLanguageModel.from_pretrained(
    model_name="unsloth/Qwen3-4B-Base", max_seq_length=max_seq_length, fast_inference=True,
    dtype=torch.bfloat16 if is_bfloat16_supported() else torch.float16,
    gpu_memory_utilization=0.75,
)
model = FastLanguageModel.get_peft_model(model, r=16)
if False:
    model = FastLanguageModel.from_pretrained("lora", load_in_8bit=computed())
args = GRPOConfig(
    num_generations=4, max_prompt_length=len(longest) + 1,
    max_completion_length=max_seq_length - len(longest) - 1,
)
"""


def test_a_notebook_of_grpo_beside_vllm(read: Any) -> None:
    """In standby vLLM gives its cache back; what it keeps are the weights that train."""
    file = read(GRPO_NOTEBOOK, "grpo.py")
    assert (file.stack, file.not_modelled, file.options["use_vllm"]) == ("unsloth-grpo", (), True)
    assert (file.options["seq_len"], file.options["dtype"]) == (1024, "bfloat16")
    assert file.vllm_share == 0
    awake = read(GRPO_NOTEBOOK.replace("STANDBY", "OTHER"), "grpo.py")
    assert awake.vllm_share == 0.75
    assert [row.direction for row in awake.not_modelled] == ["too high"]
    told = GRPO_NOTEBOOK.replace("len(longest) + 1", "256")
    told = told.replace("max_seq_length - len(longest) - 1", "128")
    assert read(told, "grpo.py").options["seq_len"] == 384


UNSLOTH_GRPO = """\
max_seq_length = 2048
model, tokenizer = FastLanguageModel.from_pretrained("unsloth/Qwen3-4B", load_in_4bit=True,
    max_seq_length=max_seq_length)
model = FastLanguageModel.get_peft_model(model, r=16)
trainer = GRPOTrainer(model=model, args=GRPOConfig(
    per_device_train_batch_size=1, gradient_accumulation_steps=4, num_generations=8,
    max_prompt_length=512, max_completion_length=max_seq_length - max_prompt_length, MORE))
"""


@pytest.mark.parametrize(
    ("more", "options"),
    [
        ("", {"batch_size": 8, "max_completion_length": 1536, "seq_len": 2048}),
        ("loss_type='bnpo'", {"beta": 0.001}),
        ("loss_type='dr_grpo'", {"beta": None}),
        ("loss_type='grpo', beta=0.04", {"beta": 0.04}),
        ("generation_batch_size=16", {"batch_size": 1, "generation_batch_size": 16}),
    ],
)
def test_a_notebook_of_grpo_by_its_own_decoding(
    read: Any, more: str, options: dict[str, Any]
) -> None:
    """Unsloth 2026.10.9, models/rl.py: a batch that no group divides is a group; without a word of
    it beta is 0 of dapo and dr_grpo, and 0.001 of other losses."""
    file = read(UNSLOTH_GRPO.replace("MORE", more), "grpo.py")
    assert (file.stack, file.not_modelled) == ("unsloth-grpo", ())
    assert {name: file.options.get(name) for name in options} == options


@pytest.mark.parametrize(("trainer", "gaps"), [("DPO", 0), ("ORPO", 1)])
def test_a_notebook_of_pairs(read: Any, trainer: str, gaps: int) -> None:
    text = UNSLOTH_GRPO.partition("trainer =")[0]
    file = read(f"{text}trainer = {trainer}Trainer(model, args={trainer}Config(beta=0.1))", "x.py")
    assert len(file.not_modelled) == gaps
    assert file.stack == ("unsloth" if gaps else "unsloth-dpo")


def test_a_command_line(read: Any, tmp_path: Path) -> None:
    text = """\
# how it was trained
CUDA_VISIBLE_DEVICES=0,1 accelerate launch --num_processes 2 --multi_gpu \\
    trl/scripts/dpo.py --model_name_or_path Qwen/Qwen2-0.5B \\
    --use_peft --lora_target_modules q_proj v_proj --max_length=256
"""
    file = read(text, "train.sh")
    assert (file.stack, file.model) == ("trl-dpo", "Qwen/Qwen2-0.5B")
    assert file.options["targets"] == "q_proj,v_proj"
    assert (file.options["world_size"], file.options["sharding"]) == (2, "ddp")
    assert keys(file)["max_length"].line == 4
    (tmp_path / "sft.yaml").write_text(TRL)
    words = shlex.split("trl sft --config sft.yaml --lora_r 64")
    given = read_command(words, tmp_path)
    assert given.options["rank"] == 64
    assert given.options["seq_len"] == 512


BAD_FILES = (
    "",
    "- a\n- b\n",
    "a: b\nc: d\n",
    "base_model: gpt2\n  x: 1\n",
    AXOLOTL.replace("512", "0"),
    AXOLOTL.replace("0.05", "1.5", 1),
    AXOLOTL + "load_in_8bit: true\n",
    AXOLOTL.replace("adapter: qlora\n", ""),
    AXOLOTL + "lora_r: 8\n",
    AXOLOTL + "optimizer_: x\noptim: !!python/object:os.system x\n",
    AXOLOTL + "x: !include other.yaml\n",
    AXOLOTL.replace("adamw_bnb_8bit", "adam_what"),
    LLAMAFACTORY + "quantization_bit: 4\n",
    TORCHTUNE.replace("torchtune.models.", "mine."),
    ACCELERATE,
    "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
    "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\n"
    "e: [*d, *d, *d, *d, *d, *d, *d, *d]\n",
    "a: &a\n  b: *a\n",
    "[" * 1000,
    "x: " + "y" * 300_000,
)


def test_a_bad_file_gets_one_clear_line(read: Any, golden_file: Golden, tmp_path: Path) -> None:
    said = []
    for text in BAD_FILES:
        with pytest.raises(LoraProfilerError) as error:
            read(text)
        assert error.value.exit_code == 2
        said.append(str(error.value).replace(f"{tmp_path}/", ""))
    assert not any("\n" in line for line in said)
    golden_file.compare("bad-trainer-files", "\n".join(said) + "\n")


def test_merged_mappings_of_anchors_are_read(read: Any) -> None:
    text = AXOLOTL.replace("lora_r: 32\n", "<<: &own\n  lora_r: 16\n  lora_dropout: 0.5\n")
    assert read(text).options["rank"] == 16
    assert read(text).options["dropout"] == 0.05  # its own key goes first


def test_a_key_that_is_not_known_is_named(tmp_path: Path) -> None:
    path = tmp_path / "qlora.yml"
    path.write_text(AXOLOTL + "lora_what: 3\n")
    done = lora_profile(str(path), "--full", "--format", "json")
    assert done.exit_code == 0, done.stderr
    (prediction,) = json.loads(done.stdout)["predictions"]
    notes = "\n".join(prediction["assumptions"])
    assert prediction["exactness"] == "estimate"
    assert "qlora.yml:22: lora_what: unknown key" in notes
    told = "activations offloaded to CPU (legacy), predicted on the GPU (the answer is too high)"
    assert f"yml:17: activation_offloading: {told}" in notes
    assert "1 unknown" in done.stderr


@pytest.mark.parametrize(
    ("text", "more"),
    [(AXOLOTL, ()), (LLAMAFACTORY, ()), (TORCHTUNE, ("-s", "512")), (TRL, ())],
    ids=["axolotl", "llamafactory", "torchtune", "trl"],
)
def test_a_file_is_answered_as_the_command_it_is_read_as(
    tmp_path: Path, text: str, more: tuple[str, ...]
) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    document = json.loads(lora_profile("read", str(path), "--format", "json").stdout)
    words = document["command"][1:]
    answers = [
        json.loads(lora_profile(*asked, *more, "--full", "--format", "json").stdout)["predictions"]
        for asked in ([str(path)], words)
    ]
    by_file, by_command = ([(p["setup"], p["peak"]) for p in answer] for answer in answers)
    assert by_file == by_command
    assert {key["state"] for key in document["keys"]} >= {"option", "costs nothing"}


def test_options_of_the_command_line_overrule_the_file_s(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(AXOLOTL)
    done = lora_profile(
        str(path), "--method", "full", "-b", "1", "-s", "128", "--full", "--format", "json"
    )
    (prediction,) = json.loads(done.stdout)["predictions"]
    setup = prediction["setup"]
    assert (setup["method"], setup["seq_len"], setup["rank"]) == ("full", 128, None)


def test_read_shows_every_key(tmp_path: Path) -> None:
    path = tmp_path / "qlora.yml"
    path.write_text(AXOLOTL)
    shown = lora_profile("read", str(path)).stdout
    for line in AXOLOTL.splitlines():
        key = line.partition(":")[0]
        if line[0] not in " -":
            assert re.search(rf"\b{key}\b", shown), key
    assert shown.startswith("! 1 of 19 settings is not modelled: activation_offloading (line 17).")
    assert "not modelled: activations offloaded to CPU (legacy)" in shown
    assert "axolotl, NousResearch/Llama-3.2-1B; the same as a command: --format json." in shown
    example = lora_profile("read", str(Path(__file__).parents[1] / "examples" / "qlora.yml")).stdout
    assert example.count("\n") <= 25


def test_what_a_file_says_moves_no_cursor(tmp_path: Path) -> None:
    path = tmp_path / "qlora.yml"
    path.write_text(AXOLOTL + 'chat_template: "\\e[2Jgone"\n"\\e[31mkey": 1\n')
    for done in (lora_profile("read", str(path)), lora_profile(str(path))):
        assert done.exit_code == 0
        assert "\x1b" not in done.stdout + done.stderr


def test_a_model_that_only_remote_code_builds_is_refused_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # its import is most of what this would cost
    folder = tmp_path / "own"
    folder.mkdir()
    config = {"model_type": "my_own", "auto_map": {"AutoConfig": "configuration_own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    path = tmp_path / "file.yaml"
    path.write_text(AXOLOTL.replace("NousResearch/Llama-3.2-1B", str(folder)))
    done = lora_profile(str(path))
    assert done.exit_code == 3
    assert "file.yaml:1 (base_model): " in done.stderr


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("unsloth/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-1B"),
        ("unsloth/llama-3-8b-Instruct", "meta-llama/Meta-Llama-3-8B"),
        ("NousResearch/Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("Qwen/Qwen2-1.5B-Instruct", "Qwen/Qwen2-1.5B"),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("unsloth/Qwen3-14B", "Qwen/Qwen3-14B"),
        ("unsloth/gemma-2-2b-it", "google/gemma-2-2b"),
        ("mistral-community/Mixtral-8x22B-v0.1", "mistralai/Mixtral-8x22B-v0.1"),
        ("unsloth/gpt-oss-20b-BF16", "openai/gpt-oss-20b"),
        ("unsloth/functiongemma-270m-it", "google/gemma-3-270m"),
        ("unsloth/codegemma-7b-bnb-4bit", "google/gemma-7b"),
        ("unsloth/Mistral-Nemo-Base-2407", "mistralai/Mistral-Nemo-Base-2407"),
        ("TinyLlama/TinyLlama_v1.1", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
        ("01-ai/Yi-34B-Chat", "01-ai/Yi-34B"),
        ("allenai/OLMoE-1B-7B-0924-Instruct", "allenai/OLMoE-1B-7B-0924"),
        ("unsloth/gemma-4-E4B-it", "google/gemma-4-E4B"),
        ("unsloth/Qwen3.5-4B", "Qwen/Qwen3.5-4B"),
        ("unsloth/Ministral-3-3B-Instruct-2512", "mistralai/Ministral-3-3B-Base-2512"),
        ("unsloth/Muse-Glimmer-30B-unsloth-bnb-4bit", "meta-models/Muse-Glimmer-30B"),
        ("unsloth/bge-m3", "BAAI/bge-m3"),
    ],
)
def test_mirrors_and_tuned_versions_are_known_offline(name: str, original: str) -> None:
    assert find_model(name, offline=True).id == original


def test_a_copy_in_4_bit_is_a_question_of_qlora() -> None:
    model = find_model("unsloth/llama-3-8b-bnb-4bit", offline=True)
    assert model.id == "meta-llama/Meta-Llama-3-8B"
    assert model.stored is not None and model.stored.double_quant
    with pytest.raises(LoraProfilerError):  # nobody's mirror
        find_model("somebody/Llama-3.2-1B", offline=True)


def test_of_a_copy_that_keeps_some_layers_in_16_bit_the_answer_is_an_estimate() -> None:
    names = ("unsloth/Qwen3-14B-bnb-4bit", "unsloth/Qwen3-14B-unsloth-bnb-4bit")
    models = [find_model(name, offline=True) for name in names]
    whole, partly = (predict(Workload(model=m, setup=setup_for(m, method="qlora"))) for m in models)
    assert whole.exactness == "exact" and partly.exactness == "estimate"
    assert whole.peak == partly.peak
    (said,) = set(partly.assumptions) - set(whole.assumptions)
    assert "keeps in 16 bit are counted in 4 bit" in said and "too low" in said


def test_without_names_unsloth_adapts_the_language_layers_where_the_vision_side_is_off() -> None:
    """Every linear layer of attention and MLP there, and none beside: PEFT refuses the tower's
    wrapped ones by name."""
    model = find_model("unsloth/gemma-4-E2B-it", offline=True)

    def targets(arguments: str) -> Any:
        text = f"""
model = FastModel.from_pretrained("unsloth/gemma-4-E2B-it")
model = FastModel.get_peft_model(model, r=8, {arguments})
"""
        file = read_document(parse_calls(text, "notebook.py", None), "unsloth")
        return on_model(file, model).options.get("targets")

    def adapted(arguments: str) -> set[str]:
        lora = LoraConfig(target_modules=targets(arguments).removeprefix("re:"))
        return {adapter.module for adapter in adapters(model, lora)}

    assert targets("finetune_vision_layers=True") is None
    layers = {name for name, module in model.modules() if module.is_linear and ".layers." in name}
    found = adapted("finetune_vision_layers=False")
    assert found == {n for n in layers if re.search(r"language_model.*\.(self_attn|mlp)\.", n)}
    assert len(found) == 35 * 5 + 15 * 2  # 20 layers take another's keys and values
    named = "finetune_vision_layers=False, target_modules="
    assert adapted(f"{named}['q_proj', 'post']") == {n for n in found if n.endswith("q_proj")}
    assert targets(f"{named}'all-linear'") == "all-linear"


def test_an_embedding_and_a_head_among_unsloths_targets_train_whole() -> None:
    text = """
model = FastLanguageModel.from_pretrained("unsloth/mistral-7b-v0.3", load_in_4bit=True)
model = FastLanguageModel.get_peft_model(model, r=128, modules_to_save=["norm"],
    target_modules=["q_proj", "embed_tokens", "lm_head"])
"""
    file = read_document(parse_calls(text, "notebook.py", None), "unsloth")
    assert file.options["targets"] == "q_proj"
    assert file.options["modules_to_save"] == "norm,embed_tokens,lm_head"


def test_a_notebook_of_sentence_transformers_names_its_model_and_what_is_missing() -> None:
    text = """
model = FastSentenceTransformer.from_pretrained(model_name="unsloth/bge-m3", max_seq_length=512)
model = FastSentenceTransformer.get_peft_model(model, r=32, target_modules=["query", "value"])
trainer = SentenceTransformerTrainer(
    model=model, args=SentenceTransformerTrainingArguments(per_device_train_batch_size=256)
)
"""
    file = read_document(parse_calls(text, "notebook.py", None), "unsloth")
    assert (file.model, file.options["batch_size"]) == ("unsloth/bge-m3", 256)
    assert [key.missing for key in file.not_modelled] == [
        "SentenceTransformerTrainer's own loss and batches, answered as the Trainer's"
    ]
    (setup,) = setups(find_model("unsloth/bge-m3"), {**DEFAULTS, **file.options}, file.options)
    assert setup.lora is not None and setup.lora.r == 32


def test_only_a_file_loads_yaml(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(AXOLOTL)

    def loaded(name: str) -> set[str]:
        return modules_after(
            f"from lora_profiler.cli.main import root; root.main([{name!r}, '--method', 'qlora',"
            " '-s', '64'], 'x', standalone_mode=False)"
        )

    with_name = loaded("meta-llama/Llama-3.2-1B")
    assert "yaml" not in with_name
    assert not {name for name in with_name if name.startswith("lora_profiler.trainer_files")}
    assert "yaml" in loaded(str(path))


VALUES: dict[str, list[Any]] = {
    "rank": [4, 16, 64],
    "alpha": [8.0, 16.0, 32.5],
    "dropout": [0.0, 0.05],
    "targets": ["all-linear", "default", "q_proj,v_proj", r"re:.*\.(q|v)_proj"],
    "modules_to_save": [None, "lm_head"],
    "use_rslora": [False, True],
    "adapter_dtype": ["float32", "bfloat16"],
    "batch_size": [1, 2, 8],
    "seq_len": [64, 1000],
    "packed": [None, 50],
    "accumulation": [1, 4],
    "dtype": ["bfloat16", "float32"],
    "precision": ["pure", "amp"],
    "double_quant": [True, False],
    "recipe": ["stock", "trl", "kbit"],
    "quant_type": ["nf4", "int8"],
    "use_dora": [False, True],
    "optimizer": ["adamw", "adamw_8bit", "sgd", "paged_adamw_8bit", "lion", "adamw_torch_4bit"],
    "optimizer_impl": ["foreach", "fused"],
    "checkpointing": [False, True],
    "eval_batch_size": [None, None, 4],
    "label_smoothing_factor": [0.0, 0.0, 0.1],
    "attention": ["auto", "flash_attention_2", "eager"],
    "use_reentrant": [False, True],
    "loss": ["plain", "chunked", "fused", "cce", "triton", "torchtune"],
    "kernels": ["transformers", "liger"],
    "lora_kernels": ["peft", "peft", "axolotl"],
}
LIKELY = {
    "peft": {"loss": "plain", "kernels": "transformers", "recipe": "stock",
        "adapter_dtype": "float32", "packed": None},
    "axolotl": {"precision": "amp", "dtype": "bfloat16", "recipe": "stock"},
    "trl": {"precision": "amp", "loss": find_stack("trl-sft").defaults["full"]["loss"],
        "recipe": "trl", "targets": "all-linear", "packed": None},
    "llamafactory": {"precision": "amp", "dtype": "bfloat16", "adapter_dtype": "float32",
        "loss": "plain", "kernels": "transformers", "recipe": "stock", "targets": "all-linear",
        "packed": None},
    "torchtune": {"precision": "pure", "dtype": "bfloat16", "adapter_dtype": "bfloat16",
        "kernels": "torchtune", "label_smoothing_factor": 0.0, "use_reentrant": False,
        "targets": "q_proj,v_proj,o_proj", "attention": "auto", "loss": "torchtune",
        "modules_to_save": None, "use_rslora": False, "use_dora": False, "double_quant": True,
        "quant_type": "nf4", "recipe": "stock", "packed": None},
}  # fmt: skip
"""What a framework's files can say at all is drawn most of the time."""


@pytest.mark.grid
@pytest.mark.parametrize("trainer", LIKELY)
def test_what_is_written_reads_as_the_same_question(trainer: str) -> None:
    """Over drawn questions; those that a file cannot say are refused with the options at fault."""
    random = Random(trainer)
    model = find_model("meta-llama/Llama-3.2-1B")
    kept = refused = 0
    for _ in range(120):
        options = {name: random.choice(values) for name, values in VALUES.items()}
        if random.random() < 0.8:
            options |= LIKELY[trainer]
        method = random.choice(["full", "lora", "qlora"])
        if method == "qlora" and options["recipe"] == "trl":
            options["adapter_dtype"] = "bfloat16"
        try:
            (setup,) = setups(model, {**DEFAULTS, **options, "methods": (method,)}, {"methods"})
        except LoraProfilerError:
            continue  # no question at all
        workload = Workload(model=model, setup=setup)
        name = f"file{suffix_of(trainer)}"
        try:
            text = written(trainer, workload, name)
        except LoraProfilerError as error:
            assert "cannot express --" in str(error), error
            refused += 1
            continue
        kept += 1
        if trainer == "peft":
            compile(text, name, "exec")
            document = parse_calls(text, name, None)
        else:
            document = parse(text, name, Path(), is_json=False)
        file = read_document(document, trainer)
        assert file.model == model.id
        given = {} if setup.packed is None else {"packed": setup.packed}
        own = {**file.completing(given), **given}
        (back,) = setups(model, {**DEFAULTS, **own}, set(own), None, find_stack(file.stack))
        assert back == replace(setup, loop_state=back.loop_state)  # which is the trainer's own
        assert recognised(document) is not None
        assert recognised(document).name == trainer  # type: ignore[union-attr]
        assert not file.not_modelled
    assert kept >= 15
    assert refused >= 5


def test_a_question_is_written_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sft.yaml"
    asked = ["Qwen/Qwen2-0.5B", "--trainer", "trl-sft", "--method", "lora", "-s", "300"]
    first = lora_profile(*asked, "--write", "trl", str(path), "--full", "--format", "json")
    assert first.exit_code == 0, first.stderr
    second = lora_profile(str(path), "--full", "--format", "json")
    one, other = (json.loads(done.stdout)["predictions"][0] for done in (first, second))
    assert one["setup"] == other["setup"]
    assert one["peak"] == other["peak"]
    again = lora_profile(*asked, "--write", "trl", str(path))
    assert again.exit_code == 2 and "exists" in again.stderr
    both = lora_profile("Qwen/Qwen2-0.5B", "--write", "trl", str(tmp_path / "both.yaml"))
    assert both.exit_code == 2 and "one run" in both.stderr
    unknown = lora_profile(*asked, "--write", "axolot", str(tmp_path / "x.yaml"))
    assert "Did you mean axolotl?" in unknown.stderr


def test_the_text_side_of_a_model_that_sees_is_a_bundled_one() -> None:
    """What is published of the whole, less the text side, is a vision side; of one generation they
    differ in the linear layers alone that lead to the width of the text."""
    sides = {}
    for name, row in vision_rows().items():
        if "text_side" not in row:
            continue
        model, whole = find_model(name, offline=True), row["num_parameters"]
        assert model.id == row["text_side"]
        assert model.text_side_of is not None and model.text_side_of.num_parameters == whole
        sides[name.removeprefix("qwen/")] = (
            whole - model.num_parameters,
            int(model.config["hidden_size"]),
        )
    pairs = {  # a smaller one, a larger one, and parameters for each that the text is wider
        ("qwen2-vl-2b", "qwen2-vl-7b"): 5120 + 1,
        ("qwen2.5-vl-3b", "qwen2.5-vl-7b"): 5120 + 1,
        ("qwen2.5-vl-32b", "qwen2.5-vl-72b"): 5120 + 1,
        ("qwen3-vl-2b", "qwen3-vl-4b"): 4 * (4 * 1024 + 1),
        ("qwen3-vl-30b-a3b", "qwen3-vl-8b"): 4 * (4 * 1152 + 1),
    }
    for names, each in pairs.items():
        (less, narrow), (more, wide) = (sides[f"{name}-instruct"] for name in names)
        assert more - less == each * (wide - narrow), names


def test_targets_of_a_text_side_are_found_by_its_own_names(read: Any) -> None:
    pattern = r"model.language_model.layers.[\d]+.(mlp|self_attn).(up|q)_proj"
    text = AXOLOTL.replace("NousResearch/Llama-3.2-1B", "Qwen/Qwen2-VL-7B-Instruct")
    text = text.replace("lora_target_linear: true", f"lora_target_modules: '{pattern}'")
    file = on_model(read(text), find_model("Qwen/Qwen2-VL-7B-Instruct", offline=True))
    assert file.options["targets"] == r"re:model.layers.[\d]+.(mlp|self_attn).(up|q)_proj"


def test_a_file_with_images_told_is_about_the_whole_model(tmp_path: Path) -> None:
    """Its targets are found by the names that the whole has; LLaMA-Factory's tower is frozen."""
    pattern = r"model.language_model.layers.[\d]+.(mlp|self_attn).(up|q)_proj"
    path = tmp_path / "vl.yml"
    path.write_text(
        "base_model: Qwen/Qwen2-VL-2B-Instruct\nprocessor_type: AutoProcessor\n"
        "adapter: lora\nlora_r: 8\n"
        f"lora_target_modules: '{pattern}'\nsequence_len: 128\n"
    )
    told = ("--images", "1", "--image-size", "64x64")
    done = lora_profile(str(path), *told, "--full", "--format", "json")
    assert done.exit_code == 0, done.stderr
    assert "vision side" not in done.stderr
    (found,) = json.loads(done.stdout)["predictions"]
    assert found["model"]["id"] == "Qwen/Qwen2-VL-2B-Instruct"
    layer = 8 * (1536 + 8960) + 8 * (1536 + 1536)  # up_proj and q_proj
    assert found["parameters"]["trainable"] == 28 * layer
    asked = {"model_name_or_path": "Qwen/Qwen2-VL-2B-Instruct", "image_max_pixels": 4096}
    path.write_text(json.dumps(asked | {"stage": "sft", "finetuning_type": "lora"}))
    file = with_images(read_files([path]))
    assert file.options["freeze"] == "vision_tower,multi_modal_projector"
    path.write_text(json.dumps(asked | {"stage": "sft", "finetuning_type": "full", "bf16": True}))
    (narrow,) = [row for row in with_images(read_files([path])).keys if row.key == "freeze"]
    assert narrow.direction == "too high"  # frozen parts stay in bfloat16
    path.write_text(json.dumps(asked | {"stage": "sft", "freeze_vision_tower": False}))
    assert with_images(read_files([path])).options["freeze"] == "multi_modal_projector"
    path.write_text("base_model: Qwen/Qwen2-VL-2B-Instruct\nfreeze_mm_modules: true\n")
    assert with_images(read_files([path])).options["freeze"] == file.options["freeze"]


def test_an_answer_for_a_text_side_is_an_estimate_that_says_so() -> None:
    done = lora_profile("unsloth/Qwen2-VL-7B-Instruct", "--full", "--format", "json", "-s", "64")
    for prediction in json.loads(done.stdout)["predictions"]:
        assert prediction["exactness"] == "estimate"
        said = "\n".join(prediction["assumptions"])
        assert "Of unsloth/Qwen2-VL-7B-Instruct the language model alone" in said


GRPO = """\
model_name_or_path: Qwen/Qwen2.5-0.5B
use_peft: true
per_device_train_batch_size: 2
gradient_accumulation_steps: 4
num_generations: 8
max_prompt_length: 256
"""


@pytest.mark.parametrize(
    ("more", "at_once", "completion", "share"),
    [
        ("", 8, 512, 0),
        ("max_completion_length: 128\nsteps_per_generation: 16\n", 32, 128, 0),
        ("generation_batch_size: 24\n", 24, 512, 0),
        ("use_vllm: true\n", None, 512, 0.3),
        ("use_vllm: true\nvllm_gpu_memory_utilization: 0.5\n", None, 512, 0.5),
        ("use_vllm: true\nvllm_mode: server\nmax_completion_length: 512\n", None, 512, 0),
        ("use_vllm: true\nvllm_enable_sleep_mode: true\n", None, 512, 0),
    ],
)
def test_what_grpo_generates_between_steps(
    more: str, at_once: int | None, completion: int | None, share: float
) -> None:
    """As `GRPOConfig.__post_init__` works it out: TRL 1.16, grpo_config.py."""
    file = told(GRPO + more, "trl")
    assert file.options["seq_len"] == 256 + (completion or 512)
    assert file.options.get("generation_batch_size") == at_once
    assert file.options.get("max_completion_length") == completion
    assert ("use_vllm" in file.options) is (at_once is None)
    assert file.vllm_share == share
    assert not file.not_modelled


def test_what_vllm_takes_is_no_room_for_the_training(tmp_path: Path) -> None:
    path = tmp_path / "grpo.yaml"
    path.write_text(GRPO + "use_vllm: true\nvllm_gpu_memory_utilization: 0.25\n")

    def left(*words: str) -> int:
        told = ("--gpu", "custom:24GiB", "--world-size", "1", "--full", "--format", "json")
        done = lora_profile(str(path), *words, *told)
        (found,) = json.loads(done.stdout)["predictions"]
        return int(found["fit"]["usable_bytes"])

    assert left() == 18 * 2**30
    assert left("--vllm-share", "0.5") == 12 * 2**30
    assert "--vllm-share 0.25" in " ".join(lora_profile("read", str(path)).stdout.split())


AXOLOTL_DPO = """\
base_model: meta-llama/Llama-3.2-1B
adapter: lora
lora_dropout: 0.05
lora_target_linear: true
micro_batch_size: 2
sequence_len: 1024
gradient_checkpointing: true
rl: dpo
"""
TORCHTUNE_DPO = """\
model:
  _component_: torchtune.models.llama3_2.lora_llama3_2_1b
  lora_attn_modules: ['q_proj', 'v_proj']
tokenizer:
  max_seq_len: 1024
batch_size: 4
loss:
  _component_: torchtune.rlhf.loss.DPOLoss
"""
TRL_DPO = """\
model_name_or_path: Qwen/Qwen2.5-0.5B
use_peft: true
lora_dropout: 0.05
beta: 0.1
"""


FACTORY = "model_name_or_path: Qwen/Qwen3-0.6B\nper_device_train_batch_size: 2\n"
TRL_FILE = "model_name_or_path: Qwen/Qwen2.5-0.5B\nuse_peft: true\n"
SCORED = "base_model: Qwen/Qwen2.5-0.5B\nmicro_batch_size: 2\nnum_labels: 1\n"
SFT = FACTORY + "stage: sft\nfinetuning_type: full\n"
NO_DROPOUT, PAIRS, SCORES = {"dropout": 0.0}, {"batch_size": 2}, {"loss": "scores"}


@pytest.mark.parametrize(
    ("stack", "text", "options"),
    [
        # pairs: TRL 1.16 dpo_config.py, disable_dropout
        ("axolotl-dpo", AXOLOTL_DPO, NO_DROPOUT),
        ("torchtune-dpo", TORCHTUNE_DPO, {}),
        ("trl-dpo", TRL_DPO, NO_DROPOUT | {"beta": None}),  # which costs nothing
        ("trl-dpo", TRL_DPO + "disable_dropout: false\n", {"dropout": 0.05}),
        # what compares answers, or pairs, which the stack lays out
        ("llamafactory-kto", FACTORY + "stage: kto\n", PAIRS),
        ("llamafactory-orpo", FACTORY + "stage: dpo\npref_loss: simpo\n", PAIRS),
        ("llamafactory-dpo", FACTORY + "stage: dpo\npref_loss: sigmoid\n", PAIRS),
        ("trl-kto", TRL_FILE + "desirable_weight: 1.5\n", {}),
        ("trl-orpo", TRL_FILE + "beta: 0.1\noutput_dir: data/zephyr-orpo\n", {}),
        ("trl-reward", TRL_FILE + "task: reward\n", {}),
        ("trl-grpo", GRPO + "beta: 0.04\n", {"beta": 0.04}),
        # weights of tokens
        ("llamafactory", SFT + "use_dft_loss: true\n", {"loss": "llamafactory-dft"}),
        ("llamafactory", SFT + "use_eaft_loss: true\n", {"loss": "llamafactory-eaft"}),
        ("llamafactory", SFT + "use_asft_loss: true\n", {"loss": "llamafactory-asft"}),
        # a head of labels, of both answers of a pair
        ("axolotl", SCORED + "reward_model: true\n", SCORES | {"batch_size": 4}),
        ("axolotl", SCORED + "process_reward_model: true\n", SCORES | PAIRS),
        ("axolotl", SCORED + "model_type: AutoModelForSequenceClassification\n", SCORES | PAIRS),
        # the schema's dropout, where the key is left empty
        ("axolotl", AXOLOTL_DPO.replace("0.05", "").replace("rl: dpo\n", ""), NO_DROPOUT),
    ],
)
def test_a_file_has_its_loop_and_no_key_without_a_meaning(
    stack: str, text: str, options: dict[str, Any]
) -> None:
    file = told(text, stack.partition("-")[0])
    assert file.stack == stack and not file.not_modelled
    assert {name: file.options.get(name) for name in options} == options


@pytest.mark.parametrize("generations", ["", "num_generations: 4\n"])
def test_grpos_own_options_are_of_unsloths_grpo_alone(generations: str) -> None:
    text = f"model_name: unsloth/Qwen2.5-0.5B\nr: 16\n{generations}use_vllm: true\nbeta: 0.1\n"
    own = {"use_vllm", "beta"}
    assert (own & set(told(text, "unsloth").options)) == (own if generations else set())


@pytest.mark.parametrize(
    ("key", "text", "framework"),
    [
        ("precompute_ref_log_probs", TRL_DPO, "trl"),
        ("precompute_ref_log_probs", AXOLOTL_DPO, "axolotl"),
        ("rl_adapter_ref_model", AXOLOTL_DPO, "axolotl"),
        ("dpo_padding_free", AXOLOTL_DPO, "axolotl"),
    ],
)
def test_another_reference_than_the_loops_own_is_named(key: str, text: str, framework: str) -> None:
    (row,) = told(f"{text}{key}: true\n", framework).not_modelled
    assert row.key == key
