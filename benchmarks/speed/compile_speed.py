"""How long a profile takes from nothing, against torch's own tracker: whole processes, in one run.

    python -m benchmarks.speed.compile_speed [--write | --render]

Some minutes; needs the test extra. A process that imports torch and does nothing else is the floor
of everything that traces. One profile is traced, compiled, checked and written. `MemTracker`
(torch.distributed._tools) runs real training steps of the smaller model, with weights, in full: it
refuses frozen parameters, so LoRA cannot be asked of it; and what it finds holds for that one size.
--write puts the result into `results/compile_speed.md` and `results/compile_speed.json`.
"""

import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from statistics import median
from typing import Any

from benchmarks.pages import page_of, table, versions_of
from benchmarks.runner import once
from benchmarks.speed.startup import seconds

ROUNDS = 3
SMALL, LARGE = "HuggingFaceTB/SmolLM2-135M", "meta-llama/Llama-3.1-8B"

COMPILE = """
from dataclasses import replace
from lora_profiler import LoraConfig, TrainSetup, Workload, find_model
from lora_profiler.trace import compile_profile
lora = {"LoRA": LoraConfig(), "full": None}["METHOD"]
setup = TrainSetup(batch_size=2, seq_len=512, lora=lora)
compile_profile(Workload(model=find_model("MODEL", offline=True), setup=setup))
"""
TRACKER = """
import torch
from torch.distributed._tools.mem_tracker import MemTracker
from lora_profiler import TrainSetup, Workload, find_model
from lora_profiler.trace.modeling import build_model, make_optimizer
setup = TrainSetup(batch_size=1, seq_len=64, device="cpu", dtype="float32")
model = build_model(Workload(model=find_model("MODEL", offline=True), setup=setup))
optimizer = make_optimizer(model, setup)
ids = torch.randint(0, 1000, (1, 64))
tracker = MemTracker()
tracker.track_external(model, optimizer)
with tracker:
    for _ in range(2):
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tracker.reset_mod_stats()
"""
CASES = {
    "python -c pass": "pass",
    "import torch, transformers, peft": "import torch, transformers, peft",
    f"a profile of {LARGE}, LoRA": COMPILE.replace("METHOD", "LoRA").replace("MODEL", LARGE),
    f"a profile of {LARGE}, full": COMPILE.replace("METHOD", "full").replace("MODEL", LARGE),
    f"a profile of {SMALL}, full": COMPILE.replace("METHOD", "full").replace("MODEL", SMALL),
    f"MemTracker over two real steps of {SMALL}, full, 64 tokens": TRACKER.replace("MODEL", SMALL),
}


def measured() -> dict[str, Any]:
    taken: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name, code in CASES.items():
            with tempfile.TemporaryDirectory() as folder:
                command = (sys.executable, "-c", code)
                taken[name].append(seconds(command, LORA_PROFILER_CACHE=folder))
    rows = [
        {"what": name, "median_seconds": round(median(t), 2), "seconds": t}
        for name, t in taken.items()
    ]
    about = {"python": platform.python_version(), "cores": os.cpu_count()}
    return {**about, "versions": versions_of("torch", "transformers", "peft"), "rows": rows}


def page(document: Mapping[str, Any]) -> str:
    rows = [(row["what"], row["median_seconds"]) for row in document["rows"]]
    floor = rows[1][1]
    return page_of(
        "From nothing to a profile",
        f"Whole processes, CPython {document['python']}, torch {document['versions']['torch']},"
        f" {document['cores']} cores; medians of {ROUNDS} interleaved runs. Written by `python -m"
        " benchmarks.speed.compile_speed --write`.",
        table(
            "what | >median s | >times the imports",
            ((what, f"{took:.2f}", f"{took / floor:.1f}") for what, took in rows),
        ),
    )


if __name__ == "__main__":
    once(__doc__, "compile_speed", measured, page)
