"""Losses without all logits: equal to transformers' own in value and gradients, and predicted to
the byte.

The truth is transformers' loss for the numbers, the CPU allocator's record of real steps and fresh
traces for the memory.
"""

import random
from dataclasses import replace
from itertools import product

import pytest
import torch

import cases
import families
import oracle
import truth
from agreement import a_sweep_as_single_answers, same_step, totals
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu, find_model, model_from_config
from lora_profiler.memory.analytic import predict
from lora_profiler.planning.engine import peak_bytes
from lora_profiler.planning.engine import predict as predict_by
from lora_profiler.planning.memory_savings import levers
from lora_profiler.planning.timing import step_time
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.support.losses import check_loss, chunk_rows
from lora_profiler.question.workload import LoraConfig, Loss, Quantization, TrainSetup, Workload
from lora_profiler.trace import compile_profile
from lora_profiler.trace.modeling import forward_loss

PATHS: tuple[Loss, ...] = ("chunked", "fused")
TRAINERS: tuple[Loss, ...] = ("trl", "torchtune", "torchtune-chunked", "cce", "litgpt", "triton")
"""Trainers' own losses, which flip other rules: `test_trainer_losses.py`."""
LORA = LoraConfig(r=4)
SAVED = LoraConfig(r=4, modules_to_save=("lm_head",))


def config(name: str, **changes: object) -> families.Config:
    """A tiny model of two layers with more words than one chunk takes."""
    return (
        families.TINY[name]
        | {"n_layer" if name == "gpt2" else "num_hidden_layers": 2, "vocab_size": 1009}
        | changes
    )


def spec(found: families.Config) -> ModelSpec:
    return model_from_config(dict(found), id=str(sorted(found.items(), key=str)), source="test")


# --- the numbers ----------------------------------------------------------------------------------


def gradients(
    model: torch.nn.Module, setup: TrainSetup, batch: dict[str, torch.Tensor]
) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    loss = forward_loss(model, setup, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.grid
@pytest.mark.parametrize("path", [*PATHS, *TRAINERS])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "amp"])
@pytest.mark.parametrize("lora", [None, LORA, SAVED], ids=["full", "lora", "saved head"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_loss_and_gradients_are_those_of_transformers(
    name: str, lora: LoraConfig | None, dtype: str, path: Loss
) -> None:
    """With ignored labels, a whole sample of them among others, and a last chunk that is not
    full."""
    precision = {"dtype": "float32", "precision": "amp"} if dtype == "amp" else {"dtype": dtype}
    setup = TrainSetup(lora=lora, device="cpu", batch_size=3, seq_len=23, **precision)  # type: ignore[arg-type]
    model = oracle.build(config(name), setup)
    ids = oracle.make_ids(model, setup)
    labels = ids.clone()
    labels[0], labels[:, 15:] = -100, -100
    batch = {"input_ids": ids, "labels": labels}
    truth, real = gradients(model, setup, batch)
    loss, found = gradients(model, replace(setup, loss=path), batch)
    error = 2e-6 if dtype == "float32" else 0.02
    assert loss == pytest.approx(truth, rel=error / 4)
    assert found.keys() == real.keys()
    for parameter, gradient in real.items():
        assert (found[parameter] - gradient).norm() <= error * gradient.norm() + 1e-6, parameter


@pytest.mark.parametrize(
    ("tokens", "vocabulary", "hidden", "rows"),
    [(2048, 128_256, 4096, 64), (7, 40, 48, 8), (1, 999, 10, 1)],
)
def test_chunks_are_those_of_liger(tokens: int, vocabulary: int, hidden: int, rows: int) -> None:
    assert chunk_rows(tokens, vocabulary, hidden) == rows


# --- what is refused ------------------------------------------------------------------------------

FUSED = TrainSetup(loss="fused")
ON_HEAD = TrainSetup(loss="trl", lora=LoraConfig(target_modules=("q_proj", "lm_head")))
ROUTED = config("mixtral", output_router_logits=True)
REFUSED = {
    "final_logit_softcapping": Workload(model=spec(config("gemma2")), setup=FUSED),
    "output_router_logits": Workload(model=spec(ROUTED), setup=FUSED),
    "the adapter on lm_head": Workload(model=spec(config("llama")), setup=ON_HEAD),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_the_head_does_not_allow_is_refused(why: str) -> None:
    for asked in (check_loss, predict_by, peak_bytes):
        with pytest.raises(UsageError, match=why):
            asked(REFUSED[why])
    check_loss(replace(REFUSED[why], setup=replace(REFUSED[why].setup, loss="plain")))


def test_logits_that_a_model_changes_by_itself_are_seen() -> None:
    """Where no field of the config tells, the first forward pass does."""
    setup = TrainSetup(device="cpu", batch_size=1, seq_len=4, loss="fused")
    model = oracle.build(config("gemma2"), setup)
    ids = oracle.make_ids(model, setup)
    with pytest.raises(UsageError, match="changes the logits"):
        forward_loss(model, setup, {"input_ids": ids, "labels": ids})
    assert forward_loss(model, replace(setup, loss="plain"), {"input_ids": ids, "labels": ids}) > 0


def test_profiles_refuse_and_say_what_answers() -> None:
    workload = Workload(model=spec(config("llama")), setup=TrainSetup(loss="fused"))
    with pytest.raises(UsageError, match="--engine analytic, or traced"):
        predict_by(workload, "compiled")
    with pytest.raises(UsageError, match="no profile"):
        compile_profile(workload)


# --- memory, FLOPs --------------------------------------------------------------------------------


def drawn() -> list[tuple[str, TrainSetup]]:
    """Families by turns, both paths, everything else by a seed; a saved head, tied and untied ones,
    4-bit bases among them."""
    draw = random.Random(11)
    found = []
    for path in PATHS:
        for name in cases.TINY_NAMES[PATHS.index(path) :: 2]:
            if name == "gemma2":
                continue
            every, dropout = cases.methods(name)["all"] or LORA, draw.choice([0.0, 0.1])
            lora = draw.choice([None, replace(every, lora_dropout=dropout)])
            if lora and name not in cases.MIXTURES and draw.random() < 0.3:
                lora = replace(lora, modules_to_save=("lm_head",))
            setup = TrainSetup(
                lora=lora,
                dtype=draw.choice(["float32", "bfloat16"]),
                batch_size=draw.choice([1, 3]),
                seq_len=draw.choice([40, 67]),
                checkpointing=draw.random() < 0.5,
                loss=path,
            )
            if lora and name not in cases.MIXTURES and draw.random() < 0.4:
                base = Quantization(recipe=draw.choice(["stock", "kbit"]))
                setup = replace(setup, quantization=base)
            found.append((name, setup))
        amp = TrainSetup(dtype="float32", precision="amp", batch_size=2, seq_len=40, loss=path)
        found += [("llama", amp), ("qwen2", replace(amp, lora=LORA))]
    return found


@pytest.mark.grid
@pytest.mark.parametrize(
    ("name", "setup"), drawn(), ids=lambda value: value if isinstance(value, str) else value.loss
)
def test_exact_moments_are_those_of_the_trace(name: str, setup: TrainSetup) -> None:
    workload = Workload(model=spec(config(name)), setup=setup)
    mine, real = predict(workload), truth.traced(config(name), setup)
    same_step(mine, real)
    assert mine.saved_activation_bytes == sum(c.saved_activation_bytes for c in mine.layers)
    assert sum(cost.flops for cost in mine.layers) == mine.flops.total if mine.flops else False


MEASURED = [
    ("llama", TrainSetup(dtype="float32")),
    ("llama", TrainSetup(dtype="float32", lora=LORA, checkpointing=True)),
    ("qwen2", TrainSetup(dtype="float32")),
    ("qwen2", TrainSetup(dtype="bfloat16", checkpointing=True)),
    ("gpt2", TrainSetup(dtype="float32", lora=SAVED)),
    ("opt", TrainSetup(dtype="float32", checkpointing=True)),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "setup"), MEASURED)
def test_real_steps(name: str, setup: TrainSetup, path: Loss) -> None:
    """To the byte where the loss holds the forward peak and in the optimizer step; the whole keeps
    its promise."""
    found = config(name, vocab_size=4001)
    setup = replace(
        setup, batch_size=2, seq_len=100, device="cpu", optimizer_impl="fused", loss=path
    )
    prediction = predict(Workload(model=spec(found), setup=setup))
    real = truth.peaks_without_onednn(found, setup)
    mine = totals(prediction)
    ahead = mine["end_of_forward"] >= mine["last_layer_forward"]
    assert mine["optimizer_step"] == real[2, "optimizer"]
    assert not ahead or mine["end_of_forward"] == real[2, "forward"]
    assert prediction.peak.total_bytes == pytest.approx(
        real[2, "step"], rel=prediction.error_bound or 1e-4
    )


def test_the_forward_peak_of_most_real_steps_lies_in_the_loss() -> None:
    found = []
    for (name, setup), path in product(MEASURED, PATHS):
        asked = replace(setup, batch_size=2, seq_len=100, device="cpu", loss=path)
        model = spec(config(name, vocab_size=4001))
        found.append(totals(predict(Workload(model=model, setup=asked))))
    assert sum(m["end_of_forward"] >= m["last_layer_forward"] for m in found) >= 6


# --- planning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_sweeps_are_many_predictions(path: Loss) -> None:
    workload = Workload(
        model=find_model("gpt2", offline=True), setup=TrainSetup(lora=LORA, loss=path)
    )
    a_sweep_as_single_answers(workload, [1, 2, 3, 7, 16], [1, 5, 64, 100, 1000])


def test_peaks_never_fall_when_there_are_more_tokens() -> None:
    workload = Workload(model=spec(config("llama")), setup=TrainSetup(loss="fused", seq_len=8))
    peaks = [
        peak_bytes(replace(workload, setup=replace(workload.setup, batch_size=b)), "analytic")
        for b in range(2, 200)
    ]
    assert peaks == sorted(peaks)


def test_the_lever_is_what_its_option_brings() -> None:
    workload = Workload(
        model=find_model("meta-llama/Llama-3.1-8B", offline=True), setup=TrainSetup(lora=LORA)
    )
    found = {lever.option: lever.peak_bytes for lever in levers(workload)}
    fused = replace(workload, setup=replace(workload.setup, loss="fused"))
    assert found["--loss fused"] == peak_bytes(fused)
    assert "--loss fused" not in {lever.option for lever in levers(fused)}


def test_time_is_known_of_both() -> None:
    model = find_model("meta-llama/Llama-3.1-8B", offline=True)
    seconds = {}
    for path in ("plain", *PATHS):
        timing = step_time(Workload(model=model, setup=TrainSetup(loss=path)), find_gpu("h100_sxm"))
        assert timing.step is not None
        seconds[path] = timing.step.time.seconds
    assert seconds["plain"] < seconds["fused"] < seconds["chunked"]
