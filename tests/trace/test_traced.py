"""A traced step against the same step really taken on the CPU, whose allocator torch's profiler
records: every phase's peak.

In float32 the overall peak is equal to the byte. Where all tensors have one dtype, and under
autocast, it is within 0.05 % and each phase within 0.1 %. What is missing are 12 to 16 bytes of
scalars in an optimizer step and scratch in kernels. With adapters in float32 on a 16-bit base the
CPU makes copies that no operator returns and no GPU makes, so that the real peak lies above, by 10
% at most.

The vocabulary makes the loss the largest moment of most cases; `test_layers_alone` takes it away.
There only float32 can be compared closely: matrix products of 16 bit take up to 137 KB of scratch
from oneDNN, `test_scratch` says.
"""

import gc
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import flop_registry

import cases
import oracle
import truth
from lora_profiler.errors import UnbuildableError
from lora_profiler.memory.analytic import predict
from lora_profiler.question.workload import Quantization, TrainSetup
from lora_profiler.trace.modeling import build_model
from lora_profiler.trace.run import trace
from lora_profiler.trace.tracer import _FLOPS
from tracing import (
    ALL,
    BASE,
    GROUPED,
    SETUPS,
    VOCABULARY,
    Config,
    alive_before_the_second_step,
    config_of,
    peaks_of,
    setup_of,
    traced_of,
    workload_of,
)


@pytest.fixture(scope="module", autouse=True)
def few_objects() -> Iterator[None]:
    """The oracle collects garbage before each run; what the libraries made at import is not to be
    looked through every time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


OF_LLAMA = ("full", "lora", "half lora", "amp lora checkpointed")
MATRIX: dict[str, tuple[str, ...]] = {
    "llama": (*OF_LLAMA, "8 bit", "8 bit half", "adafactor", "qlora", "qlora trl"),
    "mistral": ("fused", "qlora kbit"),
    "qwen2": ("full checkpointed", "half", "lora dropout accumulated"),
    "qwen3": ("forloop", "half lora checkpointed", "amp", "qlora plain checkpointed"),
    "phi3": ("lora checkpointed", "amp checkpointed"),
    "gemma": ("full", "half checkpointed", "sgd fused"),
    "gemma2": ("lora", "amp"),
    "gemma3_text": ("lora checkpointed", "half", "amp lora"),
    "olmo2": ("eager", "half lora"),
    "gpt2": ("full", "lora", "eager", "amp", "amp eager", "qlora", "qlora kbit"),
    "gpt_neox": ("full", "lora dropout accumulated", "amp lora checkpointed", "qlora"),
    "opt": ("lora", "half", "fused", "amp", "qlora kbit"),
    "mixtral": ("full", "half checkpointed", "amp lora", "8 bit", "qlora experts"),
    "qwen3_moe": ("lora checkpointed", "amp checkpointed"),
    "bloom": ("full", "half"),
    "falcon": ("lora", "half"),
    "cohere": ("full checkpointed", "amp"),
    "stablelm": ("lora", "half lora"),
    "starcoder2": ("full", "amp lora checkpointed"),
    "granite": ("half",),
    "phi": ("lora checkpointed", "amp"),
    "glm": ("full",),
    "smollm3": ("half lora checkpointed",),
    "gptj": ("lora", "amp"),
    "gpt_bigcode": ("full", "half"),
    "mpt": ("full",),
    "gpt_oss": ("full checkpointed",),
    "olmoe": ("lora",),
    "deepseek_v3": ("full", "amp"),
    "t5": ("full", "lora checkpointed", "half"),
    "bart": ("full", "half"),
    "whisper": ("full", "lora checkpointed", "amp"),
    "bert": ("full", "half lora"),
    "gemma3": ("lora checkpointed", "amp"),
}
CASES = [(name, setup) for name, setups in MATRIX.items() for setup in setups]


def real_peaks(config: Config, setup: TrainSetup) -> oracle.Peaks:
    return truth.peaks(config, setup)


def close(found: oracle.Peaks, real: oracle.Peaks, steps: tuple[int, ...] = (1, 2)) -> None:
    wrong = {}
    for step in steps:
        for phase in (*oracle.PHASES, "step"):
            bound = 0.0005 if phase == "step" else 0.001
            if abs(found[step, phase] / real[step, phase] - 1) > bound:
                wrong[step, phase] = (found[step, phase], real[step, phase])
    assert not wrong, wrong


# --- against real steps ---------------------------------------------------------------------------


def test_there_is_enough():
    assert len(CASES) >= 60
    assert len(MATRIX) >= 15
    assert {kind for _, kind in CASES} == set(SETUPS)


@pytest.mark.grid
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_real_steps(name, kind):
    config, setup = config_of(name), setup_of(name, kind)
    close(peaks_of(traced_of(config, setup).trace), real_peaks(config, setup))


HYBRID = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
MAMBA = {
    "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16,
    "mamba_chunk_size": 16,
}  # fmt: skip
HYBRIDS: dict[str, Config] = {
    "recurrent_gemma": {"num_key_value_heads": 1, "head_dim": 16, "lru_width": 64,
        "block_types": ["recurrent", "recurrent", "attention"]},
    "lfm2": {"layer_types": ["conv", "conv", "full_attention"]},
    "bamba": MAMBA | {"attn_layer_indices": [1]},
    "falcon_h1": MAMBA | {"head_dim": 16, "mamba_d_ssm": 128},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1, "state_size": 16, "chunk_size": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4,
        "use_mamba_kernels": False},
}  # fmt: skip


@pytest.mark.grid
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("name", HYBRIDS)
def test_checkpoints_of_recurrent_layers_are_equal(name: str, method: str) -> None:
    """Each keeps one state of the generator, however many tokens its recurrence walks over."""
    lora = replace(ALL, target_modules=("q_proj", "k_proj", "v_proj")) if method == "lora" else None
    if name == "mamba2":
        lora = lora and replace(ALL, target_modules=("in_proj",))
    config = {"model_type": name} | HYBRID | HYBRIDS[name]
    setup = replace(BASE, seq_len=33, checkpointing=True, lora=lora, optimizer="sgd")
    real = oracle.step_peaks(oracle.build(config, setup), setup)
    assert peaks_of(traced_of(config, setup).trace)[2, "step"] == real[2, "step"]


EQUAL = [
    ("llama", "lora"), ("llama", "lora checkpointed"), ("gpt2", "full"), ("opt", "lora"),
    ("bloom", "full"), ("granite", "eager"), ("phi", "lora checkpointed"), ("gemma2", "lora"),
    ("bert", "eager"), ("t5", "full"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), EQUAL)
def test_peaks_are_equal_with_the_numbers_that_products_scale_by(name, kind):
    """8 bytes each, which autograd keeps on the CPU: one an adapted module, and of attention and
    activations in Python."""
    config, setup = config_of(name), setup_of(name, kind)
    assert (
        peaks_of(traced_of(config, setup).trace)[2, "step"] == real_peaks(config, setup)[2, "step"]
    )


LAYERS_ALONE = [
    ("llama", "full"), ("llama", "qlora"), ("gpt2", "qlora plain checkpointed"),
    ("gpt2", "lora checkpointed"), ("gemma3_text", "full checkpointed"), ("opt", "eager"),
    ("mixtral", "lora dropout accumulated"), ("qwen3_moe", "full"), ("falcon", "full"),
    ("deepseek_v3", "lora"), ("t5", "full"),
]  # fmt: skip


@pytest.mark.grid
@pytest.mark.parametrize(("name", "kind"), LAYERS_ALONE)
def test_layers_alone(name, kind):
    """32 words, so that no moment is the loss's. A LoRA step is so small then that 8 bytes a module
    are 0.02 %."""
    config, setup = config_of(name, vocab_size=32), setup_of(name, kind)
    close(peaks_of(traced_of(config, setup).trace), real_peaks(config, setup))


SCRATCH = 160_000


@pytest.mark.parametrize(
    ("name", "kind"), [("gpt2", "half"), ("llama", "amp lora checkpointed"), ("opt", "half lora")]
)
def test_scratch(name, kind):
    """16-bit products on the CPU: what is missing is scratch that oneDNN takes and gives back
    within one operator."""
    config, setup = config_of(name, vocab_size=32), setup_of(name, kind)
    found, real = peaks_of(traced_of(config, setup).trace), real_peaks(config, setup)
    assert all(0 <= real[at] - found[at] < SCRATCH for at in real), (found, real)


MIXED = [
    ("llama", False), ("llama", True), ("gpt2", False), ("gemma3_text", True), ("opt", False),
    ("qwen3", False), ("phi3", True),
]  # fmt: skip


def mixed(checkpointing: bool) -> TrainSetup:
    return replace(BASE, dtype="bfloat16", lora=ALL, checkpointing=checkpointing)


@pytest.mark.grid
@pytest.mark.parametrize(("name", "checkpointing"), MIXED)
def test_promotion_copies(name, checkpointing):
    """float32 adapters on a bfloat16 base: never above the real peak, at most 10 % below."""
    config, setup = config_of(name), mixed(checkpointing)
    found, real = peaks_of(traced_of(config, setup).trace), real_peaks(config, setup)
    assert all(0.9 * real[at] <= found[at] <= real[at] for at in real), (found, real)


WIDEST = {"llama": 112, "gemma3_text": 112, "phi3": 224, "gpt2": 192}
UNSEEN = 200
"""Scalars of a step."""


@pytest.mark.grid
@pytest.mark.parametrize(
    ("name", "checkpointing"),
    [("llama", True), ("gemma3_text", True), ("phi3", True), ("llama", False)],
)
def test_promotion_copies_are_all_that_is_missing(name, checkpointing):
    """Without a large loss they are up to 19 % of these toys, and never more than the widest
    adapted output in float32."""
    config, setup = config_of(name, vocab_size=32), mixed(checkpointing)
    found, real = peaks_of(traced_of(config, setup).trace), real_peaks(config, setup)
    copy = setup.batch_size * setup.seq_len * WIDEST[name] * 4
    assert all(0 <= real[at] - found[at] <= copy + UNSEEN for at in real), (found, real)


def test_promotion_copies_under_autocast():
    """BART adds a float32 buffer to logits of 16 bit, of which the CPU makes a float32 copy
    first."""
    config, setup = config_of("bart"), SETUPS["amp lora"]
    found, real = peaks_of(traced_of(config, setup).trace), real_peaks(config, setup)
    assert real[2, "forward"] - found[2, "forward"] == pytest.approx(
        setup.batch_size * setup.seq_len * VOCABULARY * 2, rel=0.01
    )
    assert all(0.9 * real[at] <= found[at] <= real[at] for at in real), (found, real)


@pytest.mark.grid
@pytest.mark.parametrize("name", ["gpt2", "opt"])
@pytest.mark.parametrize("precision", ["pure", "amp"])
def test_biases_of_a_prepared_4_bit_base(name, precision):
    """PEFT makes them float32, the first forward pass 16-bit again. The record cannot tell of the
    death of what was there before it began, so the real model takes a forward pass before; second
    steps are compared."""
    base = Quantization(recipe="kbit")
    setup = replace(BASE, dtype="bfloat16", precision=precision, lora=ALL, quantization=base)
    config = config_of(name)
    model = oracle.build(config, setup)
    with torch.no_grad():
        oracle.forward(model, setup, oracle.make_batch(model, setup))
    close(peaks_of(traced_of(config, setup).trace), oracle.step_peaks(model, setup), steps=(2,))


PADDED = [
    ("llama", "full"), ("gpt2", "lora checkpointed"), ("gemma3_text", "half"), ("opt", "amp"),
    ("bart", "full"), ("t5", "full"), ("mixtral", "eager"), ("bert", "full"),
]  # fmt: skip


@pytest.mark.grid
@pytest.mark.parametrize(("name", "kind"), PADDED)
def test_padding(name, kind):
    config, setup = config_of(name), replace(setup_of(name, kind), padding=0.125)
    close(peaks_of(traced_of(config, setup).trace), real_peaks(config, setup))


@pytest.mark.parametrize("dropped", [{"attention_dropout": 0.1}, {}])
def test_masks_on_the_math_path(dropped):
    """Dropout in attention is for the math path alone, which adds the mask onto the scores."""
    config, setup = config_of("llama", vocab_size=32, **dropped), replace(BASE, padding=0.125)
    found = traced_of(config, setup)
    assert found.kernels == (("math",) if dropped else ("cpu",))
    close(peaks_of(found.trace), real_peaks(config, setup))


@pytest.mark.parametrize("name", cases.MIXTURES)
def test_packed_experts(name):
    """PEFT's wrapper adds the product of its factors to the weight in every forward pass."""
    config, setup = config_of(name), SETUPS["lora"]
    close(peaks_of(traced_of(config, setup).trace), real_peaks(config, setup))


OWNED = ("parameters", "adapters", "quantization_state", "optimizer_states")
EXPERTS = ("0.mlp.experts.gate_up_proj", "mlp.experts.down_proj")


@pytest.mark.parametrize("changes", [{}, {"checkpointing": True}, {"dtype": "bfloat16"}], ids=str)
def test_experts_of_gpt_oss_named_by_their_parameters(changes):
    """As its guides train it: attention, and packed experts of some layers."""
    lora = replace(ALL, target_parameters=EXPERTS)
    config, setup = config_of("gpt_oss"), replace(BASE, lora=lora, **changes)
    found = traced_of(config, setup).trace
    close(peaks_of(found), real_peaks(config, setup))
    assert {c: alive_before_the_second_step(found)[c] for c in OWNED} == {
        c: predict(workload_of(config, setup)).persistent_bytes[c] for c in OWNED
    }


# --- what belongs to whom -------------------------------------------------------------------------


@pytest.mark.grid
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "kind", ["full", "amp lora", "8 bit", "8 bit half", "fused", "qlora", "qlora kbit", "qlora trl"]
)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_owners(name, kind, device):
    workload = workload_of(config_of(name), replace(SETUPS[kind], device=device))
    found = alive_before_the_second_step(
        trace(workload, lambda w: build_model(w, device="meta")).trace
    )
    expected = predict(workload).persistent_bytes
    assert {c: found[c] for c in OWNED} == {c: expected[c] for c in OWNED}
    assert found["gradients"] == 0


@pytest.mark.parametrize("kernel", ["flash_attention", "efficient_attention", "cudnn_attention"])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_attention_whose_heads_share_keys_counts_as_torch_counts_with_keys_repeated(
    kernel, key_heads
):
    """torch 2.11's own formula refuses shared keys."""
    forward = getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}")
    backward = getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}_backward")
    query, out = torch.empty(2, 4, 7, 8, device="meta"), torch.empty(2, 4, 7, 16, device="meta")
    key, value = (torch.empty(2, 4, 9, width, device="meta") for width in (8, 16))
    shared = [each[:, :key_heads] for each in (key, value)]
    for function, first in ((forward, [query]), (backward, [out, query])):
        expected = flop_registry[function](*first, key, value, out_val=out)
        assert _FLOPS[function](*first, *shared, out_val=out) == expected


def test_every_birth_has_an_owner():
    found = traced_of(config_of("gpt2"), SETUPS["qlora kbit"]).trace
    assert not [b for b in found.births if b.category is None]


# --- what cannot be traced ------------------------------------------------------------------------


def test_what_asks_for_numbers_is_told_with_its_line():
    config = (
        {"model_type": "jetmoe"}
        | GROUPED
        | {"kv_channels": 12, "num_local_experts": 4, "num_experts_per_tok": 2}
    )
    with pytest.raises(
        UnbuildableError, match=r"transformers/models/jetmoe/modeling_jetmoe\.py:\d+ \(.*tolist\(\)"
    ):
        traced_of(config, BASE)


def test_what_needs_more_than_text_is_told_with_its_line():
    config = config_of("bert", architectures=["BertForNextSentencePrediction"])
    with pytest.raises(UnbuildableError, match=r"modeling_bert\.py:\d+"):
        traced_of(config, BASE)


def test_layers_left_out_at_random_are_all_there():
    plain = traced_of(config_of("bart", encoder_layerdrop=0.0, decoder_layerdrop=0.0), BASE)
    dropped = traced_of(config_of("bart", encoder_layerdrop=0.9, decoder_layerdrop=0.9), BASE)
    assert plain.trace.events == dropped.trace.events
