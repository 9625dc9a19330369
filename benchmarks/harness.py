"""What the harness itself costs, and whether its clock is right; in pairs, so that the machine
cancels out.

    python -m benchmarks.harness

About ten minutes on one core that has nothing else to do; needs the test extra. Writes
`results/harness.md` and `results/harness.json`. Blocks alternate A, B, B, A within a process; a
figure is the median over the pairs with a bootstrap interval. Loops that do the same can differ by
some percent for as long as a process lives, one way or the other: glibc gives the top of its heap
back to the system after some steps and not after others, and each page of it then costs a fault
again. So loops are compared over several processes, a median each, in which glibc keeps what it
has.
"""

import argparse
import json
import os
import random
import subprocess
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
from benchmarks.pages import RESULTS, parser_of, write_page
from lora_profiler.catalog import model_from_config
from lora_profiler.harness.timing_pass import TimingResult, timing_pass
from lora_profiler.harness.training import Training, TrainingBatches
from lora_profiler.modeling import build_model, make_optimizer
from lora_profiler.records.checks import median_interval
from lora_profiler.records.record import Conditions
from lora_profiler.workload import LoraConfig, TrainSetup, Workload

SETUP = TrainSetup(device="cpu", dtype="float32", batch_size=4, seq_len=128, lora=LoraConfig(r=8))
SIZES = {"vocab_size": 4000, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4}
STEPS, PAIRS = 10, 30
PROCESSES, PAIRS_IN_EACH = 10, 4
INJECTED_SECONDS = 0.020


def training() -> Training:
    model = model_from_config(
        dict(families.TINY["llama"]) | SIZES, id="small-llama", source="benchmark"
    )
    built = build_model(Workload(model=model, setup=SETUP))
    return Training(
        built,
        make_optimizer(built, SETUP),
        SETUP,
        TrainingBatches(SETUP, Conditions(), model.config["vocab_size"]),
    )


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


def pairs(
    a: Callable[[], float],
    b: Callable[[], float],
    of: Callable[[float, float], float],
    count: int = PAIRS,
) -> list[float]:
    """`of(a, b)` over pairs in the order A B, B A, ..."""
    found = []
    for turn in range(count):
        first, second = (a(), b()) if turn % 2 == 0 else (b(), a())
        found.append(of(first, second) if turn % 2 == 0 else of(second, first))
    return found


KEEPS_ITS_HEAP = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**36),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""glibc's settings (mallopt(3)) with which freed memory stays with the process."""


def over_processes(what: str) -> list[float]:
    """The median ratio of one process, for many."""
    command = [sys.executable, "-m", "benchmarks.harness", "--one-process", what]
    environment = {**os.environ, **KEEPS_ITS_HEAP}
    outputs = [
        subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        for _ in range(PROCESSES)
    ]
    return [float(text.splitlines()[-1]) for text in outputs]


def one_process(what: str) -> float:
    run = training()
    for _ in range(3):
        bare_seconds(run)
    first: Callable[[Training], float] = harness_seconds if what == "harness" else bare_seconds
    return median(
        pairs(lambda: first(run), lambda: bare_seconds(run), lambda a, b: a / b, PAIRS_IN_EACH)
    )


def summed_up(found: list[float]) -> dict[str, Any]:
    """Median, bootstrap interval of the median, and every value."""
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
    values = {
        "harness / bare loop": over_processes("harness"),
        "bare loop / bare loop": over_processes("bare"),
        "20 ms in forward, ms more": pairs(
            with_(sleeping, run), plain, lambda a, b: 1000 * (a - b)
        ),
        "20 ms in making the batch, ms more": pairs(
            with_(slow_data, run), plain, lambda a, b: 1000 * (a - b)
        ),
        "twice the steps / once": pairs(
            lambda: harness_seconds(run, 2 * STEPS), plain, lambda a, b: a / b
        ),
    }
    return {name: summed_up(found) for name, found in values.items()}


def as_markdown(
    found: dict[str, dict[str, Any]], step: tuple[float, float, float], seconds: int
) -> str:
    low, middle, high = (1000 * s for s in step)
    lines = [
        "# What the harness costs, and whether its clock is right",
        "",
        f"Pairs of blocks of {STEPS} steps each, alternating, on one thread; a step takes"
        f" {middle:.1f} ms ({low:.1f} to",
        f"{high:.1f}). Small Llama, rank 8, 4 x 128 tokens, CPU. The first two rows are medians"
        f" over {PROCESSES} processes of",
        f"{PAIRS_IN_EACH} pairs each, in which glibc keeps its heap; the others over {PAIRS}"
        " pairs of one process.",
        f"`python -m benchmarks.harness`, {seconds} s, torch {version('torch')}, load"
        f" {os.getloadavg()[0]:.1f} at the end.",
        "",
        "| what | median | 95 % interval | expected |",
        "|---|---:|---|---|",
    ]
    expected = ("1, within 1 %", "1: the noise of the method", "20 +- 1", "0", "1")
    for (name, row), wanted in zip(found.items(), expected, strict=True):
        digits = 3 if "ms" in name else 4
        lines.append(
            f"| {name} | {row['median']:.{digits}f} | {row['low']:.{digits}f} to"
            f" {row['high']:.{digits}f} | {wanted} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--one-process", choices=("harness", "bare"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one_process:
        print(one_process(options.one_process))
        return 0
    began = time.perf_counter()
    run = training()
    found = measured(run)
    step = median_interval([bare_seconds(run, 1) for _ in range(30)])
    text = as_markdown(found, step, round(time.perf_counter() - began))
    print(text)
    write_page("harness", text)
    (RESULTS / "harness.json").write_text(json.dumps(found) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
