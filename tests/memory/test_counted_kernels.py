"""Kernels counted by rules: those that a trace of the real model lists, one by one; and what must
hold for any size."""

from collections import Counter
from dataclasses import replace
from operator import attrgetter
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import families
import truth
from lora_profiler.errors import UncountedError
from lora_profiler.facts.catalog import find_gpu, find_model, model_from_config
from lora_profiler.memory.analytic import predict
from lora_profiler.memory.analytic.kernels import counted_kernels
from lora_profiler.memory.kernels import Kernel, lumped
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import LoraConfig, Quantization, Sharding, TrainSetup, Workload
from lora_profiler.steptime import predict_step_time
from lora_profiler.steptime.roofline import update_bytes
from lora_profiler.trace.kernels import step_kernels
from truth import by_kernel

WIDTH = {
    "phi3": {"hidden_size": 64},
    "olmo2": {"hidden_size": 64},
    "qwen2": {"hidden_size": 64},
    "gpt2": {"n_embd": 64},
    "gpt_neox": {"hidden_size": 64},
    "opt": {"hidden_size": 64, "word_embed_proj_dim": 64},
}
"""What makes heads 16 wide where the config has no `head_dim`: flash attention pads those that are
no multiple of 8."""


def spec(name: str, **changes: Any) -> ModelSpec:
    """A tiny model of two layers; "x-varied" as the second table of `families` has it, at its own
    depth."""
    plain = name.removesuffix("-varied")
    config = dict(families.TINY[name] if name == plain else families.VARIED[plain])
    if name == plain:
        config["n_layer" if name == "gpt2" else "num_hidden_layers"] = 2
    config |= WIDTH.get(config["model_type"], {"head_dim": 16}) | changes
    return model_from_config(config, id=name, source="test")


def step(name: str, changes: dict[str, Any] | None = None, **setup: Any) -> Workload:
    return Workload(
        model=spec(name, **(changes or {})),
        setup=TrainSetup(**{"batch_size": 2, "seq_len": 24, **setup}),
    )


def on(workload: Workload, **platform: Any) -> Workload:
    return replace(workload, platform=Platform(**platform))


EVERY = LoraConfig(r=4, lora_dropout=0.1)
PLAIN = LoraConfig(r=4, adapter_dtype="bfloat16")
ATTENTION = LoraConfig(r=4, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))
NF4, SIMPLE, KBIT, TRL = (
    Quantization(),
    Quantization(double_quant=False),
    Quantization(recipe="kbit"),
    Quantization(recipe="trl"),
)
AMP = {"precision": "amp", "dtype": "float32"}

CASES: dict[str, Workload] = {
    # every family, trained in full
    "llama": step("llama"),
    "llama, biases": step("llama-varied"),
    "mistral, a window that is filled": step("mistral-varied"),
    "qwen2, tied": step("qwen2"),
    "qwen3, one sample": step("qwen3", batch_size=1),
    "phi3": step("phi3", {"resid_pdrop": 0.1}),
    "phi3, partial rotation": step("phi3-varied", {"num_hidden_layers": 2}, seq_len=12),
    "gemma": step("gemma"),
    "gemma2, capped": step("gemma2"),
    "gemma3, two masks": step("gemma3_text-varied"),
    "olmo2": step("olmo2"),
    "gpt2, dropouts": step("gpt2-varied", {"n_layer": 2}),
    "gpt_neox": step("gpt_neox"),
    "gpt_neox, in sequence": step("gpt_neox-varied", {"num_hidden_layers": 2}),
    "opt": step("opt"),
    "opt, norms after": step("opt-varied", {"num_hidden_layers": 2, "word_embed_proj_dim": 32}),
    "mixtral": step("mixtral"),
    "qwen3_moe, a dense layer": step("qwen3_moe-varied", {"num_hidden_layers": 2}),
    # adapters
    "lora everywhere": step("llama", lora=EVERY),
    "lora in bfloat16": step("qwen2", lora=PLAIN),
    "lora on gate, one sample": step(
        "llama", lora=replace(EVERY, target_modules=("gate_proj",)), batch_size=1
    ),
    "lora on the last layer": step("qwen3", lora=replace(ATTENTION, layers_to_transform=(1,))),
    "lora on Conv1D": step("gpt2", lora=EVERY),
    "lora beside experts": step("mixtral", lora=ATTENTION, checkpointing=True),
    "lora on attention, checkpointing": step("llama", lora=ATTENTION, checkpointing=True),
    "lora before dropout, checkpointing": step(
        "gpt2-varied", {"n_layer": 2}, lora=EVERY, checkpointing=True
    ),
    "saved modules": step(
        "llama", lora=replace(ATTENTION, modules_to_save=("lm_head", "embed_tokens"))
    ),
    # a base in 4 bit
    "qlora": step("llama", lora=EVERY, quantization=NF4),
    "qlora, scales as they are": step("phi3", lora=EVERY, quantization=SIMPLE, checkpointing=True),
    "qlora, kbit": step("gpt_neox", lora=EVERY, quantization=KBIT, checkpointing=True),
    "qlora on attention, checkpointing": step(
        "llama", lora=ATTENTION, quantization=NF4, checkpointing=True
    ),
    "qlora, experts in 4 bit": step(
        "mixtral", lora=ATTENTION, quantization=Quantization(quantize_experts=True)
    ),
    "qlora, kbit, a buffer": step("gemma2", lora=EVERY, quantization=KBIT),
    "qlora, trl": step("opt", lora=EVERY, quantization=TRL),
    "qlora, autocast": step("qwen2", lora=EVERY, quantization=NF4, precision="amp"),
    # precision
    "autocast": step("llama", **AMP),
    "autocast, lora": step("gemma", lora=EVERY, precision="amp", checkpointing=True),
    "autocast, lora on attention, checkpointing": step(
        "llama", lora=ATTENTION, checkpointing=True, **AMP
    ),
    "autocast to float16": step("llama", lora=EVERY, dtype="bfloat16", precision="amp-float16"),
    "autocast, layer norms": step("gpt2", checkpointing=True, **AMP),
    "float16": step("olmo2", dtype="float16", lora=EVERY),
    # attention
    "float32, math": step("llama", lora=ATTENTION, dtype="float32"),
    "float32, efficient": step("gpt_neox", dtype="float32", checkpointing=True),
    "math in bfloat16": step("qwen3", attention="math"),
    "flash, padded heads": step("llama", {"head_dim": 12}, lora=EVERY, checkpointing=True),
    "efficient, grouped heads": step("llama", attention="efficient"),
    "cudnn": on(step("gpt_neox", lora=EVERY, checkpointing=True), capability=90),
    "cudnn, grouped heads": on(step("llama", lora=ATTENTION), capability=90),
    "cudnn, windows": on(step("gemma3_text-varied"), capability=100),
    "math on sm_75": on(step("llama", lora=ATTENTION, checkpointing=True), capability=75),
    "eager": step(
        "mistral-varied", {"num_hidden_layers": 2}, attention="eager", checkpointing=True
    ),
    "eager, float16": step("qwen2", attention="eager", dtype="float16", checkpointing=True),
    "eager, autocast to float16": step(
        "gpt2", attention="eager", dtype="float32", precision="amp-float16"
    ),
    "eager, autocast": step("gpt2", attention="eager", lora=EVERY, **AMP),
    # packed and padded rows, and Liger's kernels
    "packed": step("qwen2", packed=10),
    "packed, windows": step("gemma3_text-varied", packed=10, lora=PLAIN, checkpointing=True),
    "packed, told of sequences": step("mistral-varied", packed=10, attention="flash", lora=EVERY),
    "packed, eager": step("gpt2", packed=10, attention="eager"),
    "padded": step("qwen2", padding=0.2, lora=PLAIN, checkpointing=True),
    "padded, windows": step("gemma3_text-varied", padding=0.2),
    "padded, one sample": step("llama", padding=0.2, batch_size=1),
    "padded, eager": step("gpt2", padding=0.2, attention="eager"),
    "padded, positions of the mask": step("opt", padding=0.2),
    "liger": step("llama", kernels="liger"),
    "liger, lora on q, checkpointing": step(
        "qwen3",
        kernels="liger",
        lora=LoraConfig(r=4, target_modules=("q_proj",)),
        checkpointing=True,
    ),
    "liger, eager, packed": step(
        "qwen2", kernels="liger", attention="eager", lora=EVERY, packed=10
    ),
    "liger, autocast": step(
        "mistral", kernels="liger", lora=EVERY, quantization=NF4, precision="amp", loss="fused"
    ),
    # the rest
    "checkpointing": step("gemma2", checkpointing=True),
    "accumulation": step("qwen2", accumulation=3, lora=None),
}


@pytest.mark.grid
@pytest.mark.parametrize("name", CASES)
def test_kernels_are_those_of_the_trace(name: str) -> None:
    counted = counted_kernels(CASES[name])
    mine, (real, tokens, trainable) = by_kernel(counted), truth.traced_kernels(CASES[name])
    assert {"too few": real - mine, "too many": mine - real} == {
        "too few": Counter(),
        "too many": Counter(),
    }
    assert (counted.tokens, counted.trainable) == (tokens, trainable)


@pytest.mark.grid
@pytest.mark.parametrize("lora", [None, PLAIN], ids=["full", "lora"])
def test_a_loss_in_parts_launches_and_moves_what_its_stand_in_does(lora: LoraConfig | None) -> None:
    """All but what is as large as a token's label, and parts of unequal length."""
    changes = {"vocab_size": 4000}
    workload = step("llama", changes, seq_len=300, attention="flash", loss="torchtune", lora=lora)
    counted, traced = counted_kernels(workload), step_kernels(workload)
    assert counted.launches == pytest.approx(traced.launches, rel=0.04)
    moved, flops = (
        [sum(k.count * each(k) for k in s.kernels) for s in (counted, traced)]
        for each in (attrgetter("moved_bytes"), attrgetter("flops"))
    )
    assert moved[0] == pytest.approx(moved[1], rel=0.02)
    assert flops[0] == pytest.approx(flops[1], rel=0.005)


@pytest.mark.grid
@pytest.mark.parametrize("quantization", [None, NF4], ids=["lora", "qlora"])
def test_the_reference_of_dpo_is_a_forward_pass_without_adapters(
    quantization: Quantization | None,
) -> None:
    """Which a trace of full training begins with, where the base is not in 4 bit."""
    asked = [
        step("llama", lora=PLAIN, quantization=quantization, loop_state=loop)
        for loop in ("trl", "trl-dpo")
    ]
    alone, with_reference = (by_kernel(counted_kernels(workload)) for workload in asked)
    base = step_kernels(step("llama")).kernels
    ahead = [k for k in base if k.phase == "forward"]
    reference = with_reference - alone
    assert alone - with_reference == Counter()
    if quantization is None:
        assert reference == by_kernel(counted_kernels(step("llama"))._replace(kernels=tuple(ahead)))
    flops = sum(k.count * k.flops for k in ahead)
    assert sum(count * one[5] for one, count in reference.items()) == flops
    without, beside, whole = (predict(w).flops for w in (*asked, step("llama")))
    assert without is not None and beside is not None and whole is not None
    assert beside.forward - without.forward == whole.forward  # which torch's counter agrees with
    assert beside.backward == without.backward


def test_a_deep_model_has_its_layers_under_one_name_and_takes_as_long() -> None:
    workload = step("llama", {"num_hidden_layers": 9}, lora=EVERY)
    counted, traced = counted_kernels(workload), step_kernels(workload)
    assert by_kernel(counted) == by_kernel(traced) and counted.launches == traced.launches
    products = [
        Counter({k.module: k.count for k in s.kernels if k.kind == "gemm"})
        for s in (counted, traced)
    ]
    assert products[0] == products[1]
    card = find_gpu("a100_sxm_80gb")
    times = [predict_step_time(s, card, workload.setup) for s in (counted, traced)]
    assert times[0] is not None
    assert times[0].seconds == pytest.approx(times[1].seconds if times[1] else 0, rel=1e-12)


@pytest.mark.parametrize(
    ("workload", "why"),
    [
        (step("llama", device="cpu"), "device cpu"),
        (
            step(
                "llama",
                {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            ),
            "rotary",
        ),
        (step("mixtral", lora=LoraConfig(r=4)), "something else than a linear layer"),
        (step("opt", {"layerdrop": 0.1}), "layerdrop"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_rule_is_refused(workload: Workload, why: str) -> None:
    with pytest.raises(UncountedError, match=why):
        counted_kernels(workload)


@st.composite
def llamas(draw: st.DrawFn) -> dict[str, Any]:
    """Changes of a tiny Llama's sizes."""
    grouped = draw(st.integers(1, 3))
    heads = grouped * draw(st.integers(1, 4))
    hidden, width = 8 * draw(st.integers(1, 20)), 2 * draw(st.integers(1, 32))
    assume(hidden % heads == 0 or width != hidden // heads)  # what no config may say
    return {
        "hidden_size": hidden,
        "intermediate_size": draw(st.integers(1, 300)),
        "num_attention_heads": heads,
        "num_key_value_heads": heads // grouped,
        "head_dim": width,
        "vocab_size": draw(st.integers(3, 500)),
        "num_hidden_layers": draw(st.integers(1, 6)),
    }


SETUPS = st.builds(
    TrainSetup,
    lora=st.one_of(
        st.none(),
        st.builds(LoraConfig, r=st.integers(1, 64), lora_dropout=st.sampled_from((0.0, 0.1))),
    ),
    batch_size=st.integers(2, 9),
    seq_len=st.integers(2, 200),
    checkpointing=st.booleans(),
    attention=st.sampled_from(("auto", "eager", "math", "efficient")),
)


@given(llamas(), SETUPS)
def test_every_layer_more_is_as_much_more(sizes: dict[str, Any], setup: TrainSetup) -> None:
    def at(layers: int) -> Counter[tuple[Any, ...]]:
        return by_kernel(
            counted_kernels(
                Workload(model=spec("llama", **sizes | {"num_hidden_layers": layers}), setup=setup)
            )
        )

    two, three, seven = at(2), at(3), at(7)
    assert seven == Counter({one: two[one] + 5 * (three[one] - two[one]) for one in {*two, *three}})


@given(llamas(), SETUPS, st.integers(2, 9))
def test_launches_do_not_depend_on_the_batch_and_flops_grow_with_it(
    sizes: dict[str, Any], setup: TrainSetup, batch: int
) -> None:
    model = spec("llama", **sizes)
    first, second = (
        counted_kernels(Workload(model=model, setup=replace(setup, batch_size=b)))
        for b in (setup.batch_size, batch)
    )
    assert first.launches == second.launches
    flops = [sum(k.count * k.flops for k in s.kernels) for s in (first, second)]
    assert flops[0] * batch == flops[1] * setup.batch_size


@given(llamas(), SETUPS)
def test_flops_are_those_of_the_prediction(sizes: dict[str, Any], setup: TrainSetup) -> None:
    """The prediction counts attention in full, a fused kernel's causal half is counted here."""
    workload = Workload(model=spec("llama", **sizes), setup=setup)
    expected = predict(workload).flops
    assert expected is not None

    def flops(phase: str) -> int:
        def of(k: Kernel) -> int:
            return k.count * k.flops * (2 if k.kind.startswith("attention") else 1)

        return sum(of(k) for k in counted_kernels(workload).kernels if k.phase == phase)

    assert [flops(phase) for phase in ("forward", "backward", "recompute")] == [
        expected.forward,
        expected.backward,
        expected.recompute,
    ]


@pytest.mark.parametrize("sharding", ["ddp", "zero1", "fsdp"])
@pytest.mark.parametrize("lora", [None, LoraConfig()])
def test_a_rank_runs_the_kernels_of_a_process_alone_and_updates_its_share_once(
    sharding: Sharding, lora: LoraConfig | None
) -> None:
    model = find_model("Qwen/Qwen2.5-0.5B")
    alone = Workload(model=model, setup=TrainSetup(lora=lora, seq_len=64))
    shared = replace(alone, setup=replace(alone.setup, world_size=4, sharding=sharding))
    one, rank = counted_kernels(alone), counted_kernels(shared)
    assert one == rank
    whole, own = (update_bytes(w.setup, k.trainable) for w, k in ((alone, one), (shared, rank)))
    assert whole is not None
    assert own == (whole if sharding == "ddp" else whole // 4)


def test_kernels_that_differ_in_place_alone_are_weighed_together() -> None:
    setup = TrainSetup(lora=LoraConfig(r=8), checkpointing=True, seq_len=64)
    workload = Workload(model=find_model("Qwen/Qwen2.5-0.5B"), setup=setup)
    whole = counted_kernels(workload)
    lumps = whole._replace(kernels=lumped(whole.kernels))
    assert len(lumps.kernels) < len(whole.kernels) and lumps.launches == whole.launches
    one, other = (predict_step_time(k, find_gpu("t4"), setup) for k in (whole, lumps))
    assert one == other
