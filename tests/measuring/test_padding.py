"""Padded batches: an attention mask in memory, FLOPs and kernels as in real steps and fresh traces;
one declaration for predictions, measurements and what older records say.

The truths are the CPU allocator's record of real steps, traces of the real model, and the harness.
"""

from dataclasses import replace
from typing import Any

import pytest

import cases
import oracle
import records
import truth
from agreement import as_the_trace, totals
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.measuring.harness.case import case_dict, case_from_dict, make_case
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.measuring.records.serialize import record_dict, record_from_dict
from lora_profiler.memory.analytic import predict
from lora_profiler.memory.compiled.regime import key_of
from lora_profiler.planning.engine import predict as predict_by
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from lora_profiler.report.setup_words import training_line

LORA = LoraConfig(r=4)
BASE = TrainSetup(batch_size=3, seq_len=40, padding=0.2)
EFFICIENT = replace(BASE, attention="efficient")


TRACED = [
    ("llama", EFFICIENT),
    ("qwen2", replace(EFFICIENT, lora=LORA, checkpointing=True, precision="amp", batch_size=1)),
    ("phi3", replace(BASE, attention="eager")),
    ("gemma3_text", replace(EFFICIENT, checkpointing=True)),
    ("mistral-varied", replace(EFFICIENT, lora=LORA)),
    ("gpt2", EFFICIENT),
    ("gpt_neox", replace(EFFICIENT, lora=LORA, checkpointing=True)),
    ("opt", EFFICIENT),
    ("mixtral", replace(EFFICIENT, batch_size=1)),
]


@pytest.mark.grid
@pytest.mark.parametrize(("name", "setup"), TRACED, ids=lambda v: v if isinstance(v, str) else "")
def test_exact_moments_are_those_of_the_trace(name: str, setup: TrainSetup) -> None:
    kernel = as_the_trace(name, setup).attention_kernel
    assert kernel == ("eager" if setup.attention == "eager" else "efficient")


@pytest.mark.parametrize("name", ["llama", "opt", "qwen3"])
def test_real_steps(name: str) -> None:
    """Grouped heads are copied, and each layer keeps a mask in float32: the loss holds the peak."""
    found = {**cases.CONFIGS[name], "vocab_size": 4001, "max_position_embeddings": 256}
    setup = replace(BASE, seq_len=100, device="cpu", dtype="float32", optimizer_impl="fused")
    workload = Workload(model=model_from_config(dict(found), id=name, source="test"), setup=setup)
    padded, plain = predict(workload), predict(replace(workload, setup=replace(setup, padding=0.0)))
    real = truth.peaks(found, setup)
    assert totals(padded)["end_of_forward"] == real[2, "forward"]
    assert padded.peak.total_bytes == pytest.approx(real[2, "step"], rel=1e-4)
    layers = workload.model.num_layers
    assert padded.peak.total_bytes - plain.peak.total_bytes >= layers * 4 * 3 * 100 * 100


def test_any_share_is_the_same_memory_and_one_profile() -> None:
    model = cases.spec_of("llama")
    some, most, none = (
        Workload(model=model, setup=replace(BASE, padding=share)) for share in (0.1, 0.9, 0.0)
    )
    assert predict(some).moments == predict(most).moments != predict(none).moments
    assert key_of(some) == key_of(most) != key_of(none)
    assert len({some.key, most.key, none.key}) == 3
    assert some.setup.padded_tokens == 4
    assert replace(BASE, padding=0.001).padded_tokens == 1


def test_what_older_conditions_say_is_asked_about() -> None:
    """In records, in cases, and in their keys; the rest of the conditions keeps its hash."""
    setup = replace(records.WORKLOAD.setup, padding=0.25)
    asked = replace(records.WORKLOAD, setup=setup)
    old = records.make_record(records.WORKLOAD, conditions=Conditions(padding=0.25, seed=3))
    new = records.make_record(asked, conditions=Conditions(seed=3))
    assert old.workload.setup.padding == 0.25 and old.conditions.padding == 0.0
    assert old.id == new.id
    written: Any = record_dict(new)
    written["workload"]["setup"].pop("padding")
    written["conditions"]["padding"] = 0.25
    assert record_from_dict(written).id == new.id
    case = make_case(records.WORKLOAD, Conditions(padding=0.25))
    assert case.workload.setup == setup
    assert case_from_dict(case_dict(case)).key == case.key


def test_it_is_said() -> None:
    prediction = predict_by(Workload(model=cases.spec_of("llama"), setup=BASE))
    assert any("with an attention mask" in words for words in prediction.assumptions)
    assert training_line(BASE).endswith(", padded")


def test_the_oracle_pads_what_it_is_asked_to() -> None:
    model = oracle.build(cases.CONFIGS["llama"], replace(BASE, device="cpu", dtype="float32"))
    batch = oracle.make_batch(model, BASE)
    assert int(batch["attention_mask"].sum()) == 3 * 32
    assert int((batch["labels"] != -100).sum()) == 3 * 32
