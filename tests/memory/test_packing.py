"""Packed rows: sequences train as if each were alone, and memory, FLOPs and kernels are those of
real steps and fresh traces.

The truths are single sequences on the same model for the numbers, the CPU allocator's record of
real steps and traces of the real model for the memory; torch's own operator for sequences in one
row stands for FlashAttention 2.
"""

import random
from dataclasses import replace

import pytest
import torch

import cases
import oracle
import tracing
import truth
from agreement import a_sweep_as_single_answers, as_near_as_claimed, same_step, totals
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu, find_model, model_from_config
from lora_profiler.measuring.harness.preflight import refuse
from lora_profiler.measuring.harness.training import TrainingBatches
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.memory.analytic import predict
from lora_profiler.planning.engine import peak_bytes
from lora_profiler.planning.engine import predict as predict_by
from lora_profiler.planning.memory_savings import levers
from lora_profiler.planning.timing import step_time
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.support.model_types import MODEL_TYPES
from lora_profiler.question.support.packing import check_packing, lengths
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.report.setup_words import training_line
from lora_profiler.trace import compile_profile
from lora_profiler.trace.modeling import forward_loss
from lora_profiler.trace.single_size import predict_once

LORA = LoraConfig(r=4)
BLIND = {name for name, kind in MODEL_TYPES.items() if kind.packing_blind}
SEEING = (
    *(name for name in cases.TINY_NAMES if cases.family(name) not in BLIND),
    *("mistral-varied", "gemma3_text-varied", "gpt2-varied"),
)


def spec(name: str) -> ModelSpec:
    return cases.spec_of(name)


def llama_8b(**setup: object) -> Workload:
    model = find_model("meta-llama/Llama-3.1-8B", offline=True)
    return Workload(model=model, setup=TrainSetup(**setup))  # type: ignore[arg-type]


# --- what packing means ---------------------------------------------------------------------------


def test_a_row_is_cut_where_it_ends() -> None:
    assert lengths(TrainSetup(seq_len=40, packed=16)) == (16, 16, 8)
    assert lengths(TrainSetup(seq_len=32, packed=16)) == (16, 16)
    assert lengths(TrainSetup(seq_len=16, packed=16)) == lengths(TrainSetup(seq_len=16)) == (16,)


@pytest.mark.parametrize("name", ["llama", "mistral-varied", "gpt2", "gemma2"])
def test_packed_sequences_train_as_if_each_were_alone(name: str) -> None:
    """Loss and gradients of two rows, against six passes over one sequence each; a filled sliding
    window among them."""
    setup = TrainSetup(device="cpu", dtype="float32", batch_size=2, seq_len=40, packed=16)
    model = oracle.build(
        {**cases.CONFIGS[name], "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}, setup
    )
    batch = oracle.make_batch(model, setup)
    packed = forward_loss(model, setup, batch)
    packed.backward()  # type: ignore[no-untyped-call]
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    pieces = [piece for row in batch["input_ids"] for piece in row.split(lengths(setup))]
    trained = sum(len(piece) - 1 for piece in pieces)
    alone = 0.0
    for piece in pieces:
        ids = piece[None]
        loss = (
            forward_loss(model, replace(setup, packed=None), {"input_ids": ids, "labels": ids})
            * (len(piece) - 1)
            / trained
        )
        loss.backward()
        alone += loss.item()
    assert packed.item() == pytest.approx(alone, rel=1e-6)
    for parameter, value in model.named_parameters():
        assert value.grad is not None
        assert (gradients[parameter] - value.grad).norm() <= 1e-5 * value.grad.norm() + 1e-7, (
            parameter
        )


def test_batches_begin_positions_anew_and_train_on_no_first_token() -> None:
    setup = TrainSetup(device="cpu", batch_size=2, seq_len=40, packed=16)
    batch = TrainingBatches(setup, Conditions(), 100).next()
    assert batch["position_ids"].tolist() == [[*range(16), *range(16), *range(8)]] * 2
    ignored = batch["labels"] == -100
    assert torch.equal(ignored, batch["position_ids"] == 0)
    assert torch.equal(batch["labels"][~ignored], batch["input_ids"][~ignored])
    assert set(TrainingBatches(replace(setup, seq_len=16), Conditions(), 100).next()) == {
        "input_ids",
        "labels",
    }


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["facebook/opt-1.3b", "bigscience/bloom-560m"])
def test_models_that_do_not_tell_sequences_apart_are_refused_with_and_without_torch(
    name: str,
) -> None:
    workload = Workload(model=find_model(name, offline=True), setup=TrainSetup(packed=512))
    for asked in (check_packing, predict_by, lambda w: refuse(w, Conditions())):
        with pytest.raises(UsageError, match="does not separate packed sequences"):
            asked(workload)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["opt", "bloom", "t5"])
def test_their_code_itself_shows_it(name: str) -> None:
    """What the table of model types does not name is seen in the first forward pass."""
    model = model_from_config(tracing.config_of(name), id=name, source="test")
    setup = TrainSetup(device="cpu", dtype="float32", seq_len=12, packed=5)
    with pytest.raises(UsageError, match="does not separate packed sequences"):
        predict_once(Workload(model=model, setup=setup))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="no profile is of packed rows"):
        compile_profile(llama_8b(packed=512))
    with pytest.raises(UsageError, match="--padding"):
        refuse(llama_8b(packed=512, padding=0.5), Conditions())
    with pytest.raises(UsageError, match="--attention flash"):
        refuse(llama_8b(packed=512, attention="flash"), Conditions(), capability=lambda: (9, 0))


# --- memory, FLOPs --------------------------------------------------------------------------------


def drawn() -> list[tuple[str, TrainSetup]]:
    """Families by turns with a mask, as FlashAttention 2 takes them and eager, the rest by a seed;
    lengths that divide a row, and others."""
    draw = random.Random(5)
    found = []
    for place, name in enumerate(SEEING):
        masked = "auto" if name == "gpt2-varied" else "efficient"
        for attention in dict.fromkeys(
            ((masked, "flash")[place % 2], ("flash", masked, "eager")[place % 3])
        ):
            if cases.family(name) == "gemma2":  # runs eager whatever is asked, and flash is refused
                attention = "eager"
            lora = draw.choice([None, cases.methods(cases.family(name))["all"]])
            setup = TrainSetup(
                lora=lora,
                batch_size=draw.choice([1, 3]),
                seq_len=draw.choice([40, 48]),
                packed=draw.choice([7, 16]),
                checkpointing=draw.random() < 0.5,
                attention=attention,  # type: ignore[arg-type]
            )
            if lora and cases.family(name) not in cases.MIXTURES and draw.random() < 0.3:
                setup = replace(setup, quantization=Quantization())
            found.append((name, setup))
    rows = TrainSetup(lora=LORA, batch_size=2, seq_len=40, packed=16)
    amp = replace(rows, dtype="float32", precision="amp")
    fused = replace(rows, loss="fused")
    amp_flash, fused_flash = (replace(setup, attention="flash") for setup in (amp, fused))
    more = [("llama", amp), ("llama", fused), ("qwen2", amp_flash), ("llama", fused_flash)]
    return found + more


@pytest.mark.grid
@pytest.mark.parametrize(
    ("name", "setup"),
    drawn(),
    ids=lambda value: value if isinstance(value, str) else value.attention,
)
def test_exact_moments_are_those_of_the_trace(name: str, setup: TrainSetup) -> None:
    workload = Workload(model=spec(name), setup=setup)
    mine, real = predict(workload), truth.traced(cases.CONFIGS[name], setup)
    kernel = "eager" if setup.attention == "eager" else real.attention_kernel
    assert mine.attention_kernel == kernel
    if mine.attention_kernel == "math":  # heads of no width that the efficient kernel loads
        assert mine.flops == real.flops
        assert (mine.exactness, mine.error_bound) == ("estimate", None)
        return
    same_step(mine, real)
    as_near_as_claimed(mine, real)


MEASURED = [
    ("llama", TrainSetup(dtype="float32")),
    ("llama", TrainSetup(dtype="bfloat16", lora=LORA, checkpointing=True)),
    ("mistral-varied", TrainSetup(dtype="float32", lora=LORA)),
    ("qwen3", TrainSetup(dtype="float32", checkpointing=True)),
    ("gpt2", TrainSetup(dtype="float32")),
    ("gpt_neox", TrainSetup(dtype="float32", lora=LORA)),
    ("olmo2", TrainSetup(dtype="float32")),
]


@pytest.mark.parametrize(
    ("name", "setup"), MEASURED, ids=lambda value: value if isinstance(value, str) else value.method
)
def test_real_steps(name: str, setup: TrainSetup) -> None:
    """To the byte in the forward peak where the loss holds it, and in the optimizer step; the whole
    keeps its promise."""
    setup = replace(
        setup, batch_size=2, seq_len=100, packed=33, device="cpu", optimizer_impl="fused"
    )
    found = {
        **cases.CONFIGS[name],
        "vocab_size": 4001,
        "max_position_embeddings": 256,
        "n_positions": 256,
    }
    prediction = predict(
        Workload(model=model_from_config(dict(found), id=name, source="test"), setup=setup)
    )
    real = truth.peaks(found, setup)
    mine = totals(prediction)
    assert mine["optimizer_step"] == real[2, "optimizer"]
    if mine["end_of_forward"] >= mine["last_layer_forward"]:
        assert mine["end_of_forward"] == real[2, "forward"]
    assert prediction.peak.total_bytes == pytest.approx(
        real[2, "step"], rel=prediction.error_bound or 1e-4
    )


@pytest.mark.parametrize("sequences", [(16, 16, 8), (16, 16, 9), (10, 10, 10, 10), (39, 1)])
def test_attention_flops_by_hand(sequences: tuple[int, ...]) -> None:
    """Told of sequences the kernel computes the pairs of each, with a mask all pairs of the row."""
    model = model_from_config({**cases.CONFIGS["llama"], "head_dim": 16}, id="wide", source="test")
    heads, width = model.config["num_attention_heads"], model.config["head_dim"]
    setup = TrainSetup(batch_size=3, seq_len=sum(sequences), packed=sequences[0])
    masked, told = (
        predict(Workload(model=model, setup=replace(setup, attention=a))).flops
        for a in ("auto", "flash")
    )
    assert masked and told
    fewer = 3 * (sum(sequences) ** 2 - sum(length**2 for length in sequences))
    assert masked.forward - told.forward == fewer * heads * width * 4 * model.num_layers


def test_with_one_sequence_a_row_nothing_changes() -> None:
    for length in (2048, 5000):
        alone, packed = predict(llama_8b(lora=LORA)), predict(llama_8b(lora=LORA, packed=length))
        assert packed.moments == alone.moments
        assert packed.flops == alone.flops


# --- planning, faces ------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["auto", "flash"])
def test_sweeps_are_many_predictions(attention: str) -> None:
    workload = llama_8b(lora=LORA, packed=64, attention=attention)
    a_sweep_as_single_answers(workload, [1, 2, 3, 16], [1, 5, 64, 65, 100, 1000])


def test_the_lever_is_what_its_option_brings() -> None:
    workload = llama_8b(lora=LORA, packed=512, seq_len=8192, checkpointing=True, loss="fused")
    found = {lever.option: lever.peak_bytes for lever in levers(workload)}
    flash = replace(workload, setup=replace(workload.setup, attention="flash"))
    assert found["--attention flash"] == peak_bytes(flash) < peak_bytes(workload)
    assert "--attention flash" not in {lever.option for lever in levers(flash)}
    alone = replace(workload, setup=replace(workload.setup, packed=None))
    assert "--attention flash" not in {lever.option for lever in levers(alone)}


def test_time_is_known_and_shorter_where_the_kernel_is_told() -> None:
    card = find_gpu("h100_sxm")
    masked, told = (
        step_time(llama_8b(lora=LORA, packed=512, seq_len=8192, attention=a), card).step
        for a in ("auto", "flash")
    )
    assert masked and told
    assert told.time.seconds < masked.time.seconds


def test_the_answer_says_what_rows_hold() -> None:
    packed = predict(llama_8b(lora=LORA, packed=512))
    assert training_line(packed.workload.setup).startswith(
        "batch 1 × 2,048 tokens packed from sequences of 512, "
    )
    assert packed.attention_kernel == "efficient"
    assert any(
        "Rows of sequences of 512 tokens, without padding, each with a mask" in said
        for said in packed.assumptions
    )
    flash = predict(llama_8b(lora=LORA, packed=512, attention="flash"))
    assert any("not measured" in said for said in flash.assumptions)
