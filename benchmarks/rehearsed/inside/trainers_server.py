"""Run by `rehearsed.trainers` in an environment with a CUDA build of torch, transformers, PEFT and
TRL, over stub libraries: reads a question a line, trains with the trainer itself in a process of
its own. Weights are checkpoints of holes."""

import os
from pathlib import Path
from typing import Any

import torch
from rehearsed.settings import Settings
from rehearsed.weights import stand_in

from benchmarks.rehearsed.inside.steps_server import serve
from lora_profiler.rehearsal import __file__ as rehearsal

RUN = Path(os.environ["LORA_PROFILER_RUN"])
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":0:0"
"""torch 2.15 gives a workspace back after each product, so that none is left to be subtracted."""
CATALOGUE = Path(rehearsal).parents[1] / "catalog" / "data" / "models.json"
stand_in(Settings(folder=RUN, steps=0, models=CATALOGUE, snapshot=None, pretends_data=True))

import transformers  # noqa: E402

from benchmarks.rehearsed.inside.trainer import TRAINERS  # noqa: E402

STEADY = 2
"""Steps before the one whose peak is told: by then optimizer states are there."""


class Peaks(transformers.TrainerCallback):  # type: ignore[misc]
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == STEADY:
            torch.cuda.reset_peak_memory_stats()


def rehearse(question: dict[str, Any]) -> dict[str, Any]:
    try:
        question["arguments"]["max_steps"] = STEADY + 1
        trainer = TRAINERS[question["trainer"]](question)
        trainer.add_callback(Peaks())
        trainer.train()
    except torch.OutOfMemoryError as error:
        return {"status": "out_of_memory", "error": str(error)[:200]}
    except Exception as error:
        said, _, _ = f"{type(error).__name__}: {error}".partition(" from file")
        return {"status": "error", "error": said[:300]}
    stats = torch.cuda.memory_stats()
    before = stats["requested_bytes.all.current"]
    torch._C._cuda_clearCublasWorkspaces()
    after = torch.cuda.memory_stats()["requested_bytes.all.current"]
    return {
        "status": "done",
        "workspaces_bytes": before - after,
        **{
            f"{counter}_bytes": stats[f"{counter}_bytes.all.peak"]
            for counter in ("requested", "allocated", "reserved")
        },
    }


if __name__ == "__main__":
    serve(rehearse)
