"""The time of a rehearsed step against the time that is predicted of the same workload: the
harness' own loop on simulated GPUs, at full model size.

    python -m benchmarks.rehearsed.step_time --python PYTHON [--seconds N] [--again]

PYTHON is of an environment with a CUDA build of torch, transformers, PEFT and bitsandbytes; no card
is needed. WORKLOADS seeded configurations of `rehearsed.configurations`, those of one rank whose
kernels rules count and whose update has a time, in turn on CARDS. A row of
`results/rehearsed_time.jsonl` is written as each ends, and `results/rehearsed_time.md`; what is
there is not run again. --again predicts all rows anew and writes the page. Both times are
predicted: nothing was measured.
"""

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.pages import table
from benchmarks.questions import key, workload_on
from benchmarks.rehearsed.configurations import configurations
from benchmarks.rehearsed.forked import ForkedRehearsals
from benchmarks.rehearsed.rules_page import options_words
from benchmarks.runner import Asked, Rows
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import find_gpu
from lora_profiler.measuring.records.serialize import setup_dict, setup_from_dict, workload_dict
from lora_profiler.memory.analytic.kernels import counted_kernels
from lora_profiler.planning.nearest import rehearsed_time
from lora_profiler.question.workload import Workload
from lora_profiler.runs.comparison.throughput import quantile
from lora_profiler.steptime import StepTime, predict_step_time

CARDS = ("a100_sxm_80gb", "rtx_4090", "h100_sxm_80gb")
WORKLOADS = 42
BOUND = 0.03
"""What a rehearsed step's time may differ by."""


def workloads(torch: str) -> Iterator[tuple[Workload, str]]:
    """With the card of each."""
    found = 0
    for each in configurations():
        card = CARDS[found % len(CARDS)]
        workload = workload_on(each.model, each.setup, card, torch)
        if each.setup.world_size == 1 and predicted(workload, card) is not None:
            yield workload, card
            found += 1
        if found == WORKLOADS:
            return


def predicted(workload: Workload, card: str) -> tuple[StepTime, int] | None:
    """The time, and a micro-batch's launches; None for what has no rule or is refused."""
    try:
        kernels = counted_kernels(workload)
        found = predict_step_time(kernels, find_gpu(card), workload.setup)
    except LoraProfilerError:
        return None
    return None if found is None else (found, kernels.launches)


@contextmanager
def asked(options: Namespace) -> Iterator[Asked]:
    with ForkedRehearsals(options.python, "time_server") as rehearsals:
        torch = rehearsals.torch

        def made(question: tuple[Workload, str]) -> dict[str, Any]:
            workload, card = question
            answer = rehearsals.ask(card, {"workload": workload_dict(workload)})
            return _asked(workload, card) | {"torch": torch} | answer

        yield ((key(_asked(*each)), each) for each in workloads(torch)), made


def _asked(workload: Workload, card: str) -> dict[str, Any]:
    return {"model": workload.model.id, "setup": setup_dict(workload.setup), "card": card}


def compared(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Both times, and their launches; None where the rehearsal failed."""
    if row["status"] != "done":
        return None
    gpu, setup = find_gpu(row["card"]), setup_from_dict(row["setup"])
    workload = workload_on(row["model"], setup, row["card"], row["torch"])
    beside, found = predicted(workload, row["card"]), rehearsed_time(row["work"], gpu)
    assert beside is not None and found.time is not None
    launches = row["work"]["launches"] + row["work"]["library_calls"]
    return {
        **row,
        "rehearsed_seconds": found.time.seconds,
        "predicted_seconds": beside[0].seconds,
        "difference": found.time.seconds / beside[0].seconds - 1,
        "launches": launches,
        "counted": beside[1] * setup.accumulation,
        "unseen": found.library_calls - found.products,
    }


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    found = [each for row in rows if (each := compared(row)) is not None]
    failed = [row for row in rows if row["status"] != "done"]
    differences = sorted(abs(row["difference"]) for row in found)
    within = sum(difference <= BOUND for difference in differences)
    seen = sum(row["unseen"] == 0 for row in found)
    lines = [
        "# The time of a rehearsed step",
        "",
        "Written by `python -m benchmarks.rehearsed.step_time --python PYTHON`: the harness' own"
        " loop,"
        " its real kernels on pretended cards,",
        "against `step_time` of the same workload, whose kernels rules count. Both are predicted by"
        " one roofline and nothing was",
        "measured: what differs is what the rules do not count, launches mostly.",
        "",
        f"{within} of {len(found)} within {BOUND:.0%}: median {quantile(differences, 0.5):.2%},"
        f" 90th percentile {quantile(differences, 0.9):.2%}, largest {differences[-1]:.2%}.",
        f"In {seen} of {len(found)} every call of BLAS is one product that the dispatcher saw.",
        "",
        *table(
            "model | setup | card | >rehearsed, s | >predicted, s | >difference | >launches |"
            " >counted, without the update",
            map(_cells, sorted(found, key=lambda row: -abs(row["difference"]))),
        ),
        "",
        *(
            f"Not rehearsed: {row['model']} on {row['card']}, {options_words(row)}: {row['error']}"
            for row in failed
        ),
    ]
    return "\n".join([*lines, ""])


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    times = (f"{row[f'{kind}_seconds']:.4f}" for kind in ("rehearsed", "predicted"))
    counts = (f"{row[kind]:,}" for kind in ("launches", "counted"))
    return (
        row["model"],
        options_words(row),
        row["card"],
        *times,
        f"{row['difference']:+.2%}",
        *counts,
    )


BENCHMARK = Rows(text=__doc__, name="rehearsed_time", page=page, key=key)

if __name__ == "__main__":
    BENCHMARK.main(asked)
