"""Older versions of transformers, reentrant checkpointing and fms-acceleration's kernels: rules of
what they keep, against traces of the real model with the code of the time in it, and experts that
were layers of their own against torch's layers."""

from dataclasses import replace
from typing import Any

import pytest

import cases
from agreement import as_the_trace, totals
from benchmarks.public import models, old_code
from lora_profiler import find_model
from lora_profiler.errors import UsageError
from lora_profiler.facts.stacks.stack import find_stack
from lora_profiler.measuring.harness.preflight import refuse
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.memory.analytic import predict
from lora_profiler.memory.analytic.plan import EXACT_MOMENTS
from lora_profiler.memory.analytic.predict import layer_error
from lora_profiler.memory.compiled.predict import predict_with
from lora_profiler.planning.engine import predict as predict_by
from lora_profiler.question.adapters import adapters
from lora_profiler.question.support.generations import as_made, as_of
from lora_profiler.question.workload import (
    LoraConfig,
    Quantization,
    TrainSetup,
    Transformers,
    Workload,
)
from lora_profiler.trace.modeling.generations import with_older_loss
from lora_profiler.trace.run import trace
from lora_profiler.trace.single_size import profile_of

LORA = LoraConfig(r=4)
BASE = TrainSetup(batch_size=2, seq_len=40, attention="flash_attention_2")
AMP = replace(BASE, precision="amp")
REENTRANT = replace(BASE, checkpointing=True, use_reentrant=True)
FAST = replace(LORA, fast_lora=True, lora_dropout=0.1)
SETUPS = {
    "4.48": replace(BASE, transformers="4.48"),
    "4.45": replace(BASE, transformers="4.45"),
    "4.48 of one row": replace(BASE, transformers="4.48", batch_size=1),
    "4.45 of one row": replace(AMP, transformers="4.45", batch_size=1, lora=LORA),
    "4.45, float32": replace(AMP, transformers="4.45", dtype="float32"),
    "4.45, SDPA": replace(BASE, transformers="4.45", attention="efficient"),
    "4.48, outputs held": replace(BASE, transformers="4.48", hold_outputs=True, lora=LORA),
    "4.45, outputs held": replace(BASE, transformers="4.45", hold_outputs=True, lora=LORA),
    "4.48, triton": replace(BASE, transformers="4.48", loss="triton"),
    "4.45, triton": replace(AMP, transformers="4.45", loss="triton", lora=LORA),
    "4.45, triton, one row": replace(AMP, transformers="4.45", loss="triton", batch_size=1),
    "4.48, fused": replace(AMP, transformers="4.48", loss="fused", lora=LORA),
    "4.45, fused, full": replace(BASE, transformers="4.45", loss="fused"),
    "reentrant": REENTRANT,
    "reentrant LoRA": replace(REENTRANT, lora=LORA, precision="amp"),
    "kbit-norms": replace(AMP, lora=LORA, quantization=Quantization(recipe="kbit-norms")),
    "foak": replace(BASE, kernels="foak", lora=LORA),
    "foak, reentrant": replace(REENTRANT, kernels="foak"),
    "fast LoRA": replace(AMP, lora=FAST),
    "fast QLoRA": replace(
        REENTRANT, precision="amp", lora=FAST, quantization=Quantization(), kernels="foak"
    ),
}


@pytest.mark.grid
@pytest.mark.parametrize("name", ["llama", "mistral"])
@pytest.mark.parametrize("what", SETUPS)
def test_moments_are_those_of_the_trace(name: str, what: str) -> None:
    as_the_trace(name, SETUPS[what])


# --- experts that were layers of their own --------------------------------------------------------

MIXTRAL = "mixtral"


def apart(setup: TrainSetup) -> Workload:
    return Workload(model=as_of(cases.spec_of(MIXTRAL), setup.transformers), setup=setup)


@pytest.mark.parametrize("version", ["4.57", "4.48"])
def test_experts_apart_are_those_of_torch_layers(version: Transformers) -> None:
    """A block written with torch's own layers, as transformers 4 had it, in place of today's; the
    tokens of a trace are spread evenly."""
    setup = replace(
        AMP, transformers=version, lora=LoraConfig(r=4, target_modules=("q_proj", "v_proj"))
    )
    setup = replace(setup, quantization=Quantization(), checkpointing=True, use_reentrant=True)
    workload = apart(setup)

    def build(asked: Workload) -> Any:
        model = models.old_mixtral(asked)
        old_code.reentrant(model)
        with_older_loss(model, setup)
        return model

    mine, traced = predict(workload), trace(workload, build)
    real = predict_with(profile_of(workload, traced), workload)
    found = {m: (totals(mine)[m], totals(real)[m]) for m in EXACT_MOMENTS}
    assert {m: pair for m, pair in found.items() if abs(pair[0] / pair[1] - 1) > 0.002} == {}
    assert mine.peak.total_bytes == pytest.approx(real.peak.total_bytes, rel=layer_error(True))


def test_experts_apart_have_todays_numbers_and_peft_finds_them_by_their_old_names() -> None:
    packed, own = cases.spec_of(MIXTRAL), as_of(cases.spec_of(MIXTRAL), "4.57")
    assert own.num_parameters == packed.num_parameters
    assert own.fingerprint != packed.fingerprint
    found = adapters(own, LoraConfig(r=4, target_modules=("w1", "w2", "gate")))
    names = {adapter.module.rpartition(".")[2] for adapter in found}
    count = packed.config["num_local_experts"]
    assert names == {"w1", "w2", "gate"}
    assert len(found) == packed.num_layers * (2 * count + 1)


def test_torchtune_has_the_projections_of_phi_apart() -> None:
    """Counted by hand: rank 8 on q, v and o (3,072 x 3,072) and on the MLP (3,072 x 8,192)."""
    targets = ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    setup = TrainSetup(lora=LoraConfig(r=8, target_modules=targets), kernels="torchtune")
    phi = find_model("microsoft/Phi-3-mini-4k-instruct", offline=True)
    made = as_made(phi, setup)
    assert made.num_parameters == phi.num_parameters
    found = predict(Workload(model=made, setup=setup))
    assert found.parameters.trainable == 32 * 8 * (3 * 2 * 3072 + 3 * (3072 + 8192))


def test_what_no_version_here_knows_is_refused() -> None:
    setup = TrainSetup(transformers="4.48")
    with pytest.raises(UsageError, match="before transformers 5 are not modelled"):
        predict_by(Workload(model=as_of(cases.spec_of("qwen3_moe"), "4.48"), setup=setup))
    with pytest.raises(UsageError, match="analytic"):
        predict_by(apart(setup), "traced")
    with pytest.raises(UsageError, match="not run"):
        refuse(Workload(model=cases.spec_of("llama"), setup=setup), Conditions())
    with pytest.raises(UsageError, match=r"4\.57 and 4\.48 and 4\.45"):
        find_stack("transformers@4.30")
