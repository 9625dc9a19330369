"""Losses of trainers, each by a stand-in that trains: rules against traces, and against real steps."""

from dataclasses import replace
from typing import Final, Literal

import pytest
import torch

import oracle
import tracing
import truth
from agreement import a_sweep_as_single_answers, exact_totals, same_step
from lora_profiler.facts.catalog import find_gpu, find_model, model_from_config
from lora_profiler.features.loops.unsloth import NEAREST
from lora_profiler.features.losses.trl import stand_in as trl_head
from lora_profiler.memory.analytic import predict
from lora_profiler.planning import engine
from lora_profiler.planning.engine import predict as predict_by_any
from lora_profiler.planning.setups import setup_for
from lora_profiler.planning.timing import step_time
from lora_profiler.question.support.losses import LogitScaling
from lora_profiler.question.workload import LoraConfig, Loss, Quantization, TrainSetup, Workload
from lora_profiler.trace.single_size import predict_once

BASE = TrainSetup(batch_size=2, seq_len=40)
LORA = LoraConfig(r=4)
SAVED = LoraConfig(r=4, modules_to_save=("lm_head",))
AMP = replace(BASE, dtype="float32", precision="amp")
SMOOTHED: Final = "smoothed"
"""The plain loss with label smoothing, beside the others."""
WIDE = 40_000
"""More words than one of TRL's tiles has."""
OWN: tuple[Loss, ...] = ("trl", "torchtune", "torchtune-chunked", "cce", "litgpt", "triton")
"""Trainers' own losses."""
WITH_KERNELS: tuple[Loss, ...] = ("cce", "triton")
"""Those whose stand-ins for kernels take scratch of their own on a CPU."""


def workload(name: str, setup: TrainSetup, vocab_size: int = WIDE) -> Workload:
    config = tracing.config_of(name, vocab_size=vocab_size)
    return Workload(model=model_from_config(config, id=name, source="test"), setup=setup)


def made_by(loss: Loss | Literal["smoothed"], setup: TrainSetup) -> TrainSetup:
    if loss == SMOOTHED:
        return replace(setup, label_smoothing_factor=0.1)
    return replace(setup, loss=loss)


def is_possible(loss: Loss | Literal["smoothed"], setup: TrainSetup) -> bool:
    """torchtune has no autocast, and cut cross-entropy no head in 32 bit."""
    if loss in ("torchtune", "torchtune-chunked"):
        return setup.precision == "pure"
    return loss != "cce" or setup.dtype == "bfloat16"


# --- rules against traces -------------------------------------------------------------------------

TRACED: list[tuple[str, TrainSetup]] = [
    ("llama", BASE),
    ("llama", replace(AMP, lora=SAVED, checkpointing=True)),
    ("qwen2", replace(BASE, lora=LORA, checkpointing=True, quantization=Quantization())),
    ("qwen2", replace(AMP, checkpointing=True)),
    ("gpt2", replace(AMP, lora=LORA, batch_size=1)),
    ("opt", replace(BASE, dtype="float32", hold_outputs=True)),
    ("llama", replace(BASE, lora=LORA, packed=17)),
    ("llama", replace(AMP, dtype="bfloat16", lora=LORA, packed=17, attention="flash")),
    ("llama", replace(BASE, lora=SAVED, batch_size=1, hold_outputs=True)),
]
CASES = [
    (place, loss)
    for place, (_, setup) in enumerate(TRACED)
    for loss in (*OWN, *([SMOOTHED] if place < len(TRACED) - 1 else []))
    if is_possible(loss, setup)
]


@pytest.mark.grid
@pytest.mark.parametrize(("place", "loss"), CASES)
def test_exact_moments_are_those_of_the_trace(place: int, loss: Loss | Literal["smoothed"]) -> None:
    name, setup = TRACED[place]
    asked = workload(name, made_by(loss, setup))
    mine, real = predict(asked), predict_once(asked)
    same_step(mine, real)
    assert mine.saved_activation_bytes == sum(c.saved_activation_bytes for c in mine.layers)


@pytest.mark.parametrize("tokens", [2048, 2050, 4100])
def test_trl_takes_no_more_tokens_at_once_than_a_tile_has(tokens: int) -> None:
    """2 x 2,048 are 4,094 labels, 2 x 2,050 two more than a tile's 4,096."""
    asked = workload("llama", replace(AMP, lora=LORA, seq_len=tokens, loss="trl"))
    assert exact_totals(predict(asked)) == exact_totals(predict_once(asked))


@pytest.mark.parametrize("rows", [41, 60, 150])
def test_trl_narrows_each_tile_of_a_wide_hidden_state(rows: int) -> None:
    """LayerNorm's output is float32 under autocast: the copy of a tile is there until that of the
    next one is made. Of 60 x 99 labels the second tile is the last, of 41 x 99 the only one."""
    setup = replace(AMP, dtype="bfloat16", lora=LORA, batch_size=rows, seq_len=100, loss="trl")
    asked = workload("gpt2", setup)
    assert exact_totals(predict(asked)) == exact_totals(predict_once(asked))


@pytest.mark.parametrize("setup", [AMP, replace(AMP, lora=LORA), replace(BASE, lora=LORA)])
def test_gradients_of_very_many_labels_are_put_among_those_of_none(setup: TrainSetup) -> None:
    """A row's last token has no label; both are there at once, and more than a tile is."""
    config = tracing.config_of("llama", vocab_size=WIDE, hidden_size=1024)
    model = model_from_config(config, id="wide", source="test")
    asked = Workload(model=model, setup=replace(setup, seq_len=60_000, loss="trl"))
    assert exact_totals(predict(asked)) == exact_totals(predict_once(asked))


PARTS: list[tuple[TrainSetup, int]] = [
    (replace(BASE, seq_len=300), 1001),  # words that no eighth of is a whole number
    (replace(BASE, seq_len=300, lora=SAVED, dtype="float32"), 96),  # a head smaller than a state
    (replace(BASE, seq_len=257, batch_size=1, lora=LORA), 1000),  # a last part without a label
    (replace(BASE, seq_len=100), 1000),
    (replace(AMP, seq_len=300, lora=LORA), 1000),
    (replace(AMP, seq_len=200, dtype="bfloat16", lora=SAVED), 100),
]


@pytest.mark.grid
@pytest.mark.parametrize("loss", OWN)
@pytest.mark.parametrize("place", range(len(PARTS)))
def test_parts_of_any_number_of_tokens(place: int, loss: Loss) -> None:
    setup, words = PARTS[place]
    if not is_possible(loss, setup):
        pytest.skip("not asked")
    asked = workload("llama", replace(setup, loss=loss), words)
    mine, real = predict(asked), predict_once(asked)
    same_step(mine, real)


# --- rules against real steps ---------------------------------------------------------------------

REAL = [
    ("llama", replace(BASE, dtype="float32")),
    ("qwen2", replace(BASE, lora=LORA, checkpointing=True)),
    ("gpt2", replace(AMP, lora=LORA)),
    ("llama", BASE),
]


@pytest.mark.grid
@pytest.mark.parametrize("loss", [*OWN, SMOOTHED])
@pytest.mark.parametrize(("name", "setup"), REAL)
def test_real_steps(name: str, setup: TrainSetup, loss: Loss | Literal["smoothed"]) -> None:
    """Under LoRA the peak is not in cut cross-entropy, but inside the layers: an estimate."""
    if not is_possible(loss, setup) or (loss == "cce" and setup.lora):
        pytest.skip("not asked")
    setup = made_by(loss, replace(setup, device="cpu", optimizer_impl="fused"))
    prediction = predict(workload(name, setup, 4001))
    config = tracing.config_of(name, vocab_size=4001)
    if loss in WITH_KERNELS:
        real = truth.tensor_peaks(config, setup)
        assert prediction.peak.total_bytes == pytest.approx(real[2, "step"], rel=5e-3)
        return
    real = truth.peaks_without_onednn(config, setup)
    assert prediction.peak.moment in ("end_of_forward", "loss_backward")
    assert prediction.peak.total_bytes == pytest.approx(real[2, "step"], rel=1e-3)


CAPPED = {"attn_logit_softcapping": None, "final_logit_softcapping": 30.0}


@pytest.mark.parametrize("lora", [None, LORA, SAVED])
def test_trl_caps_logits_in_its_tiles(lora: LoraConfig | None) -> None:
    """On a card by kernels; on a CPU a copy of the tile more in backward."""
    config = tracing.config_of("gemma2", vocab_size=4001, **CAPPED)
    model = model_from_config(config, id="gemma2", source="test")
    setup = replace(BASE, dtype="float32", lora=lora, loss="trl")
    asked = Workload(model=model, setup=setup)
    same_step(predict(asked), predict_once(asked))
    setup = replace(setup, device="cpu", optimizer_impl="fused", seq_len=300)
    prediction = predict(Workload(model=model, setup=setup))
    real = truth.peaks_without_onednn(config, setup)
    assert prediction.peak.moment == "loss_backward"
    assert prediction.peak.total_bytes == pytest.approx(real[2, "step"], rel=1e-3)


@pytest.mark.parametrize("scale", [{"logits_scaling": 4.0}, {"logits_scaling": 1.0}])
def test_a_loss_of_layers_without_rules_is_traced(scale: dict[str, float]) -> None:
    config = {**tracing.config_of("llama"), "model_type": "granite", **scale}
    config["architectures"] = ["GraniteForCausalLM"]
    model = model_from_config(config, id="granite", source="test")
    asked = Workload(model=model, setup=replace(AMP, lora=LORA, loss="trl"))
    prediction = predict_by_any(asked, "traced")
    assert prediction.engine == "traced"
    assert prediction.exactness == "estimate"
    assert "No rehearsal held TRL's head" in " ".join(prediction.assumptions)


def test_a_trace_of_an_int8_base_logs_no_line_a_product(caplog: pytest.LogCaptureFixture) -> None:
    """bitsandbytes warns of each input in bfloat16: 12,000 lines of one answer."""
    base = Quantization(quant_type="int8", double_quant=False)
    asked = workload("llama", replace(BASE, lora=LORA, quantization=base))
    assert predict_once(asked).peak.total_bytes
    assert "MatMul8bitLt" not in caplog.text


def test_unsloth_over_layers_without_rules_is_an_estimate_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With its own loss; without modules that tell the layers a trace knows TRL's."""
    config = {**tracing.config_of("llama"), "model_type": "granite", "logits_scaling": 4.0}
    config["architectures"] = ["GraniteForCausalLM"]
    model = model_from_config(config, id="granite", source="test")
    setup = setup_for(model, "unsloth", "qlora", batch_size=1, seq_len=40)
    asked = Workload(model=model, setup=setup)
    prediction = predict_by_any(asked)
    assert (prediction.engine, prediction.exactness) == ("analytic", "estimate")
    assert prediction.priced_as is None
    assert any("Unsloth's own code" in words for words in prediction.assumptions)
    assert not any("lower bound" in words for words in prediction.assumptions)
    assert prediction.workload.setup == setup
    monkeypatch.setattr(engine, "tells", lambda workload: False)
    nearest = engine.as_known(asked, "auto")
    assert nearest.setup.loss == "trl" and not nearest.setup.offload_checkpoints
    assert NEAREST in engine.common_assumptions(asked, nearest)


# --- the stand-ins --------------------------------------------------------------------------------

SCALINGS = [LogitScaling(), LogitScaling(scale=0.25), LogitScaling(scale=2.0, cap=3.0)]


def of_all_logits(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, scaling: LogitScaling
) -> torch.Tensor:
    logits = (hidden @ weight.T).float()[:, :-1].flatten(0, 1) * scaling.scale
    if scaling.cap:
        logits = scaling.cap * torch.tanh(logits / scaling.cap)
    return torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten())


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trl_s_kernels_stand_in_for_what_torch_computes_in_its_place(
    dtype: torch.dtype, scaling: LogitScaling
) -> None:
    """Tokens with a label alone, tiles changed where they lie: the same numbers."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 9, 8, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(50, 8, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, 50, (2, 9), generator=generator)
    labels[0, :4] = -100
    found = []
    for device in ("cpu", "cuda"):
        setup = replace(BASE, device=device, batch_size=2, seq_len=9)  # type: ignore[arg-type]
        hidden.grad = weight.grad = None
        loss = trl_head.scaled_loss(setup, hidden, weight, None, labels, scaling)
        loss.backward()  # type: ignore[no-untyped-call]
        assert hidden.grad is not None and weight.grad is not None
        found.append((loss, hidden.grad.clone(), weight.grad.clone()))
    for of_torch, of_kernels in zip(*found, strict=True):
        torch.testing.assert_close(of_torch, of_kernels)
    expected = of_all_logits(hidden, weight, labels, scaling)
    torch.testing.assert_close(found[0][0], expected, rtol=2e-3, atol=0)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_trl_s_head_is_the_one_that_trl_has(scaling: LogitScaling) -> None:
    """Loss and gradients of the function in the installed TRL, where there is one, and the most
    that each asks an allocator for."""
    kernels = pytest.importorskip("trl.kernels")
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 901, 8, generator=generator).requires_grad_()
    weight = torch.randn(5000, 8, generator=generator).requires_grad_()
    labels = torch.randint(0, 5000, (1, 901), generator=generator)
    setup = replace(BASE, device="cpu", batch_size=1, seq_len=901)

    def mine() -> torch.Tensor:
        return trl_head.scaled_loss(setup, hidden, weight, None, labels, scaling)

    def theirs() -> torch.Tensor:
        rows, targets = hidden[:, :-1].reshape(-1, 8), labels[:, 1:].reshape(-1)
        made = kernels.ChunkedLogProbFunction.apply(
            rows, weight, None, targets, 1.0, 32768, scaling.cap or None, scaling.scale
        )
        return -made[0].mean()

    found = []
    for loss in (mine, theirs):
        hidden.grad = weight.grad = None
        made, tracker = loss(), oracle.StorageTracker({})
        with tracker:
            made.backward()  # type: ignore[no-untyped-call]
        assert hidden.grad is not None and weight.grad is not None
        found.append((hidden.grad.clone(), weight.grad.clone(), tracker.peak))
    torch.testing.assert_close(found[0][:2], found[1][:2])
    assert found[0][2] == pytest.approx(found[1][2], rel=1e-3)


# --- planning -------------------------------------------------------------------------------------


@pytest.mark.grid
@pytest.mark.parametrize("packed", [None, 64])
@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("name", ["gpt2", "SmolLM2-135M"])
@pytest.mark.parametrize("loss", OWN)
def test_sweeps_are_many_predictions(
    loss: Loss, name: str, lora: LoraConfig | None, packed: int | None
) -> None:
    asked = Workload(
        model=find_model(name, offline=True), setup=TrainSetup(lora=lora, loss=loss, packed=packed)
    )
    a_sweep_as_single_answers(asked, [1, 2, 7, 16], [1, 5, 64, 100, 1000])


def test_label_smoothing_is_that_of_transformers() -> None:
    """A share of the loss is the mean over all words."""
    setup = replace(BASE, device="cpu", dtype="float32")
    model = oracle.build(tracing.config_of("llama"), setup)
    batch = oracle.make_batch(model, setup)
    plain = oracle.forward(model, setup, batch)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
        flat = -logits.log_softmax(-1).mean()
    found = oracle.forward(model, replace(setup, label_smoothing_factor=0.25), batch)
    torch.testing.assert_close(found, 0.75 * plain + 0.25 * flat)


def test_time_is_known() -> None:
    model = find_model("meta-llama/Llama-3.1-8B", offline=True)
    seconds = {}
    for loss in ("plain", "trl"):
        asked = Workload(model=model, setup=TrainSetup(loss=loss))  # type: ignore[arg-type]
        timing = step_time(asked, find_gpu("h100_sxm"))
        assert timing.step is not None
        seconds[loss] = timing.step.time.seconds
    assert 0.8 < seconds["trl"] / seconds["plain"] < 1.2


def test_what_it_costs_by_hand() -> None:
    """Llama 3.1 8B under LoRA, 8 x 1,024: a tile of 256 MiB, 28 bytes a token of sums, and the
    gradient of the hidden state in float32; nothing that grows with the vocabulary."""
    model = find_model("meta-llama/Llama-3.1-8B", offline=True)
    setup = TrainSetup(
        lora=LoraConfig(), batch_size=8, seq_len=1024, precision="amp", checkpointing=True
    )
    prediction = predict(Workload(model=model, setup=replace(setup, loss="trl")))
    labels, tile = 8 * 1023, 4096 * 32768 * 2
    loss = {
        m.moment: m.bytes.get("logits_and_loss") for m in prediction.moments if m.step == "steady"
    }
    ahead = labels * (4096 * 2 + 8 + 28 + 16 + 1) + tile
    assert loss["end_of_forward"] == ahead
    kept = labels * (4096 * 2 + 8 + 8 + 1) + 8
    back = kept + labels * (4 + 4096 * 4) + tile + 4 + labels * 4096 * 2
    assert loss["loss_backward"] == back
