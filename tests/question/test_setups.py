"""The options of a setup are the same ones, with the same defaults, whichever face asks for
them."""

from typing import Any

import pytest

from lora_profiler.cli.main import predict_command
from lora_profiler.cli.options import workloads as command_line_workloads
from lora_profiler.dashboard.answered import workloads
from lora_profiler.dashboard.question import SETUP_OPTIONS, from_params
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_model
from lora_profiler.facts.stacks import GUIDE
from lora_profiler.planning.setups import DEFAULTS, setup_for, setups, written_options
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.workload import (
    LoraConfig,
    Quantization,
    TrainSetup,
    idle_options,
    setup_dict,
)

GPT2 = find_model("gpt2")


def test_the_command_line_has_the_same_options_with_the_same_defaults() -> None:
    """By click's own account of what it hands over when nothing is given."""
    ctx = predict_command.make_context("predict", ["gpt2"])
    names = set(DEFAULTS)
    assert names <= set(ctx.params)
    for name in names - {"methods"}:
        assert ctx.params[name] == DEFAULTS[name], name
    assert ctx.params["trainer"] == GUIDE
    beside = {"models", "revision", "offline", "gpu", "torch", "interconnect", "engine"}
    beside |= {"model", "framework", "write", "detail", "peft_config"}
    beside |= {"per_layer", "explain", "form", "output", "force", "trainer"}
    beside |= {"data", "lengths", "batching", "pad_to_multiple_of", "epochs", "vllm_share"}
    beside |= {"rows", "samples", "mean_length", "allow_tight", "max_peak", "full"}
    assert set(ctx.params) - names == beside


def test_defaults_are_those_of_a_setup() -> None:
    full, lora = setups(find_model("EleutherAI/pythia-160m"), DEFAULTS, ())
    assert full == TrainSetup()
    assert lora == TrainSetup(lora=LoraConfig(r=16))


LISTS = {
    "targets": ("c_attn", ("c_attn",)),
    "layers_to_transform": ("0-1,5", (0, 1, 5)),
    "modules_to_save": ("lm_head", ("lm_head",)),
    "target_parameters": ("experts.down_proj", ("experts.down_proj",)),
    "peft_arg": ("lora_bias=true", ("lora_bias=true",)),
    "freeze": ("vision_tower", ("vision_tower",)),
    "feedforward_modules": ("mlp.c_proj", ("mlp.c_proj",)),
}
BESIDE = {
    "sharding": {"world-size": "2"},
    "world_size": {"sharding": "ddp"},
    "feedforward_modules": {"peft-type": "ia3", "precision": "amp"},
    "freeze": {"images": "1"},
    "oft_block_size": {"peft-type": "oft"},
    "optimizer_in_bwd": {"optimizer": "sgd"},
    "beta": {"loop-state": "trl-grpo"},
    "use_vllm": {"loop-state": "trl-grpo"},
}
"""What an option needs beside it."""


def another_value(name: str) -> tuple[str, Any]:
    """As people write it, and in its field."""
    option = SETUP_OPTIONS[name]
    if name in LISTS:
        return LISTS[name]
    if name == "image_size":
        return "64x32", "64x32"
    if name == "qat_group_size":
        return "64", 64
    if option.kind == "choice":
        value = next(choice for choice in option.choices if choice != option.default)
        return value, value
    if option.kind == "switch":
        return ("no", False) if option.default else ("yes", True)
    return ("3", 3) if option.kind == "size" else ("0.25", 0.25)


@pytest.mark.parametrize("name", SETUP_OPTIONS)
def test_every_option_reaches_its_field_from_the_command_line_and_from_a_link(name: str) -> None:
    text, value = another_value(name)
    params = {name.replace("_", "-"): text, **BESIDE.get(name, {})}
    arguments = []
    for parameter, written in params.items():
        if written in ("yes", "no"):
            arguments.append("--" + ("" if written == "yes" else "no-") + parameter)
        else:
            arguments += ["--" + parameter, written]
    ctx = predict_command.make_context("predict", ["gpt2", "--method", "qlora", *arguments])
    (from_flags,) = command_line_workloads(GPT2, ctx, Platform())
    question, complaints = from_params(
        {"method": ["qlora"], **{key: [written] for key, written in params.items()}}
    )
    (from_link,) = workloads(GPT2, question)
    assert from_flags == from_link and not complaints
    setup = from_flags.setup
    parts = {type(part): part for part in (setup, setup.lora, setup.quantization)}
    option = SETUP_OPTIONS[name]
    assert getattr(parts[option.owner], option.field) == value
    assert setup_dict(setup)[name] == (list(value) if isinstance(value, tuple) else value)
    plain = TrainSetup(lora=LoraConfig(), quantization=Quantization())
    assert setup != plain


def test_json_and_csv_have_what_came_later_last() -> None:
    """Whoever reads columns by position reads on: names are only ever added at the end."""
    assert list(setup_dict(TrainSetup())) == [
        *("method", "rank", "alpha", "dropout", "targets", "layers_to_transform"),
        *("modules_to_save", "use_rslora", "adapter_dtype", "double_quant", "recipe"),
        *("batch_size", "seq_len", "accumulation", "dtype", "precision", "optimizer"),
        *("optimizer_impl", "checkpointing", "attention", "device", "loss", "world_size"),
        *("sharding", "packed", "kernels", "hold_outputs", "label_smoothing_factor"),
        *("padding", "eval_batch_size", "use_dora", "quant_type", "reduce_bucket_size"),
        *("fast_lora", "use_reentrant", "transformers", "loop_state"),
        *("peft_type", "feedforward_modules", "oft_block_size"),
        *("generation_batch_size", "max_completion_length", "optimizer_rank"),
        *("images", "image_size"),
        *("lora_kernels", "optimizer_in_bwd", "offload_checkpoints"),
        *("freeze", "qat", "qat_group_size"),
        *("offload_params", "offload_activations", "beta", "use_vllm", "offload_embedding"),
        *("use_orig_params", "offload_optimizer_device", "offload_param_device"),
        *("quantize_experts", "context_parallel_size", "target_parameters", "peft_arg"),
    ]


@pytest.mark.parametrize("name", sorted(idle_options(["full"])))
def test_an_option_that_no_method_reads_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(UsageError, match="--" + name.replace("_", "-")):
        setups(GPT2, {**DEFAULTS, "methods": ("full",)}, {name})


def test_no_targets_come_back() -> None:
    lora = LoraConfig(target_modules=(), target_parameters=("experts.down_proj",))
    written = written_options(TrainSetup(lora=lora))
    assert written["targets"] == "none"
    assert setup_for(find_model("Qwen/Qwen3-30B-A3B"), **written).lora == lora


def test_lists_are_text_with_commas() -> None:
    options = {
        **DEFAULTS,
        "methods": ("lora",),
        "targets": "c_attn, c_proj",
        "layers_to_transform": "0,2-4,3",
        "modules_to_save": "lm_head",
    }
    (setup,) = setups(GPT2, options, ())
    assert setup.lora is not None
    assert setup.lora.target_modules == ("c_attn", "c_proj")
    assert setup.lora.layers_to_transform == (0, 2, 3, 4)
    assert setup.lora.modules_to_save == ("lm_head",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"targets": "c_attn,,"}, "--targets"),
        ({"layers_to_transform": "3-1"}, "--layers-to-transform"),
        ({"layers_to_transform": "0-999999999"}, "no model has that many"),
        ({"modules_to_save": ","}, "--modules-to-save"),
    ],
)
def test_text_that_is_no_list_is_refused(change: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        setups(GPT2, {**DEFAULTS, "methods": ("lora",), **change}, ())


@pytest.mark.parametrize("optimizer", ["muon", "lorafa"])
def test_optimizers_of_adapters_alone_are_asked_for_with_a_method_that_has_them(optimizer):
    model = find_model("SmolLM2-135M", offline=True)
    assert setup_for(model, method="lora", optimizer=optimizer).optimizer == optimizer
    with pytest.raises(UsageError, match="--method lora"):
        setup_for(model, method="full", optimizer=optimizer)


@pytest.mark.parametrize(
    ("model", "targets"),
    [
        ("EleutherAI/pythia-14m", ("query_key_value",)),
        ("microsoft/Phi-3-mini-4k-instruct", ("qkv_proj",)),
        ("Qwen/Qwen2.5-0.5B", ("q_proj", "v_proj")),
    ],
)
def test_a_trainer_s_targets_are_the_fused_matrix_of_a_model_that_has_one(
    model: str, targets: tuple[str, ...]
) -> None:
    setup = setup_for(find_model(model, offline=True), "litgpt", "lora")
    assert setup.lora is not None and setup.lora.target_modules == targets
