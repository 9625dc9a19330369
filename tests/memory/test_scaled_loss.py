"""Float16 autocast, whose loss is scaled: held against torch's own GradScaler."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import cases
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.measuring.harness.training import Training, TrainingBatches
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.memory.analytic import predict
from lora_profiler.planning.fit import _OnCards
from lora_profiler.planning.setups import DEFAULTS, setups
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.support.library_memory import scaler_holds
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.trace.modeling import build_model, make_optimizer

SCALED = TrainSetup(
    device="cpu", dtype="float32", precision="amp-float16", batch_size=2, seq_len=16, accumulation=2
)


def trained(setup: TrainSetup) -> tuple[torch.nn.Module, Training]:
    torch.manual_seed(7)
    model = build_model(Workload(model=cases.spec_of(cases.TINY_NAMES[0]), setup=setup))
    batches = TrainingBatches(setup, Conditions(), model.config.vocab_size)
    return model, Training(model, make_optimizer(model, setup), setup, batches)


@pytest.mark.parametrize(("precision", "fits"), [("amp-float16", True), ("amp", False)])
def test_float16_autocast_needs_no_bfloat16(precision: Any, fits: bool) -> None:
    setup = TrainSetup(lora=LoraConfig(), dtype="float32", precision=precision, seq_len=256)
    prediction = predict(Workload(model=find_model("gpt2"), setup=setup))
    assert _OnCards(prediction, "auto").fits(find_gpu("t4")) is fits


def test_a_step_is_that_of_a_loop_with_a_scaler() -> None:
    ours, training = trained(SCALED)
    before = [parameter.detach().clone() for parameter in ours.parameters()]
    training.step(lambda *_: None)
    assert not all(map(torch.equal, ours.parameters(), before))  # no step skipped for an infinity
    plain, beside = trained(SCALED)
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(SCALED.accumulation):
        with torch.autocast("cpu", torch.float16):
            loss = plain(**beside.batches.next(), use_cache=False).loss
        scaler.scale(loss / SCALED.accumulation).backward()
    scaler.step(beside.optimizer)
    scaler.update()
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_what_it_holds_is_what_torch_s_own_holds() -> None:
    scaler, weight = torch.amp.GradScaler("cpu"), torch.ones(2, requires_grad=True)
    scaled: Any = scaler.scale(weight.sum())
    lasting = (scaler._scale, scaler._growth_tracker)
    scaled.backward()
    optimizer = torch.optim.SGD([weight])
    scaler.unscale_(optimizer)
    found = scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values()
    sizes = [sum(t.nbytes for t in each if t is not None) for each in (lasting, (scaled,), found)]
    assert scaler_holds(SCALED) == tuple(sizes)
    assert scaler_holds(replace(SCALED, precision="amp")) == (0, 0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float16"},
        {"dtype": "float16", "lora": LoraConfig(r=4, adapter_dtype="bfloat16")},
        {"dtype": "float16", "lora": LoraConfig(r=4, modules_to_save=("lm_head",))},
        {"lora": LoraConfig(r=4), "quantization": Quantization(recipe="trl")},
    ],
)
def test_gradients_in_16_bit_are_refused_as_torch_refuses_them(change: dict[str, Any]) -> None:
    weight = torch.ones(2, dtype=torch.float16, requires_grad=True)
    scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD([weight])
    torch.autograd.backward([scaler.scale(weight.sum())])
    with pytest.raises(ValueError, match="unscale FP16 gradients"):
        scaler.step(optimizer)
    with pytest.raises(UsageError, match="torch cannot unscale 16-bit gradients"):
        replace(SCALED, **change)


@pytest.mark.parametrize("capability", [75, 90])
def test_weights_that_nobody_named_are_in_the_format_that_goes_with_it(capability: int) -> None:
    options = {**DEFAULTS, "precision": "amp-float16", "methods": ("full", "lora")}
    platform = Platform(capability=capability)
    full, lora = setups(find_model("gpt2"), options, {"methods", "precision"}, platform)
    assert (full.dtype, full.precision) == ("float32", "amp-float16")
    assert (lora.dtype, lora.precision) == (
        "float16" if capability < 80 else "bfloat16",
        "amp-float16",
    )
