"""Predictions beside traces: what both say of each moment, and how near they must be."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

import cases
import truth
from lora_profiler.memory.analytic import predict
from lora_profiler.memory.analytic.plan import EXACT_MOMENTS
from lora_profiler.memory.analytic.predict import layer_error
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.engine import peak_bytes
from lora_profiler.planning.sweep import sweep
from lora_profiler.question.workload import TrainSetup, Workload
from truth import TracedStep


def totals(prediction: Prediction, step: object = "steady") -> dict[str, int]:
    """Bytes at each moment of a step."""
    return {m.moment: m.total_bytes for m in prediction.moments if m.step == step}


def exact_totals(prediction: Prediction | TracedStep, step: object = "steady") -> dict[str, int]:
    """The same of those moments that rules know to the byte."""
    traced = isinstance(prediction, TracedStep)
    found = prediction.moments if traced else totals(prediction, step)  # type: ignore[union-attr,arg-type]
    return {moment: found[moment] for moment in EXACT_MOMENTS}  # type: ignore[index,call-overload]


def same_step(rules: Prediction, trace: Prediction | TracedStep) -> None:
    """Exact moments, FLOPs and saved bytes are equal."""
    assert exact_totals(rules) == exact_totals(trace)
    assert rules.flops == trace.flops
    assert rules.saved_activation_bytes == trace.saved_activation_bytes


def as_the_trace(name: str, setup: TrainSetup) -> Prediction:
    """What rules say of a config of `cases.CONFIGS`; where a layer's own backward is known to the
    byte as well, the end of it too."""
    mine = predict(Workload(model=cases.spec_of(name), setup=setup))
    real = truth.traced(cases.CONFIGS[name], setup)
    same_step(mine, real)
    if setup.is_reentrant:
        assert totals(mine)["last_layer_backward"] == real.moments["last_layer_backward"]
    as_near_as_claimed(mine, real)
    return mine


def as_near_as_claimed(rules: Prediction, trace: TracedStep) -> None:
    """Peaks, inside layers too."""
    checkpointing = rules.workload.setup.checkpointing
    within = 1e-9 if rules.exactness == "exact" else layer_error(checkpointing)
    assert rules.peak.total_bytes == pytest.approx(trace.peak_bytes, rel=within)


def a_sweep_as_single_answers(
    workload: Workload, batches: Sequence[int], lengths: Sequence[int], engine: str = "analytic"
) -> None:
    """One table of peaks, and each size predicted by itself."""
    table = sweep(workload, batch_size=[[b] for b in batches], seq_len=lengths, engine=engine)
    singles = [
        [
            peak_bytes(
                replace(workload, setup=replace(workload.setup, batch_size=b, seq_len=s)), engine
            )
            for s in lengths
        ]
        for b in batches
    ]
    assert table.tolist() == singles
