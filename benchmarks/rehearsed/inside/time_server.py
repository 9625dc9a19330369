"""Run by `rehearsed.step_time` in an environment with a CUDA build of torch, over stub libraries:
what
the harness' own step launches, of each workload in a process of its own."""

from typing import Any

import torch
from rehearsed.work import StepWork

from benchmarks.rehearsed.inside.steps_server import serve
from lora_profiler.measuring.harness.training import Training, TrainingBatches
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.measuring.records.serialize import workload_from_dict
from lora_profiler.memory.prediction import Phase
from lora_profiler.trace.modeling import build_model, make_optimizer


def rehearse(question: dict[str, Any]) -> dict[str, Any]:
    """Of the second step: states are made in the first."""
    workload = workload_from_dict(question["workload"])
    at: Phase = "setup"

    def enter(step: int, phase: Phase) -> None:
        nonlocal at
        at = phase

    try:
        model = build_model(workload)
        optimizer = make_optimizer(model, workload.setup)
        torch.cuda.empty_cache()
        vocabulary = model.config.get_text_config().vocab_size
        batches = TrainingBatches(workload.setup, Conditions(), vocabulary)
        training = Training(model, optimizer, workload.setup, batches)
        training.step(enter)
        work = StepWork(lambda: "optimizer" if at == "optimizer" else "forward", model)
        work.begin()
        training.step(enter)
        return {"status": "done", "work": work.end()}
    except Exception as error:
        return {"status": "error", "error": f"{type(error).__name__}: {error}"[:300]}


if __name__ == "__main__":
    serve(rehearse)
