"""Bases of GPTQ, AWQ, FP8 and HQQ: bytes of their layers as the packages' own have them, what autograd
keeps under PEFT's own adapters, and what they are refused with."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import bitsandbytes as bnb
import peft
import pytest
import torch
from transformers.integrations import finegrained_fp8
from transformers.quantizers.quantizer_hqq import HqqHfQuantizer
from transformers.utils.quantization_config import QuantizationMethod

import cases
import oracle
import packed_layers
from golden_files import Golden
from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.memory.analytic import predict
from lora_profiler.planning import engine
from lora_profiler.planning.setups import setup_for
from lora_profiler.question.base import base_kind
from lora_profiler.question.model_spec import StoredBase
from lora_profiler.question.workload import (
    LoraConfig,
    Quantization,
    QuantType,
    TrainSetup,
    Workload,
)
from lora_profiler.trace.sharded_on_meta import fake_group

RECORDED = json.loads(
    (Path(__file__).parents[1] / "data" / "packed_layers.json").read_text("utf-8")
)
KINDS: tuple[QuantType, ...] = ("gptq", "awq", "fp8", "hqq")
EVERY = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def workload(kind: QuantType, name: str = "llama", **fields: Any) -> Workload:
    lora = LoraConfig(
        r=4, lora_dropout=fields.pop("dropout", 0.0), target_modules=fields.pop("targets", EVERY)
    )
    setup = TrainSetup(
        lora=lora,
        quantization=Quantization(quant_type=kind),
        **{"dtype": "float16", "batch_size": 2, "seq_len": 24, "device": "cpu"} | fields,
    )
    return Workload(model=cases.spec_of(name), setup=setup)


@pytest.mark.parametrize(
    "row", RECORDED["rows"], ids=lambda r: "-".join(str(v) for v in list(r.values())[:6])
)
def test_a_layer_has_the_bytes_that_its_package_makes(row):
    base = base_kind(row["kind"])
    stored = StoredBase(quant_type=row["kind"], bits=row["bits"], group_size=row["group_size"])
    inputs, outputs = row["in_features"], row["out_features"]
    assert base.layer_bytes(inputs, outputs, stored) == (row["weight_bytes"], row["constant_bytes"])
    assert row["bias_bytes"] in (0, 2 * outputs)
    kept = [[base.scale_dtype, [inputs, outputs]]] if base.keeps == "weight" else []
    kept = [["float16", [2, 8, inputs]]] if base.keeps == "input" else kept
    assert row["kept"] == kept
    if base.in_torch:  # three of the weight's size
        assert row["most_bytes"] == 3 * 2 * inputs * outputs


@pytest.mark.parametrize("block", [(128, 128), (64, 64), None])
@pytest.mark.parametrize("shape", [(512, 256), (160, 1000)])
def test_a_layer_in_fp8_has_the_bytes_that_transformers_makes(shape, block):
    layer = finegrained_fp8.FP8Linear(*shape, block_size=block)
    stored = StoredBase(quant_type="fp8", bits=8, group_size=block[0] if block else -1)
    sizes = {name: parameter.nbytes for name, parameter in layer.named_parameters()}
    assert base_kind("fp8").layer_bytes(*shape, stored) == (
        sizes["weight"],
        sizes["weight_scale_inv"],
    )


def test_a_published_checkpoint_is_as_large_as_its_index_says():
    """`total_size` of the nine shards of Llama 3 70B in AWQ, as an operator of vLLM on Kubernetes
    tests its reader of model.safetensors.index.json."""
    plain = find_model("meta-llama/Meta-Llama-3-70B", offline=True)
    raw = dict(plain.published) | {"quantization_config": AWQ}
    model = model_from_config(raw, id="awq", source="test")
    found = predict(Workload(model=model, setup=setup_for(model, method="qlora"))).persistent_bytes
    assert found["parameters"] + found["quantization_state"] == 39_767_785_472


# --- what is kept ---------------------------------------------------------------------------------


@pytest.mark.grid
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    ("dtype", "precision"),
    [("float16", "pure"), ("bfloat16", "pure"), ("bfloat16", "amp"), ("float16", "amp-float16")],
)
@pytest.mark.parametrize("name", ["llama", "qwen2-varied"])
@pytest.mark.parametrize("kind", KINDS)
def test_saved_bytes_are_those_of_peft_over_such_layers(
    kind, name, dtype, precision, dropout, checkpointing
):
    asked = workload(
        kind, name, dtype=dtype, precision=precision, dropout=dropout, checkpointing=checkpointing
    )
    with mock.patch.object(finegrained_fp8, "fp8_linear", packed_layers.fp8_product):
        real = oracle.saved_activation_bytes(packed_layers.adapted(asked), asked.setup)
    assert predict(asked).saved_activation_bytes == real


@pytest.mark.grid
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("kind", KINDS)
def test_peaks_of_real_steps(kind, checkpointing):
    """Less what lives on: the stand-ins are not packed."""
    asked = workload(kind, dtype="bfloat16", checkpointing=checkpointing, seq_len=64)
    with mock.patch.object(finegrained_fp8, "fp8_linear", packed_layers.fp8_product):
        model = packed_layers.adapted(asked)
        fixed = sum(oracle.fixed_storages(model).values())
        buffers = sum(t.nbytes for n, t in model.named_buffers() if "inv_freq" in n)
        real = oracle.step_peaks(model, asked.setup)
    found = predict(asked)
    held = found.persistent_bytes
    base = sum(held[name] for name in ("parameters", "quantization_state", "adapters")) + buffers
    ours = {m.moment: m.total_bytes - base for m in found.moments if m.step == "steady"}
    assert ours["optimizer_step"] == real[2, "optimizer"] - fixed
    if not checkpointing:
        assert ours["end_of_forward"] == real[2, "forward"] - fixed
        assert ours["loss_backward"] == real[2, "backward"] - fixed
    else:
        assert max(ours.values()) == pytest.approx(real[2, "step"] - fixed, rel=0.005)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_weights_that_come_back_in_steps_hold_the_peak_of_a_wide_model(checkpointing):
    """Three of the widest layer's, in 16 bit, beside what a few tokens leave."""
    sizes = {"hidden_size": 128, "intermediate_size": 1024, "vocab_size": 32}
    model = model_from_config(cases.CONFIGS["llama"] | sizes, id="wide", source="test")
    asked = replace(
        workload("hqq", dtype="bfloat16", seq_len=4, checkpointing=checkpointing), model=model
    )
    found, adapted = predict(asked), packed_layers.adapted(asked)
    fixed = sum(oracle.fixed_storages(adapted).values())
    buffers = sum(t.nbytes for n, t in adapted.named_buffers() if "inv_freq" in n)
    held = found.persistent_bytes
    base = sum(held[name] for name in ("parameters", "quantization_state", "adapters")) + buffers
    real = oracle.step_peaks(adapted, asked.setup)[2, "step"] - fixed
    assert found.peak.total_bytes - base == pytest.approx(real, rel=0.02)


REHEARSED = json.loads(
    (Path(__file__).parents[1] / "data" / "rehearsed_hqq.json").read_text("utf-8")
)


@pytest.mark.parametrize("row", REHEARSED["rows"], ids=lambda r: "-".join(map(str, r.values())))
def test_hqq_asks_a_pretended_card_for_the_predicted_bytes(row):
    """hqq's own layers on torch's CUDA build (`benchmarks/rehearsed/hqq_layers.py`); widest layers' weights
    come back beside the layer's peak."""
    sizes = {"model_type": row["model_type"]} | REHEARSED["sizes"]
    asked = {"batch_size", "seq_len", "dtype", "precision", "checkpointing"} & row.keys()
    setup = TrainSetup(
        lora=LoraConfig(target_modules=EVERY, lora_dropout=row.get("lora_dropout", 0.0)),
        quantization=Quantization(quant_type="hqq"),
        **{"dtype": "bfloat16"} | {name: row[name] for name in asked},
    )
    model = model_from_config(sizes, id="wide", source="test")
    found = predict(Workload(model=model, setup=setup)).peak
    assert found.total_bytes == row["requested_bytes"]


def test_a_stand_in_keeps_what_the_package_keeps():
    row = next(row for row in RECORDED["rows"] if row["kind"] == "gptq")
    layer = packed_layers.GptqLinear(
        torch.nn.Linear(row["in_features"], row["out_features"], bias=False)
    )
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(torch.randn(2, row["in_features"], dtype=torch.float16, requires_grad=True))
    assert [[str(t.dtype)[6:], list(t.shape)] for t in kept] == row["kept"]


# --- published configs ----------------------------------------------------------------------------

GPTQ = {
    "bits": 4, "group_size": 128, "damp_percent": 0.01, "desc_act": False, "static_groups": False,
    "sym": True, "true_sequential": True, "quant_method": "gptq",
}  # fmt: skip
"""As Qwen2.5's GPTQ-Int4 checkpoints have it."""
AWQ = {
    "bits": 4, "group_size": 128, "modules_to_not_convert": None, "quant_method": "awq",
    "version": "gemm", "zero_point": True,
}  # fmt: skip
FP8 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8"}
FP8 |= {"weight_block_size": [128, 128]}
CONFIGS = {"gptq": GPTQ, "awq": AWQ, "fp8": FP8}


def published(kind: str, **changes: Any) -> Any:
    plain = find_model("Qwen/Qwen2.5-7B-Instruct", offline=True)
    raw = dict(plain.published) | {"quantization_config": CONFIGS[kind] | changes}
    return model_from_config(raw, id=f"Qwen2.5-7B-{kind}", source="test")


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_published_config_is_answered_for_what_it_is(kind):
    model = published(kind)
    asked = Workload(model=model, setup=setup_for(model, method="lora", seq_len=2048))
    assert asked.setup.quantization == Quantization(quant_type=kind)
    assert asked.setup.dtype == ("float16" if kind == "awq" else "bfloat16")
    found = engine.predict(asked)
    plain = find_model("Qwen/Qwen2.5-7B-Instruct", offline=True)
    same = replace(asked, model=plain)
    assert found.peak.total_bytes == engine.predict(same).peak.total_bytes
    with pytest.raises(LoraProfilerError, match="cannot be trained in full"):
        Workload(model=model, setup=TrainSetup())


@pytest.mark.parametrize(
    ("kind", "changes", "bits", "group"),
    [
        ("gptq", {"bits": 8}, 8, 128),
        ("gptq", {"group_size": -1, "desc_act": True}, 4, -1),
        ("gptq", {"checkpoint_format": "gptq_v2"}, 4, 128),
        ("awq", {"modules_to_not_convert": []}, 4, 128),
        ("fp8", {"weight_block_size": None}, 8, -1),
        ("fp8", {"modules_to_not_convert": ["lm_head", "model.layers.0.input_layernorm"]}, 8, 128),
    ],
)
def test_widths_and_groups_are_the_config_s(kind, changes, bits, group):
    stored = published(kind, **changes).stored
    assert (stored.bits, stored.group_size) == (bits, group)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gptq", {"checkpoint_format": "marlin"}),
        ("gptq", {"lm_head": True}),
        ("gptq", {"dynamic": {"-:.*": {}}}),
        ("gptq", {"bits": 5}),
        ("gptq", {"group_size": 0}),
        ("gptq", {"bits": 4.0}),
        ("gptq", {"group_size": True}),
        ("fp8", {"weight_block_size": [[128], [128]]}),
        ("fp8", {"weight_block_size": "128"}),
        ("awq", {"version": "gemv"}),
        ("awq", {"modules_to_not_convert": ["down_proj"]}),
        ("fp8", {"activation_scheme": "static"}),
        ("fp8", {"weight_block_size": [1, 128]}),
        ("fp8", {"scale_fmt": "ue8m0"}),
        ("fp8", {"modules_to_not_convert": ["model.layers.0"]}),
    ],
)
def test_other_layouts_are_refused(kind, changes):
    with pytest.raises(LoraProfilerError, match=r"stored quantised|stays in 16 bit|is in FP8"):
        published(kind, **changes)


def test_what_a_packed_base_does_not_go_with(golden_file: Golden) -> None:
    model = find_model("Qwen/Qwen2.5-7B", offline=True)

    def answer(words: str) -> str:
        kind, name, value = words.split()
        options: dict[str, Any] = {"quant_type": kind, name: value}
        if name == "world_size":
            options = {"quant_type": kind, "world_size": 2, "sharding": value}
        if name in ("use_dora", "quantize_experts"):
            options[name] = True
        if name == "quantize_experts":
            options |= {"model": "Qwen/Qwen3-30B-A3B", "targets": value}
            options |= {"model": model.id, "targets": "attention"} if value == "dense" else {}
        picked = options.pop("engine", "auto")
        asked_of = find_model(options.pop("model", model.id), offline=True)
        try:
            setup = setup_for(asked_of, method="qlora", **options)
            engine.predict(Workload(model=asked_of, setup=setup), engine=picked)
        except LoraProfilerError as error:
            return str(error)
        return "answered"

    golden_file.compare_answers("refusals-bases", answer)


def test_transformers_loads_no_hqq_and_the_answer_says_who_does():
    """Its quantizer, made without the package that its constructor asks for."""
    quantizer = object.__new__(HqqHfQuantizer)
    quantizer.quantization_config = SimpleNamespace(quant_method=QuantizationMethod.HQQ)
    with pytest.raises(NotImplementedError, match="HQQ is not available yet"):
        quantizer.get_quantize_ops()
    model = find_model("Qwen/Qwen2.5-7B", offline=True)
    setup = setup_for(model, method="qlora", quant_type="hqq")
    found = engine.predict(Workload(model=model, setup=setup))
    said = found.assumptions
    assert found.exactness == "exact"  # in the loss
    assert any("AutoHQQHFModel" in words and "not available yet" in words for words in said)


IA3 = {"peft_type": "ia3", "feedforward_modules": ("down_proj",)}


@pytest.mark.parametrize(
    ("kind", "adapter", "error", "words"),
    [
        *[(kind, {"use_dora": True}, ValueError, "not support DoRA") for kind in ("gptq", "awq")],
        *[(kind, IA3, ValueError, "only") for kind in ("gptq", "awq")],
        ("fp8", {"use_dora": True}, NotImplementedError, "not implemented for 'Float8"),
    ],
)
def test_adapters_that_peft_itself_refuses_over_a_packed_base(kind, adapter, error, words):
    """Before the first step, in words that the refusal has too."""
    asked = workload(kind, dtype="bfloat16")
    setup = replace(asked.setup, lora=LoraConfig(target_modules=EVERY, **adapter))
    with pytest.raises(error, match=words):
        packed_layers.adapted(replace(asked, setup=setup))


def test_adapters_on_experts_in_4_bit_end_in_the_second_step():
    """PEFT 0.21's `ParamWrapper._remove_parametrizations` looks for a proxy of another class, and
    what it left has the packed parameter require gradients; by the end of their names it finds no
    parameters at all."""
    lora, base = LoraConfig(r=4, target_modules=("q_proj",)), Quantization(quantize_experts=True)
    setup = TrainSetup(lora=lora, quantization=base, batch_size=2, seq_len=8, device="cpu")

    def adapted(name: str) -> torch.nn.Module:
        model = oracle.build(cases.CONFIGS["qwen3_moe"], setup).unload()
        config = peft.LoraConfig(target_modules=["q_proj"], target_parameters=[name])
        return peft.get_peft_model(model, config).train()

    with pytest.warns(RuntimeWarning, match="no parameter was matched"):
        adapted("mlp.experts.down_proj")
    model, tokens = adapted("model.layers.0.mlp.experts.down_proj"), torch.ones(2, 8).long()
    with pytest.warns(UserWarning, match="Could not find any LoRA parametrization"):
        model(input_ids=tokens, labels=tokens).loss.backward()
    with pytest.raises(RuntimeError, match="floating point dtype can require gradients"):
        model(input_ids=tokens)


def test_layers_that_peft_does_not_find_by_itself_are_said():
    model = find_model("Qwen/Qwen2.5-7B", offline=True)
    setup = setup_for(model, method="qlora", quant_type="gptq")
    said = engine.predict(Workload(model=model, setup=setup)).assumptions
    assert any("name the layers in target_modules" in words for words in said)


def test_a_trainer_s_recipe_is_not_that_of_a_packed_base():
    model = find_model("Qwen/Qwen2.5-7B", offline=True)
    setup = setup_for(model, "trl-sft", "qlora", quant_type="awq", precision="amp-float16")
    assert setup.quantization is not None and setup.quantization.recipe == "stock"
    assert setup.dtype == "float16"
    assert setup.lora is not None and setup.lora.adapter_dtype == "float32"
    assert engine.predict(Workload(model=model, setup=setup)).exactness != "lower_bound"


def test_a_packed_base_is_an_estimate_and_short_products_of_awq_are_made_in_parts():
    """No card, measured or rehearsed, has run the packages' kernels."""
    model = find_model("Qwen/Qwen2.5-7B", offline=True)
    setup = setup_for(model, method="qlora", quant_type="awq", seq_len=1024)
    short, long = (
        engine.predict(Workload(model=model, setup=replace(setup, seq_len=n))) for n in (1024, 1025)
    )
    assert short.exactness == long.exactness == "estimate"
    assert [any("eight float32 parts" in w for w in p.assumptions) for p in (short, long)] == [
        True,
        False,
    ]
    assert all(any("on a CPU only" in w for w in p.assumptions) for p in (short, long))


def test_no_fsdp_shares_int8_weights() -> None:
    """What torch and bitsandbytes say themselves, as the refusals do."""
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    def layer() -> torch.nn.Module:
        made = bnb.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False)
        weight = torch.randn(64, 64)
        made.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        return made.to("cpu")

    with fake_group(2) as mesh:
        with pytest.raises(ValueError, match="Cannot flatten integer dtype tensors"):
            FullyShardedDataParallel(layer(), device_id=torch.device("cpu"))
        shared = layer()
        fully_shard(shared, mesh=mesh)
        with pytest.raises(AttributeError, match="no attribute 'CB'"):
            shared(torch.randn(4, 64, dtype=torch.bfloat16, requires_grad=True))
    model = find_model("Qwen/Qwen2.5-7B", offline=True)
    shards = {"quant_type": "int8", "world_size": 2, "sharding": "fsdp1"}
    with pytest.raises(
        UsageError, match=r"Cannot flatten integer dtype tensors.*no attribute 'CB'"
    ):
        engine.predict(Workload(model=model, setup=setup_for(model, method="qlora", **shards)))
