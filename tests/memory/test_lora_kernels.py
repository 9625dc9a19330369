"""axolotl's LoRA kernels: stand-ins that train as PEFT's layers do, rules of what they hold against
traces of them, and both against axolotl's own code.

The truths are PEFT's layers for the numbers, and for the bytes `axolotl train`, rehearsed over
torch's CUDA build with its kernels in Triton: what it asked for in backward.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from test_counted_kernels import step
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

import cases
import oracle
from agreement import as_the_trace
from commands import lora_profile
from lora_profiler.errors import UsageError
from lora_profiler.features.lora_kernels.axolotl.stand_in import patched
from lora_profiler.measuring.harness.preflight import refuse
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.memory.analytic.kernels import counted_kernels
from lora_profiler.planning.engine import predict as predict_by
from lora_profiler.planning.setups import setup_for
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.trace.kernels import step_kernels
from lora_profiler.trace.modeling import attention_context, forward_loss
from truth import by_kernel

KERNELS = LoraConfig(r=4, lora_kernels="axolotl")
DROPPED = replace(KERNELS, lora_dropout=0.1)
BASE = TrainSetup(batch_size=2, seq_len=40, attention="flash_attention_2", lora=KERNELS)
REENTRANT = replace(BASE, precision="amp", checkpointing=True, use_reentrant=True)


# --- the numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma"])
def test_gradients_are_those_of_peft(name: str) -> None:
    """Of Gemma within the difference between its tanh and axolotl's erf."""
    found: list[dict[str, torch.Tensor]] = []
    for kernels in ("axolotl", "peft"):
        lora = replace(KERNELS, lora_kernels=kernels)  # type: ignore[arg-type]
        setup = replace(BASE, device="cpu", dtype="float32", attention="eager", lora=lora)
        model = oracle.build(cases.CONFIGS[name], setup)
        torch.manual_seed(1)
        for whole, parameter in model.named_parameters():
            if "lora_B" in whole:  # PEFT begins with zeros
                parameter.data.normal_(std=0.1)
        with attention_context(setup):
            forward_loss(model, setup, oracle.make_batch(model, setup)).backward()  # type: ignore[no-untyped-call]
        trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        found.append({n: grad for n, grad in trained.items() if grad is not None})
    mine, real = found
    assert mine.keys() == real.keys()
    error = 0.02 if name == "gemma" else 1e-4
    for parameter, gradient in real.items():
        assert (mine[parameter] - gradient).norm() <= error * gradient.norm() + 1e-6, parameter


# --- memory and kernels against traces ------------------------------------------------------------

SETUPS = {
    "plain": BASE,
    "dropout": replace(BASE, lora=DROPPED, precision="amp"),
    "reentrant": replace(REENTRANT, lora=DROPPED),
    "checkpointing": replace(REENTRANT, use_reentrant=False),
    "4 bit": replace(REENTRANT, lora=DROPPED, quantization=Quantization()),
    "4 bit, plain scales": replace(BASE, quantization=Quantization(double_quant=False)),
    "bfloat16 adapters": replace(BASE, lora=replace(KERNELS, adapter_dtype="bfloat16")),
    "some": replace(
        BASE, lora=replace(KERNELS, target_modules=("q_proj", "v_proj", "o_proj", "up_proj"))
    ),
}


@pytest.mark.grid
@pytest.mark.parametrize("what", SETUPS)
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma"])
def test_moments_are_those_of_the_trace(name: str, what: str) -> None:
    as_the_trace(name, SETUPS[what])


@pytest.mark.parametrize(
    "workload",
    [
        step("llama-varied", lora=KERNELS, attention="flash"),
        step("gemma", lora=replace(KERNELS, adapter_dtype="bfloat16"), checkpointing=True),
        step(
            "qwen3",
            lora=DROPPED,
            quantization=Quantization(),
            precision="amp",
            checkpointing=True,
            use_reentrant=True,
        ),
    ],
    ids=["biases", "gelu", "4 bit"],
)
def test_kernels_are_those_of_the_trace(workload: Workload) -> None:
    assert by_kernel(counted_kernels(workload)) == by_kernel(step_kernels(workload))


# --- which layers ---

_SIZES = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "head_dim": 8},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "pad_token_id": 0},
}
_LATENT = {
    **{"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    **{"q_lora_rank": 8, "kv_lora_rank": 8, "v_head_dim": 8},
    **{"qk_nope_head_dim": 8, "qk_rope_head_dim": 8},
}
TAKEN = {
    **{
        key: {"self_attn", "mlp"}
        for key in ("cohere2", "gemma3", "hunyuan_v1_dense", "llama", "seed_oss", "smollm3")
    },
    "mistral3 mistral": {"self_attn", "mlp"},
    **{key: {"self_attn"} for key in ("apertus", "arcee", "glm4", "starcoder2")},
    "mistral3 ministral3": {"mlp"},
    "mistral3 mistral4": set(),
}
"""What axolotl 0.19's patch_self_attn_lora and apply_lora_kernel_patches gave functions of their
own in such models with an adapter on each linear layer (transformers 5.16, PEFT beside it)."""


@pytest.mark.parametrize("name", TAKEN)
def test_layers_are_those_that_axolotl_takes(name: str) -> None:
    kind, _, text = name.partition(" ")
    sizes: dict[str, Any] = _SIZES
    if text or kind == "gemma3":
        sizes = {
            "text_config": {"model_type": text or "gemma3_text", **_SIZES, **_LATENT},
            "vision_config": {"model_type": "siglip_vision_model" if not text else "pixtral"},
        }
    config = AutoConfig.for_model(kind, **sizes)
    made = AutoModelForImageTextToText if "text_config" in sizes else AutoModelForCausalLM
    with torch.device("meta"):
        model = made.from_config(config)
    linear = [name for name, module in model.named_modules() if type(module) is torch.nn.Linear]
    inject_adapter_in_model(PeftConfig(target_modules=linear), model)
    patched(model)
    changed = {n for n, module in model.named_modules() if "forward" in vars(module)}
    assert {n.partition("layers.0.")[2].partition(".")[0] for n in changed} == TAKEN[name]
    for found in changed:
        assert "language_model" in found or "text_config" not in sizes


# --- axolotl itself -------------------------------------------------------------------------------

YAML = """
base_model: HuggingFaceTB/SmolLM2-135M
lora_r: 16
lora_alpha: 32
lora_target_linear: true
sequence_len: 2048
pad_to_sequence_len: true
micro_batch_size: 2
optimizer: adamw_torch_fused
bf16: true
gradient_checkpointing: true
attn_implementation: sdpa
plugins:
  - axolotl.integrations.liger.LigerPlugin
liger_fused_linear_cross_entropy: true
"""
ASKED = {
    "adapter: lora\nlora_dropout: 0.05\n": 589_695_544,
    "adapter: qlora\nload_in_4bit: true\n": 408_230_960,
    "adapter: lora\nlora_dropout: 0.05\n"
    "gradient_checkpointing_kwargs:\n  use_reentrant: false\n": 584_976_952,
}
"""Bytes that backward asked for, its 64 MiB for BLAS left out: axolotl 0.19, Liger-Kernel 0.8.1,
torch 2.13, `lora-profile rehearse --gpu h100_sxm_80gb --phases --pretend-data -- axolotl train
FILE`, each file with a `datasets` of completions beside."""


@pytest.mark.parametrize("more", ASKED)
def test_the_peak_is_what_axolotl_asked_for(more: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yml"
    path.write_text(YAML + more)
    done = lora_profile(str(path), "--gpu", "h100_sxm_80gb", "--full", "--format", "json")
    (prediction,) = json.loads(done.stdout)["predictions"]
    assert prediction["setup"]["lora_kernels"] == "axolotl"
    assert prediction["peak"]["total_bytes"] == ASKED[more]


# --- what they do not go with ---------------------------------------------------------------------


def test_nothing_measures_them_and_some_models_have_none() -> None:
    workload = Workload(model=cases.spec_of("llama"), setup=replace(BASE, attention="auto"))
    with pytest.raises(UsageError, match="not run"):
        refuse(workload, Conditions())
    with pytest.raises(UsageError, match="not of olmo2"):
        predict_by(replace(workload, model=cases.spec_of("olmo2")))


def test_axolotl_has_them_by_default_where_they_are_known() -> None:
    def kernels(name: str, **options: object) -> str:
        setup = setup_for(cases.spec_of(name), "axolotl", "lora", **options)
        assert setup.lora is not None
        return setup.lora.lora_kernels

    assert kernels("llama") == "axolotl"
    assert kernels("olmo2") == kernels("llama", use_dora=True) == "peft"
    assert kernels("llama", lora_kernels="peft") == "peft"
