"""An optimizer that steps in backward: it trains as one after backward does, and its memory is
that of traces and of real steps on a CPU."""

from dataclasses import replace

import pytest
import torch

import cases
import oracle
import truth
from agreement import exact_totals, totals
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.memory.analytic import predict
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from lora_profiler.trace.modeling import attention_context, forward_loss, make_optimizer

BASE = TrainSetup(batch_size=2, seq_len=40, optimizer_impl="fused", optimizer_in_bwd=True)
SETUPS = {
    "plain": BASE,
    "checkpointing": replace(BASE, checkpointing=True),
    "torchtune's": replace(
        BASE,
        checkpointing=True,
        loss="torchtune",
        optimizer="paged_adamw_8bit",
        optimizer_impl="foreach",
    ),
    "LoRA": replace(BASE, lora=LoraConfig(r=4), checkpointing=True, precision="amp"),
    "SGD": replace(BASE, optimizer="sgd", optimizer_impl="foreach"),
}


def test_it_trains_as_an_optimizer_after_backward() -> None:
    trained: list[dict[str, torch.Tensor]] = []
    for in_backward in (True, False):
        setup = replace(BASE, device="cpu", dtype="float32", optimizer_in_bwd=in_backward)
        model = oracle.build(cases.CONFIGS["qwen2"], setup)  # of a tied head
        optimizer = make_optimizer(model, setup)
        torch.manual_seed(1)
        for _ in range(2):
            with attention_context(setup):
                forward_loss(model, setup, oracle.make_batch(model, setup)).backward()  # type: ignore[no-untyped-call]
            assert all((p.grad is None) == in_backward for p in model.parameters())
            optimizer.step()
            optimizer.zero_grad()
        trained.append(dict(model.named_parameters()))
    for name, parameter in trained[1].items():
        torch.testing.assert_close(trained[0][name], parameter, msg=name)


@pytest.mark.grid
@pytest.mark.parametrize("what", SETUPS)
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_moments_are_those_of_the_trace(name: str, what: str) -> None:
    setup = SETUPS[what]
    config = {**cases.CONFIGS[name], "vocab_size": 800}
    mine = predict(Workload(model=model_from_config(config, id=name, source="test"), setup=setup))
    real = truth.traced(config, setup)
    assert exact_totals(mine) == exact_totals(real)
    assert mine.peak.total_bytes == real.peak_bytes
    if what in ("checkpointing", "torchtune's"):  # where a tied head's gradient waits
        assert totals(mine)["last_layer_backward"] == real.moments["last_layer_backward"]
        first = totals(mine)["first_layer_backward"], real.moments["first_layer_backward"]
        assert abs(first[0] - first[1]) <= 2 * 2 * 40 * 48 * 2  # rules of a layer's inside


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_real_steps(name: str) -> None:
    setup = replace(BASE, device="cpu", dtype="float32", seq_len=100)
    config = {**cases.CONFIGS[name], "vocab_size": 4001}
    mine = predict(Workload(model=model_from_config(config, id=name, source="test"), setup=setup))
    real = truth.peaks(config, setup)
    assert totals(mine)["end_of_forward"] == real[2, "forward"]
    assert totals(mine)["loss_backward"] == real[2, "backward"]
