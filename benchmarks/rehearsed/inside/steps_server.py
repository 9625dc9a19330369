"""Run by `rehearsed.forked` in an environment with a CUDA build of torch, over stub libraries:
reads a question a line, answers it in a process of its own."""

import ctypes
import gc
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import peft  # noqa: F401  (imported once, for all that are forked)
import torch
import transformers  # noqa: F401

from lora_profiler.measuring.harness.training import Training, TrainingBatches
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.measuring.records.serialize import workload_from_dict
from lora_profiler.memory.prediction import Phase
from lora_profiler.trace.modeling import build_model, make_optimizer

torch.cuda._is_in_bad_fork = lambda: False  # the stubs hold nothing that a fork would break


def rehearse(question: dict[str, Any]) -> dict[str, Any]:
    taken = ctypes.c_void_p()
    size = ctypes.c_size_t(question["taken_bytes"])
    assert ctypes.CDLL(None).cudaMalloc(ctypes.byref(taken), size) == 0
    workload = workload_from_dict(question["workload"])
    answer: dict[str, Any] = {"where": "building"}

    def enter(step: int, phase: Phase) -> None:
        answer["where"] = f"step {step}, {phase}"

    try:
        model = build_model(workload)
        optimizer = make_optimizer(model, workload.setup)
        gc.collect()
        torch.cuda.empty_cache()  # what building left
        torch.cuda.reset_peak_memory_stats()
        vocabulary = model.config.get_text_config().vocab_size
        batches = TrainingBatches(workload.setup, Conditions(), vocabulary)
        training = Training(model, optimizer, workload.setup, batches)
        for _ in range(question["steps"]):
            training.step(enter)
    except torch.OutOfMemoryError:
        status = "out_of_memory"
    except Exception as error:
        return answer | {"status": "error", "error": f"{type(error).__name__}: {error}"[:300]}
    else:
        status = "done"
    stats = torch.cuda.memory_stats()
    peaks = {
        f"{counter}_bytes": stats[f"{counter}_bytes.all.peak"]
        for counter in ("requested", "allocated", "reserved")
    }
    return answer | {"status": status, "retries": stats["num_alloc_retries"], **peaks}


def serve(rehearse: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a trainer prints is no answer
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.write(writing, json.dumps(rehearse(json.loads(line))).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(child, 0)
        print(answer.decode() or '{"status": "error", "error": "died"}', file=answers, flush=True)


if __name__ == "__main__":
    serve(rehearse)
