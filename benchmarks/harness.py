"""What the harness itself costs, and whether its clock is right; paired within one process, so that the machine cancels out.

    python -m benchmarks.harness            about three minutes on one core that has nothing else to do; needs the test extra

Writes `results/harness.md` and `results/harness.json`. Blocks alternate A, B, B, A; a figure is the median over the pairs with a
bootstrap interval.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import torch

import families
from lora_profiler.catalog import model_from_config
from lora_profiler.harness.timing_pass import TimingResult, timing_pass
from lora_profiler.harness.training import Batches, Training
from lora_profiler.modeling import build_model, make_optimizer
from lora_profiler.record import Conditions
from lora_profiler.samples import median_interval
from lora_profiler.workload import LoraConfig, TrainSetup, Workload

RESULTS = Path(__file__).parent / "results"
SETUP = TrainSetup(device="cpu", dtype="float32", batch_size=4, seq_len=128, lora=LoraConfig(r=8))
SIZES = {"vocab_size": 4000, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4}
STEPS, PAIRS = 10, 30
INJECTED_SECONDS = 0.020


def training() -> Training:
    model = model_from_config(dict(families.TINY["llama"]) | SIZES, id="small-llama", source="benchmark")
    built = build_model(Workload(model=model, setup=SETUP))
    return Training(built, make_optimizer(built, SETUP), SETUP, Batches(SETUP, Conditions(), model.config["vocab_size"]))


def harness_seconds(run: Training, steps: int = STEPS) -> float:
    """Median step of the harness's own timing pass, its warm-up left out."""
    result = TimingResult()
    conditions = Conditions(min_timed_steps=steps, max_timing_seconds=0.0)
    timing_pass(run, conditions, result, lambda what, done: None)
    return median(result.step_seconds)


def bare_seconds(run: Training, steps: int = STEPS) -> float:
    """Median step of the loop that anybody would write, on the same model, optimizer and data."""
    model, optimizer, found = run.model, run.optimizer, []
    for _ in range(steps):
        batch = run.batches.next()
        began = time.perf_counter()
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found.append(time.perf_counter() - began)
    return median(found)


@contextmanager
def sleeping(run: Training) -> Iterator[None]:
    """Every forward pass inside takes 20 ms more."""
    handle = run.model.register_forward_pre_hook(lambda *_: time.sleep(INJECTED_SECONDS))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def slow_data(run: Training) -> Iterator[None]:
    """Every batch inside takes 20 ms to make."""
    following = run.batches.next

    def slowly() -> Any:
        time.sleep(INJECTED_SECONDS)
        return following()

    run.batches.next = slowly  # type: ignore[method-assign]
    try:
        yield
    finally:
        run.batches.next = following  # type: ignore[method-assign]


def paired(a: Callable[[], float], b: Callable[[], float], of: Callable[[float, float], float]) -> dict[str, Any]:
    """`of(a, b)` over PAIRS pairs in the order A B, B A, ...: median, bootstrap interval of the median, and every pair."""
    found = []
    for turn in range(PAIRS):
        first, second = (a(), b()) if turn % 2 == 0 else (b(), a())
        found.append(of(first, second) if turn % 2 == 0 else of(second, first))
    draw = random.Random(0)
    medians = sorted(median(draw.choices(found, k=len(found))) for _ in range(2000))
    return {"median": median(found), "low": medians[50], "high": medians[1949], "pairs": found}


def with_(context: Callable[[Training], Any], run: Training) -> Callable[[], float]:
    def measured() -> float:
        with context(run):
            return harness_seconds(run)

    return measured


def measured(run: Training) -> dict[str, dict[str, Any]]:
    plain = lambda: harness_seconds(run)  # noqa: E731  # named for what it is in the calls below
    for _ in range(3):
        bare_seconds(run)
    return {
        "harness / bare loop": paired(plain, lambda: bare_seconds(run), lambda a, b: a / b),
        "bare loop / bare loop": paired(lambda: bare_seconds(run), lambda: bare_seconds(run), lambda a, b: a / b),
        "20 ms in forward, ms more": paired(with_(sleeping, run), plain, lambda a, b: 1000 * (a - b)),
        "20 ms in making the batch, ms more": paired(with_(slow_data, run), plain, lambda a, b: 1000 * (a - b)),
        "twice the steps / once": paired(lambda: harness_seconds(run, 2 * STEPS), plain, lambda a, b: a / b),
    }


def as_markdown(found: dict[str, dict[str, Any]], step: tuple[float, float, float], seconds: int) -> str:
    low, middle, high = (1000 * s for s in step)
    lines = [
        "# What the harness costs, and whether its clock is right",
        "",
        f"{PAIRS} pairs of blocks of {STEPS} steps each, alternating, in one process on one thread; a step takes {middle:.1f} ms",
        f"({low:.1f} to {high:.1f}). Small Llama, rank 8, 4 x 128 tokens, CPU.",
        f"`python -m benchmarks.harness`, {seconds} s, torch {version('torch')}, load {os.getloadavg()[0]:.1f} at the end.",
        "",
        "| what | median | 95 % interval | expected |",
        "|---|---:|---|---|",
    ]
    expected = ("1, within 1 %", "1: the noise of the method", "20 +- 1", "0", "1")
    for (name, row), wanted in zip(found.items(), expected, strict=True):
        digits = 3 if "ms" in name else 4
        lines.append(f"| {name} | {row['median']:.{digits}f} | {row['low']:.{digits}f} to {row['high']:.{digits}f} | {wanted} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    run = training()
    found = measured(run)
    step = median_interval([bare_seconds(run, 1) for _ in range(30)])
    text = as_markdown(found, step, round(time.perf_counter() - began))
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "harness.md").write_text(text, "utf-8")
    (RESULTS / "harness.json").write_text(json.dumps(found) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
