"""How many peaks a second, by rules and from a profile: one question at a time, and by `sweep` over
arrays.

Ratios are against a floor in the same run.

    python -m benchmarks.speed.throughput [--write]

The floor of one question is building its `Workload`; the floor of a sweep is one product b * s * r
over the same arrays, which any answer has to read. --write puts the result into
`results/throughput.md` and `results/throughput.json`.
"""

import os
import platform
import random
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np

from benchmarks.pages import page_of, parser_of, table, tell
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


def one_at_a_time() -> list[dict[str, float | str]]:
    model, draw = find_model(MODEL), random.Random(0)
    sizes = [
        (draw.randint(1, 64), draw.randint(16, 16384), draw.randint(1, 256)) for _ in range(5000)
    ]

    def ask(b: int, s: int, r: int) -> Workload:
        return Workload(
            model=model, setup=TrainSetup(batch_size=b, seq_len=s, lora=LoraConfig(r=r))
        )

    def run(answer: Callable[[Workload], object]) -> float:
        return len(sizes) / seconds(lambda: [answer(ask(*size)) for size in sizes])

    floor = run(lambda workload: workload)
    return [
        {"what": "question built, not answered", "per_second": floor, "times_floor": 1.0},
        *(
            {"what": name, "per_second": (rate := run(answer)), "times_floor": floor / rate}
            for engine in ENGINES
            for name, answer in (
                (f"peak_bytes, {engine}", partial(peak_bytes, engine=engine)),
                (f"predict (all moments), {engine}", partial(predict, engine=engine)),
            )
        ),
    ]


def arrays() -> list[dict[str, float | str]]:
    workload = Workload(model=find_model(MODEL), setup=TrainSetup(lora=LoraConfig()))
    draw = np.random.default_rng(0)
    table = np.arange(1, 101)[:, None, None], np.arange(128, 1128)[:, None], np.arange(1, 101)
    points = (
        draw.integers(1, 65, 2_000_000),
        draw.integers(16, 16385, 2_000_000),
        draw.integers(1, 257, 2_000_000),
    )
    rows: list[dict[str, float | str]] = []
    for name, (b, s, r) in (
        ("table, 100 x 1000 x 100", table),
        ("2,000,000 unrelated points", points),
    ):
        count = np.broadcast(b, s, r).size
        floor = count / seconds(lambda b=b, s=s, r=r: b * s * r)  # type: ignore[misc]
        rows.append({"what": f"one product, {name}", "per_second": floor, "times_floor": 1.0})
        for engine in ENGINES:
            answer = partial(sweep, workload, batch_size=b, seq_len=s, rank=r, engine=engine)
            rate = count / seconds(answer)
            rows.append(
                {
                    "what": f"sweep, {engine}, {name}",
                    "per_second": rate,
                    "times_floor": floor / rate,
                }
            )
    return rows


def main() -> None:
    options = parser_of(__doc__, write=False).parse_args()
    rows = [*one_at_a_time(), *arrays()]
    result = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cores": os.cpu_count(),
        "model": MODEL,
        "rows": rows,
    }
    text = page_of(
        "Peaks a second",
        f"{MODEL}, LoRA on all linears; CPython {result['python']}, NumPy {np.__version__},"
        f" {result['cores']} cores. Medians of {ROUNDS} runs. Written by `python -m"
        " benchmarks.speed.throughput --write`.",
        table(
            "what | >per second | >times the floor",
            (
                (row["what"], f"{row['per_second']:,.0f}", f"{row['times_floor']:.1f}")
                for row in rows
            ),
        ),
    )
    tell("throughput", text, result, writes=options.write)


if __name__ == "__main__":
    main()
