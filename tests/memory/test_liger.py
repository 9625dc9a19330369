"""Liger-Kernel's norms, MLP and rotary embedding: stand-ins that train as transformers' own do, and
rules of what they keep.

The truths are transformers' layers for the numbers, and fresh traces and real CPU steps with the
stand-ins for the memory.
"""

from dataclasses import replace

import pytest
import torch

import cases
import oracle
import seeing
import truth
from agreement import as_the_trace, totals
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.measuring.harness.preflight import refuse
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.memory.analytic import predict
from lora_profiler.planning.engine import engines_for
from lora_profiler.planning.engine import predict as predict_by
from lora_profiler.question.kernel_set import kernel_set
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.report.setup_words import training_line
from lora_profiler.trace import compile_profile
from lora_profiler.trace.modeling import attention_context, forward_loss
from lora_profiler.trace.single_size import predict_once

LORA = LoraConfig(r=4)
BASE = TrainSetup(batch_size=2, seq_len=40, kernels="liger")
NAMES = ("llama", "mistral", "qwen2", "qwen3")
_LLAMA = cases.CONFIGS["llama"]
_SMOLLM3 = {
    **_LLAMA,
    "model_type": "smollm3",
    "architectures": ["SmolLM3ForCausalLM"],
    "no_rope_layers": [1] * _LLAMA["num_hidden_layers"],
    "pad_token_id": 0,
}
TRACED = {"smollm3": _SMOLLM3, "gemma3": seeing.TINY["gemma3"]}
"""Types without a program: traces alone know them."""
_TEXT = {**TRACED["gemma3"]["text_config"], "architectures": ["Gemma3ForCausalLM"]}
CONFIGS = {**{n: cases.CONFIGS[n] for n in NAMES}, "smollm3": _SMOLLM3, "gemma3": _TEXT}


def tiny(name: str, setup: TrainSetup = BASE) -> Workload:
    return Workload(model=cases.spec_of(name), setup=setup)


# --- the numbers ----------------------------------------------------------------------------------


def trained(model: torch.nn.Module, setup: TrainSetup) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    batch = oracle.make_batch(model, setup)
    with attention_context(setup):
        loss = forward_loss(model, setup, batch)
        loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.grid
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_are_those_of_transformers(
    name: str, checkpointing: bool, dtype: str
) -> None:
    setup = replace(BASE, device="cpu", dtype=dtype, checkpointing=checkpointing, packed=16)  # type: ignore[arg-type]
    found, plain = (
        oracle.build(CONFIGS[name], replace(setup, kernels=k)) for k in ("liger", "transformers")
    )
    plain.load_state_dict(found.state_dict())
    loss, gradients = trained(found, setup)
    truth, real = trained(plain, replace(setup, kernels="transformers"))
    error = 1e-5 if dtype == "float32" else 0.03
    assert loss == pytest.approx(truth, rel=error)
    assert gradients.keys() == real.keys()
    for parameter, gradient in real.items():
        assert (gradients[parameter] - gradient).norm() <= error * gradient.norm() + 1e-6, parameter


def test_outside_of_the_context_models_rotate_as_before() -> None:
    from transformers.models.llama import modeling_llama

    before = modeling_llama.apply_rotary_pos_emb
    with attention_context(BASE):
        assert modeling_llama.apply_rotary_pos_emb is not before
    assert modeling_llama.apply_rotary_pos_emb is before


# --- memory, FLOPs --------------------------------------------------------------------------------

SETUPS = [
    replace(BASE, batch_size=1),
    replace(BASE, lora=LORA, checkpointing=True),
    replace(BASE, lora=replace(LORA, lora_dropout=0.1), attention="eager"),
    replace(BASE, lora=LORA, dtype="float32", precision="amp"),
    replace(BASE, lora=LORA, quantization=Quantization(recipe="kbit"), checkpointing=True),
    replace(BASE, lora=LoraConfig(r=4, target_modules=("q_proj", "v_proj")), loss="fused"),
    replace(BASE, packed=16, attention="flash"),
    replace(BASE, lora=LoraConfig(r=4, target_modules=("q_proj",)), attention="eager"),
]


@pytest.mark.grid
@pytest.mark.parametrize("place", range(len(SETUPS)))
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_exact_moments_are_those_of_the_trace(name: str, place: int) -> None:
    as_the_trace(name, SETUPS[place])


@pytest.mark.parametrize(
    "setup",
    [BASE, replace(BASE, lora=LORA), replace(BASE, checkpointing=True)],
    ids=["full", "lora", "checkpointing"],
)
def test_peaks_inside_a_layer_are_those_of_the_trace(setup: TrainSetup) -> None:
    """Of few words, so that the peak is in a layer's backward: there gradients are written over
    what they are gradients of."""
    config = {**cases.CONFIGS["llama"], "vocab_size": 32, "intermediate_size": 400}
    setup = replace(setup, batch_size=4, seq_len=64, optimizer_impl="fused")
    workload = Workload(model=model_from_config(config, id="few words", source="test"), setup=setup)
    mine, real = predict(workload), predict_once(workload)
    assert mine.peak.moment == real.peak.moment in ("last_layer_backward", "first_layer_backward")
    assert mine.peak.total_bytes == pytest.approx(real.peak.total_bytes, abs=16)


@pytest.mark.parametrize(
    ("name", "setup"),
    [
        ("llama", BASE),
        ("qwen2", replace(BASE, lora=LORA)),
        ("qwen3", replace(BASE, lora=LORA, checkpointing=True)),
    ],
)
def test_real_steps(name: str, setup: TrainSetup) -> None:
    """To the byte where no stand-in runs: at the end of forward, in the optimizer step, and what
    autograd keeps."""
    setup = replace(setup, device="cpu", dtype="float32", optimizer_impl="fused", seq_len=100)
    config = {**cases.CONFIGS[name], "vocab_size": 4001}
    prediction = predict(
        Workload(model=model_from_config(dict(config), id=name, source="test"), setup=setup)
    )
    assert prediction.saved_activation_bytes == truth.saved_bytes(config, setup)
    real = truth.peaks(config, setup)
    assert totals(prediction)["end_of_forward"] == real[2, "forward"]
    assert totals(prediction)["loss_backward"] == real[2, "backward"]
    assert totals(prediction)["optimizer_step"] == real[2, "optimizer"]


def test_what_a_layer_keeps_by_hand() -> None:
    """Two norms keep 4 bytes a feature less each, beside what their weights kept, and the MLP one
    of its three products."""
    model = find_model("meta-llama/Llama-3.1-8B", offline=True)
    setup = TrainSetup(lora=LoraConfig(target_modules=("q_proj",)))
    plain, liger = (
        predict(Workload(model=model, setup=replace(setup, kernels=k)))
        for k in ("transformers", "liger")
    )  # type: ignore[arg-type]
    assert plain.saved_activation_bytes and liger.saved_activation_bytes
    tokens, layers = 2048, 32
    width, inner = model.config["hidden_size"], model.config["intermediate_size"]
    narrower = 2 * tokens * width  # x in 16 bit instead of 32
    norms = 2 * layers * narrower  # the first layer's first norm keeps nothing, the last as much
    fewer = norms + layers * 2 * tokens * inner
    assert plain.saved_activation_bytes - liger.saved_activation_bytes == fewer


def test_smollm3_is_llama_where_each_layer_rotates() -> None:
    setup = replace(BASE, lora=LORA, device="cuda")
    mine, llama = (truth.traced(config, setup) for config in (_SMOLLM3, _LLAMA))
    assert (mine.moments, mine.peak_bytes) == (llama.moments, llama.peak_bytes)
    assert mine.saved_activation_bytes == llama.saved_activation_bytes


@pytest.mark.usefixtures("no_estimates")
@pytest.mark.parametrize(
    ("setup", "engine"),
    [
        (BASE, "traced"),
        (replace(BASE, kernels="transformers", lora=replace(LORA, lora_kernels="axolotl")), "auto"),
    ],
    ids=["Liger", "axolotl"],
)
def test_kernels_in_layers_that_no_rule_describes_are_traced(
    setup: TrainSetup, engine: str
) -> None:
    """axolotl's into a profile, which answers other sizes too."""
    model = model_from_config(_SMOLLM3, id="tiny", source="test")
    workload = Workload(model=model, setup=replace(setup, device="cuda"))
    assert engines_for([workload]) == [engine]
    assert engines_for([workload], may_trace=False) == ["auto"]
    assert predict_by(workload).saved_activation_bytes


def test_what_a_gemma_3_keeps_by_hand() -> None:
    """In float32, without a norm's x / rms(x) and 1 + weight, and one of the MLP's three
    products. A layer has four norms of its input's width, one of queries and one of keys."""
    setup = replace(BASE, device="cuda", dtype="float32")
    plain, liger = (
        truth.traced(TRACED["gemma3"], replace(setup, kernels=k)).saved_activation_bytes
        for k in ("transformers", "liger")
    )  # type: ignore[arg-type]
    tokens, layers, width, head_dim, inner = 2 * 40, 2, 48, 16, 112
    norm = 4 * width * (tokens + 1)
    of_heads = 4 * head_dim * (tokens * (4 + 2) + 2)
    assert plain - liger == layers * (4 * norm + of_heads + 4 * tokens * inner) + norm


# --- what is refused, what is said ----------------------------------------------------------------


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(UsageError, match="not of gemma2"):
        predict_by(tiny("gemma2"))
    gelu = replace(
        tiny("llama"), model=oracle._spec({**cases.CONFIGS["llama"], "hidden_act": "gelu"})
    )
    with pytest.raises(UsageError, match="SwiGLU"):
        predict_by(gelu)
    with pytest.raises(UsageError, match="tensor parallelism"):
        predict_by(tiny("llama", replace(BASE, world_size=2, sharding="tp")))
    with pytest.raises(UsageError, match="not run"):
        refuse(tiny("llama"), Conditions())
    with pytest.raises(UsageError, match="no profile is of fused kernels"):
        compile_profile(tiny("llama"))


def test_it_is_said() -> None:
    assert {*NAMES, *TRACED} == set(kernel_set("liger").types)
    assert training_line(BASE).endswith(", liger kernels")


def test_kernels_of_stand_ins_alone_are_an_estimate_that_says_so() -> None:
    traced = model_from_config(_SMOLLM3, id="tiny", source="test")
    for model, is_ruled in ((traced, False), (find_model("Qwen/Qwen3-0.6B", offline=True), True)):
        setup = replace(BASE, lora=LORA, device="cuda")
        answer = predict_by(Workload(model=model, setup=setup))
        said = any("stand-ins" in words for words in answer.assumptions)
        assert (answer.exactness == "estimate", said) == (not is_ruled, not is_ruled)
