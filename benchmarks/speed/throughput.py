"""How many peaks a second, by rules and from a profile: one question at a time, and by `sweep` over
arrays.

Ratios are against a floor in the same run.

    python -m benchmarks.speed.throughput [--write | --render]

The floor of one question is building its `Workload`; the floor of a sweep is one product b * s * r
over the same arrays, which any answer has to read. --write puts the result into
`results/throughput.md` and `results/throughput.json`.
"""

import os
import platform
import random
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from benchmarks.pages import page_of, table
from benchmarks.runner import once
from lora_profiler import LoraConfig, TrainSetup, Workload, find_model, predict, sweep
from lora_profiler.planning.engine import peak_bytes

MODEL = "meta-llama/Llama-3.1-8B"
ROUNDS = 5


def seconds(work: Callable[[], object]) -> float:
    """Median of ROUNDS runs after one to warm up."""
    work()
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return median(taken)


ENGINES = ("analytic", "compiled")


Row = dict[str, float | str]


def row(what: str, rate: float, floor: float) -> Row:
    return {"what": what, "per_second": rate, "times_floor": floor / rate}


def one_at_a_time() -> Iterator[Row]:
    model, draw = find_model(MODEL), random.Random(0)
    sizes = [
        (draw.randint(1, 64), draw.randint(16, 16384), draw.randint(1, 256)) for _ in range(5000)
    ]

    def ask(b: int, s: int, r: int) -> Workload:
        setup = TrainSetup(batch_size=b, seq_len=s, lora=LoraConfig(r=r))
        return Workload(model=model, setup=setup)

    def run(answer: Callable[[Workload], object]) -> float:
        return len(sizes) / seconds(lambda: [answer(ask(*size)) for size in sizes])

    floor = run(lambda workload: workload)
    yield row("question built, not answered", floor, floor)
    for engine in ENGINES:
        yield row(f"peak_bytes, {engine}", run(partial(peak_bytes, engine=engine)), floor)
        yield row(f"predict (all moments), {engine}", run(partial(predict, engine=engine)), floor)


def arrays() -> Iterator[Row]:
    workload = Workload(model=find_model(MODEL), setup=TrainSetup(lora=LoraConfig()))
    draw = np.random.default_rng(0)
    ends = ((1, 65), (16, 16385), (1, 257))
    asked = {
        "table, 100 x 1000 x 100": (
            *(np.arange(1, 101)[:, None, None], np.arange(128, 1128)[:, None]),
            np.arange(1, 101),
        ),
        "2,000,000 unrelated points": tuple(draw.integers(*end, 2_000_000) for end in ends),
    }
    for name, (b, s, r) in asked.items():
        count = np.broadcast(b, s, r).size
        floor = count / seconds(lambda b=b, s=s, r=r: b * s * r)  # type: ignore[misc]
        yield row(f"one product, {name}", floor, floor)
        for engine in ENGINES:
            answer = partial(sweep, workload, batch_size=b, seq_len=s, rank=r, engine=engine)
            yield row(f"sweep, {engine}, {name}", count / seconds(answer), floor)


def measured() -> dict[str, Any]:
    about = {"python": platform.python_version(), "numpy": np.__version__}
    rows = [*one_at_a_time(), *arrays()]
    return {**about, "cores": os.cpu_count(), "model": MODEL, "rows": rows}


def page(document: Mapping[str, Any]) -> str:
    return page_of(
        "Peaks a second",
        f"{MODEL}, LoRA on all linears; CPython {document['python']}, NumPy {document['numpy']},"
        f" {document['cores']} cores. Medians of {ROUNDS} runs. Written by `python -m"
        " benchmarks.speed.throughput --write`.",
        table(
            "what | >per second | >times the floor",
            (
                (row["what"], f"{row['per_second']:,.0f}", f"{row['times_floor']:.1f}")
                for row in document["rows"]
            ),
        ),
    )


if __name__ == "__main__":
    once(__doc__, "throughput", measured, page)
