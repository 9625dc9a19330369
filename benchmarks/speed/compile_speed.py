"""How long a profile takes from nothing, against torch's own tracker: whole processes, in one run.

    python -m benchmarks.speed.compile_speed [--write]

Some minutes; needs the test extra. A process that imports torch and does nothing else is the floor
of everything that traces. One profile is traced, compiled, checked and written. `MemTracker`
(torch.distributed._tools) runs real training steps of the smaller model, with weights, in full: it
refuses frozen parameters, so LoRA cannot be asked of it; and what it finds holds for that one size.
--write puts the result into `results/compile_speed.md` and `results/compile_speed.json`.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import Any

from benchmarks.pages import page_of, parser_of, table, tell, versions_of

ROUNDS = 3
SMALL, LARGE = "HuggingFaceTB/SmolLM2-135M", "meta-llama/Llama-3.1-8B"

COMPILE = """
from dataclasses import replace
from lora_profiler import LoraConfig, TrainSetup, Workload, find_model
from lora_profiler.traced import compile_profile
lora = {"LoRA": LoraConfig(), "full": None}["METHOD"]
setup = TrainSetup(batch_size=2, seq_len=512, lora=lora)
compile_profile(Workload(model=find_model("MODEL", offline=True), setup=setup))
"""
TRACKER = """
import torch
from torch.distributed._tools.mem_tracker import MemTracker
from lora_profiler import TrainSetup, Workload, find_model
from lora_profiler.modeling import build_model, make_optimizer
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


def seconds(code: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"LORA_PROFILER_CACHE": folder, "HF_HUB_OFFLINE": "1"}
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return time.perf_counter() - began


def main() -> None:
    options = parser_of(__doc__, write=False).parse_args()
    taken: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name, code in CASES.items():
            taken[name].append(seconds(code))
    rows: list[dict[str, Any]] = [
        {"what": name, "median_seconds": round(median(t), 2), "seconds": t}
        for name, t in taken.items()
    ]
    floor = rows[1]["median_seconds"]
    versions = versions_of("torch", "transformers", "peft")
    result = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": versions,
        "rows": rows,
    }
    text = page_of(
        "From nothing to a profile",
        f"Whole processes, CPython {result['python']}, torch {versions['torch']},"
        f" {result['cores']} cores; medians of {ROUNDS} interleaved runs. Written by `python -m"
        " benchmarks.speed.compile_speed --write`.",
        table(
            "what | >median s | >times the imports",
            (
                (r["what"], f"{r['median_seconds']:.2f}", f"{r['median_seconds'] / floor:.1f}")
                for r in rows
            ),
        ),
    )
    tell("compile_speed", text, result, writes=options.write)


if __name__ == "__main__":
    main()
