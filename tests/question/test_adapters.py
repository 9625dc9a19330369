"""LoRA targets against PEFT itself, on tiny models of the meta device, and against the stored
counts of 66 real models."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

import truth
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.question.adapters import RefusedTargetsError, adapters, saved_modules
from lora_profiler.question.workload import LoraConfig

COUNTS = json.loads((Path(__file__).parents[1] / "data" / "lora_counts.json").read_text())["models"]
TARGETS = {
    "default": None,
    "all-linear": "all-linear",
    "qkvo": ("q_proj", "k_proj", "v_proj", "o_proj"),
}
TINY = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 12,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "pad_token_id": 0,
}  # fmt: skip


def of(model_type, base=TINY, **fields):
    return {"model_type": model_type, **base, **fields}


def on(targets, **more):
    return LoraConfig(r=4, target_modules=targets, **more)


MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
MODELS = {
    "llama": of("llama"),
    "tied": of("llama", tie_word_embeddings=True),
    "gemma3_text": of("gemma3_text"),
    "phi3": of("phi3"),
    "gpt2": of("gpt2"),
    "gpt_neox": of("gpt_neox"),
    "opt": of("opt", word_embed_proj_dim=16),
    "mixtral": of("mixtral", num_hidden_layers=3, num_local_experts=4),
    "qwen3_moe": of("qwen3_moe", **MOE, num_hidden_layers=3, mlp_only_layers=[1]),
    "t5": of("t5", {}, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=96,
        architectures=["T5ForConditionalGeneration"]),
    "vit": of("vit", {}, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, image_size=32, patch_size=8,
        architectures=["ViTForImageClassification"]),
    "gpt_oss": of("gpt_oss", head_dim=8, num_hidden_layers=3, num_local_experts=4,
        num_experts_per_tok=2),
    "qwen2_moe": of("qwen2_moe", **MOE, num_hidden_layers=2,
        shared_expert_intermediate_size=24),
}  # fmt: skip
CASES = {
    "default": on(None),
    "all-linear": on("all-linear"),
    "ALL-LINEAR": on("ALL-LINEAR"),
    "one-suffix": on(("q_proj",)),
    "attention": on(("q_proj", "k_proj", "v_proj", "o_proj")),
    "mlp": on(("gate_proj", "up_proj", "down_proj")),
    "half-of-a-fused-pair": on(("q_proj", "gate_proj")),
    "down-only": on(("down_proj",)),
    "router": on(("gate", "q_proj")),
    "w1w2w3": on(("w1", "w2", "w3")),
    "packed-names": on(("gate_up_proj", "qkv_proj")),
    "with-parent": on(("self_attn.q_proj", "mlp.down_proj")),
    "gpt": on(("c_attn", "c_proj", "query_key_value", "dense", "fc1", "fc2", "out_proj")),
    "one-layer-by-name": on(("layers.1.self_attn.q_proj", "h.1.attn.c_attn")),
    "one-layer-by-number": on(("1.self_attn.q_proj",)),
    "full-name": on(("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj")),
    "missing": on(("no_such_proj",)),
    "missing-and-there": on(("no_such_proj", "q_proj", "c_attn")),
    "container": on(("mlp",)),
    "norm": on(("input_layernorm",)),
    "activation": on(("act_fn", "q_proj")),
    "rotary": on(("rotary_emb",)),
    "layer-number": on(("0",)),
    "embedding": on(("embed_tokens", "q_proj")),
    "embeddings-gpt": on(("wpe", "embed_positions", "relative_attention_bias")),
    "head": on(("lm_head", "q_proj")),
    "root-head": on(("lm_head",)),
    "regex": on(r".*\.(q|v)_proj"),
    "regex-digits": on(r".*\.[02]\.self_attn\.[qkv]_proj"),
    "regex-one-digit": on(r"model\.layers\..\.mlp\.up_proj"),
    "regex-is-full": on(r"q_proj"),
    "regex-mlp": on(r".*\.mlp\..*"),
    "regex-mlp-proj": on(r".*\.mlp\..*_proj"),
    "regex-experts": on(r".*experts\.(gate_proj|up_proj|down_proj)"),
    "regex-experts-half": on(r".*experts\.(gate_proj|down_proj)"),
    "regex-router": on(r".*mlp\.gate|.*q_proj"),
    "regex-everything": on(r".*"),
    "regex-broken": on(r".*(q_proj"),
    "layers": on(("q_proj", "down_proj", "c_attn"), layers_to_transform=(0, 2, 11)),
    "layers-in-layers": on(("q", "wo"), layers_to_transform=(1,)),
    "layers-none-left": on(("q_proj",), layers_to_transform=(77,)),
    "layers-full-name": on(("model.layers.0.self_attn.q_proj",), layers_to_transform=(5,)),
    "layers-root": on(("lm_head", "q_proj"), layers_to_transform=(1,)),
    "layers-all-linear": on("all-linear", layers_to_transform=(0,)),
    "layers-regex": on(r".*q_proj", layers_to_transform=(0,)),
    "save-head": on(
        ("q_proj", "c_attn", "query_key_value", "qkv_proj"), modules_to_save=("lm_head",)
    ),
    "save-both": on("all-linear", modules_to_save=("lm_head", "embed_tokens")),
    "save-norm": on(("q_proj", "c_attn"), modules_to_save=("norm",)),
    "save-what-is-adapted": on(("q_proj", "v_proj"), modules_to_save=("v_proj",)),
    "save-everything-adapted": on(("q_proj",), modules_to_save=("q_proj",)),
    "save-part-of-a-name": on(("q_proj", "v_proj"), modules_to_save=("proj",)),
    "save-mlp": on("all-linear", modules_to_save=("mlp",)),
    "save-one-layer": on("all-linear", modules_to_save=("layers.1",)),
    "save-layers": on(("q_proj",), modules_to_save=("layers",)),
    "save-missing": on(("q_proj", "c_attn"), modules_to_save=("classifier",)),
    "save-classifier": on(("q", "v", "q_proj", "v_proj"), modules_to_save=("classifier",)),
    "save-router": on("all-linear", modules_to_save=("gate",)),
    "dropout": on("all-linear", lora_dropout=0.1),
    "t5": on(("q", "k", "v", "o", "wi", "wo")),
    "convolution": on(("projection", "q_proj")),
    "shared": on(("shared_expert_gate", "q_proj")),
    "parameters": on(
        ("q_proj", "c_attn"),
        target_parameters=("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
    ),
    "parameters-of-some-layers": on(
        "all-linear", target_parameters=("0.mlp.experts.gate_up_proj", "2.mlp.experts.down_proj")
    ),
    "parameters-beside-a-pattern": on(
        r".*\.q_proj", target_parameters=("model.layers.1.mlp.experts.down_proj",)
    ),
    "parameters-fused": on(
        ("gate_proj", "up_proj", "w1", "w3", "q_proj"), target_parameters=("experts.down_proj",)
    ),
    "parameters-alone": on((), target_parameters=("mlp.experts.gate_up_proj",)),
    "parameters-of-targets": on(("q_proj",), target_parameters=("q_proj.weight",)),
    "parameters-of-norms": on(("q_proj",), target_parameters=("input_layernorm.weight",)),
    "parameters-router": on(("q_proj",), target_parameters=("router.weight",)),
    "parameters-biases": on(("q_proj",), target_parameters=("experts.gate_up_proj_bias",)),
    "parameters-dropout": on(
        ("q_proj",), target_parameters=("experts.gate_up_proj",), lora_dropout=0.1
    ),
}


@pytest.mark.grid(share=1 / 3)
@pytest.mark.parametrize("row", COUNTS, ids=lambda row: row["id"])
@pytest.mark.parametrize("case", TARGETS)
def test_stored_counts_of_real_models(row, case):
    spec, want = find_model(row["id"]), row[case]
    if "error" in want:
        with pytest.raises(RefusedTargetsError) as caught:
            adapters(spec, LoraConfig(target_modules=TARGETS[case]))
        assert caught.value.peft_error == want["error"] and caught.value.exit_code == 2
        return
    found = adapters(spec, LoraConfig(target_modules=TARGETS[case]))
    assert [sum(a.num_parameters(r) for a in found) for r in (8, 16)] == [want["r8"], want["r16"]]
    by_name: dict[str, dict[str, int]] = defaultdict(lambda: {"n": 0, "r8": 0})
    for adapter in found:
        leaf = adapter.module.rsplit(".", 1)[-1]
        entry = by_name[f"{leaf}.{adapter.parameter}" if adapter.parameter else leaf]
        entry["n"] += 1
        entry["r8"] += adapter.num_parameters(8)
    assert by_name == want["modules"]


def our_answer(spec, lora):
    """The same, from names and shapes. Packed parameters nest wrappers, so their names are left to
    the shapes."""
    weights = []
    for a in adapters(spec, lora):
        first, second = ("lora_embedding_A.default", "lora_embedding_B.default")
        if a.kind != "Embedding":
            first, second = ("lora_A.default.weight", "lora_B.default.weight")
        weights.append((f"base_model.model.{a.module}.{first}", a.a_shape(lora.r)))
        weights.append((f"base_model.model.{a.module}.{second}", a.b_shape(lora.r)))
    saved = [
        (name, w.name, w.shape)
        for name, module in saved_modules(spec, lora)
        for w in module.weights
    ]
    return sorted(weights), sorted(saved)


@pytest.mark.grid(share=1 / 3)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("model", MODELS)
def test_peft_itself_agrees(model, case):
    spec = model_from_config(MODELS[model], id=model, source="test")
    lora = CASES[case]
    answer = truth.peft(MODELS[model], lora)
    error = answer if isinstance(answer, str) else None
    try:
        ours, saved = our_answer(spec, lora)
    except RefusedTargetsError as refusal:
        assert len(str(refusal)) > 40
        if refusal.peft_error is None:
            own = ("not modelled", "PEFT would train")
            assert error is not None or any(words in str(refusal) for words in own)
        else:
            assert error == refusal.peft_error, str(refusal)
        return
    assert error is None, f"PEFT refuses with {error}"
    real = [(name, tuple(shape)) for name, shape in answer]
    nested = [(name, shape) for name, shape in real if ".base_layer." in name]
    in_lora = [(name, shape) for name, shape in real if "lora_" in name]
    if nested:
        assert sorted(shape for _, shape in in_lora) == sorted(shape for _, shape in ours)
    else:
        assert in_lora == ours
    real_saved = [(name, shape) for name, shape in real if ".modules_to_save." in name]
    assert sorted(shape for _, shape in real_saved) == sorted(shape for _, _, shape in saved)
    assert len(real_saved) + len(in_lora) == len(real)


def test_not_modelled_is_refused_with_its_own_words():
    spec = model_from_config(MODELS["tied"], id="tied", source="test")
    for targets in (("lm_head",), ("embed_tokens",)):
        with pytest.raises(UsageError, match="tied") as caught:
            adapters(spec, LoraConfig(target_modules=targets))
        assert caught.value.peft_error is None


def test_refusals_name_what_exists():
    spec = find_model("meta-llama/Llama-3.1-8B")
    with pytest.raises(RefusedTargetsError, match=r"Did you mean .*q_proj"):
        adapters(spec, LoraConfig(target_modules=("qproj",)))
    with pytest.raises(RefusedTargetsError, match="all-linear"):
        adapters(find_model("microsoft/phi-4"), LoraConfig(target_modules=None))


def test_peft_tables_are_pefts_own():
    pytest.importorskip("peft")
    from peft.utils import transformers_weight_conversion as conversion
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as MAPPING
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from lora_profiler.question.adapters.targets import PACKED_EXPERTS, default_targets

    assert {
        k: list(v) if isinstance(v, tuple) else v for k, v in default_targets("lora").items()
    } == MAPPING
    patterns = conversion._MODEL_TO_CONVERSION_PATTERN
    real = {
        model_type: conversion._MOE_TARGET_MODULE_MAPPING[pattern]
        for model_type, pattern in patterns.items()
        if pattern in conversion._MOE_TARGET_MODULE_MAPPING
        and get_checkpoint_conversion_mapping(model_type) is not None
    }
    assert real == PACKED_EXPERTS


def test_the_textbook_example():
    """A 4096 x 4096 layer: 16,777,216 weights in full, 65,536 with rank 8."""
    found = adapters(find_model("meta-llama/Llama-3.1-8B"), LoraConfig(target_modules=("q_proj",)))
    assert len(found) == 32 and found[0].num_parameters(8) == 65_536
    assert (found[0].a_shape(8), found[0].b_shape(8)) == ((8, 4096), (4096, 8))
