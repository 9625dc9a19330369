"""VeRA, IA3 and OFT: what PEFT itself makes of them, over every family; its refusals, and what of
LoRA's they lack."""

import copy
import json
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest

import cases
import truth
from commands import Run
from families import TINY, VARIED
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu, find_model, model_from_config
from lora_profiler.features.adapters.ia3 import FEEDFORWARD as OF_IA3
from lora_profiler.features.adapters.oft import block_size
from lora_profiler.memory.analytic import predict
from lora_profiler.memory.analytic.persistent import trainable_tensors
from lora_profiler.memory.analytic.plan import plan_for
from lora_profiler.planning.engine import predict as answer
from lora_profiler.planning.fit import fit
from lora_profiler.planning.setups import setup_for
from lora_profiler.question.adapters import RefusedTargetsError
from lora_profiler.question.adapters.targets import default_targets
from lora_profiler.question.workload import LoraConfig, PeftType, Quantization, TrainSetup, Workload
from lora_profiler.report.labels import way_label

KINDS: tuple[PeftType, ...] = ("vera", "ia3", "oft")
CONFIGS = {**TINY, **{f"{name}-varied": config for name, config in VARIED.items()}}
FEEDFORWARD = ("down_proj", "c_proj", "fc2", "dense_4h_to_h")
"""Of each family one, which IA3 is told where PEFT has no default."""
CASES: dict[str, dict[str, Any]] = {
    "all-linear": {},
    "default": {"target_modules": None},
    "names": {"target_modules": ("q_proj", "query_key_value", "c_attn", "qkv_proj", "down_proj")},
    "pattern": {"target_modules": r".*\.(q_proj|c_attn|qkv_proj|query_key_value)"},
    "saved": {"modules_to_save": ("norm", "ln_f")},
    "layers": {"target_modules": ("v_proj", "fc1"), "layers_to_transform": (1,)},
    "mlp": {"target_modules": ("mlp",)},
    "nothing": {"target_modules": ("no_such",)},
    "embedding": {"target_modules": ("embed_tokens", "wte", "embed_in")},
}


def peft_config(kind: PeftType, lora: LoraConfig) -> Any:
    import peft

    targets = lora.target_modules
    named: dict[str, Any] = {
        "target_modules": list(targets) if isinstance(targets, tuple) else targets,
        "modules_to_save": list(lora.modules_to_save) or None,
    }
    if kind == "ia3":
        return peft.IA3Config(feedforward_modules=list(lora.feedforward_modules) or None, **named)
    named["layers_to_transform"] = list(lora.layers_to_transform) or None
    if kind == "vera":
        return peft.VeraConfig(r=lora.r, **named)
    return peft.OFTConfig(oft_block_size=lora.oft_block_size, **named)


@cache
def base(config: str) -> Any:
    import torch
    import transformers

    raw = json.loads(config)
    real = transformers.CONFIG_MAPPING[raw["model_type"]].from_dict(raw)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(real)


def made_by_peft(config: Mapping[str, Any], lora: LoraConfig) -> Any:
    """(shapes of what trains in order, bytes of the buffers that the adapters brought), or the name
    of PEFT's exception."""
    import peft
    import torch

    model = copy.deepcopy(base(json.dumps(config)))
    before = {name for name, _ in model.named_buffers()}
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        try:
            adapted = peft.get_peft_model(model, peft_config(lora.peft_type, lora))
        except Exception as e:
            return type(e).__name__
    shapes = [tuple(p.shape) for p in adapted.parameters() if p.requires_grad]
    added = (
        b for n, b in adapted.named_buffers() if n.removeprefix("base_model.model.") not in before
    )
    return shapes, sum(b.numel() * b.element_size() for b in added)


@pytest.mark.grid
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_peft_makes_the_same(name, kind, case):
    if kind == "ia3" and case == "layers":
        pytest.skip("IA3Config has no layers_to_transform")
    config = CONFIGS[name]
    told: dict[str, Any] = {"oft_block_size": 5} if kind == "oft" else {"r": 3}
    if kind == "ia3" and case == "all-linear":
        told["feedforward_modules"] = FEEDFORWARD
    lora = LoraConfig(peft_type=kind, **CASES[case], **told)
    real = made_by_peft(config, lora)
    spec = model_from_config(dict(config), id=name, source="test")
    workload = Workload(model=spec, setup=TrainSetup(lora=lora))
    try:
        plan = plan_for(workload)
    except RefusedTargetsError as refusal:
        if refusal.peft_error is None:
            assert "not modelled here" in str(refusal) or "is not modelled" in str(refusal)
        else:
            first = (
                ("ValueError",) if kind == "vera" else ()
            )  # what it finds no layer to adapt with
            assert real in (refusal.peft_error, *first), str(refusal)
        return
    tensors = trainable_tensors(spec, plan.workload.setup, plan.adapters, plan.copies)
    shapes = [tuple(size.evaluate(1, 1, 3) for size in tensor.shape) for tensor in tensors]
    assert not isinstance(real, str), f"PEFT refuses with {real}"
    if plan.copies:  # norms inside the layers stand between adapters there
        assert sorted(shapes) == sorted(real[0])
    else:
        assert shapes == real[0]
    (setup,) = (m for m in predict(workload).moments if m.moment == "setup" and m.step == 1)
    assert setup.bytes.get("buffers", 0) == real[1]


def test_every_family_is_counted_by_every_method():
    """Of the grid above, a refusal is no count: PEFT itself has no OFT of Conv1D."""
    counted = set()
    for name, config in TINY.items():
        for kind in KINDS:
            told = {"feedforward_modules": FEEDFORWARD} if kind == "ia3" else {}
            lora = LoraConfig(peft_type=kind, **told)
            spec = model_from_config(dict(config), id=name, source="test")
            try:
                found = predict(Workload(model=spec, setup=TrainSetup(lora=lora)))
            except RefusedTargetsError as refusal:
                assert "Conv1D, which PEFT cannot adapt by OFT" in str(refusal)
                continue
            assert found.parameters.adapter == sum(map(prod, made_by_peft(config, lora)[0]))
            counted.add((name, kind))
    assert len(counted) == len(TINY) * len(KINDS) - 1


def prod(shape: tuple[int, ...]) -> int:
    size = 1
    for number in shape:
        size *= number
    return size


def test_the_width_of_a_rotation_is_pefts():
    from peft.tuners.oft.layer import OFTLayer

    for features in range(1, 200):
        for asked in (1, 2, 7, 16, 32, 100, 300):
            divides = features % asked == 0 and asked <= features
            real = asked if divides else OFTLayer.adjust_oft_parameters(None, features, asked)
            assert block_size(features, asked) == real


def test_tables_are_pefts_own():
    from peft.utils import constants

    for kind in ("lora", *KINDS):
        targets = default_targets(kind)
        real = getattr(constants, f"TRANSFORMERS_MODELS_TO_{kind.upper()}_TARGET_MODULES_MAPPING")
        assert {k: list(v) if isinstance(v, tuple) else v for k, v in targets.items()} == real
    real = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
    assert {k: list(v) for k, v in OF_IA3.items()} == real


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "gpt_neox-varied"])
def test_what_lives_between_steps(name, kind):
    """Held against two real steps."""
    setup = TrainSetup(lora=LoraConfig(r=3, peft_type=kind), batch_size=2, seq_len=8, device="cpu")
    real = truth.persistent(cases.CONFIGS[name], setup)["sizes"]
    spec = model_from_config(dict(cases.CONFIGS[name]), id=name, source="test")
    found = predict(Workload(model=spec, setup=setup)).persistent_bytes
    weights, gradients, states = (sum(sizes[i] for sizes in real.values()) for i in range(3))
    assert found["parameters"] + found["adapters"] == weights
    assert found["adapters"] == sum(w for w, gradient, _ in real.values() if gradient)
    assert (found["gradients"], found["optimizer_states"]) == (gradients, states)


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_that_is_measured_trains_them(kind):
    """The harness' own steps, and whose memory is whose."""
    from lora_profiler.measuring.harness.ownership import model_tensors
    from lora_profiler.trace.modeling import build_model

    setup = TrainSetup(lora=LoraConfig(r=3, peft_type=kind), device="cpu", seq_len=8)
    config = cases.CONFIGS["llama"]
    spec = model_from_config(dict(config), id="llama", source="test")
    model = build_model(Workload(model=spec, setup=setup))
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    owned = model_tensors(model)
    assert trained == {id(tensor) for category, tensor in owned if category == "adapters"}
    assert truth.trains(config, setup)


def test_a_trainers_defaults_for_lora_are_no_wish():
    """TRL and PEFT set alpha and dropout, which IA3 has no place for."""
    model = find_model("HuggingFaceTB/SmolLM2-135M")
    setup = setup_for(model, "trl-sft", peft_type="ia3")
    assert setup.lora == LoraConfig(
        peft_type="ia3", target_modules=setup.lora.target_modules, adapter_dtype="float32"
    )


def test_ia3_over_a_quantised_base_needs_float32_between_its_layers():
    model = find_model("HuggingFaceTB/SmolLM2-135M")
    setup = TrainSetup(lora=LoraConfig(peft_type="ia3"), quantization=Quantization())
    with pytest.raises(UsageError, match="--precision amp"):
        answer(Workload(model=model, setup=setup), may_trace=False)
    with pytest.raises(RuntimeError, match="dtype"):
        truth.step_peaks.function(
            cases.CONFIGS["llama"], TrainSetup(**(vars_of(setup) | {"device": "cpu"}))
        )


def vars_of(setup: TrainSetup) -> dict[str, Any]:
    return {"lora": setup.lora, "quantization": setup.quantization, "seq_len": 8}


def test_names_and_ranks():
    base_in_4_bit = Quantization()
    ways = {
        "VeRA r16": TrainSetup(lora=LoraConfig(peft_type="vera")),
        "IA3": TrainSetup(lora=LoraConfig(peft_type="ia3")),
        "OFT on nf4": TrainSetup(lora=LoraConfig(peft_type="oft"), quantization=base_in_4_bit),
        "QLoRA r16": TrainSetup(lora=LoraConfig(), quantization=base_in_4_bit),
    }
    assert {way_label(setup): setup for setup in ways.values()} == ways
    model = find_model("HuggingFaceTB/SmolLM2-135M")
    ranks = {
        label: fit(Workload(model=model, setup=setup), find_gpu("t4")).highest_rank
        for label, setup in ways.items()
        if label in ("IA3", "QLoRA r16")
    }
    assert ranks["IA3"] is None
    assert ranks["QLoRA r16"] is not None


def test_a_plan_tries_no_ranks_of_a_method_without_one():
    from lora_profiler.planning.plan_space import ranks_of
    from lora_profiler.planning.planned import Space

    space = Space(ranks=(8, 16))
    kinds = {kind: ranks_of(TrainSetup(lora=LoraConfig(peft_type=kind)), space) for kind in KINDS}
    assert kinds == {"vera": (8, 16), "ia3": (None,), "oft": (None,)}


def test_what_peft_refuses_is_not_traced_first(run: Run) -> None:
    done = run("gpt2", "--method", "lora", "--peft-type", "oft")
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "error: transformer.h.0.attn.c_attn is a Conv1D, which PEFT cannot adapt by OFT",
        "  Leave it out, or take another --peft-type.",
    ]
