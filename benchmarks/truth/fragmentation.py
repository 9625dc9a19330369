"""What the caching allocator needs beyond a peak: the simulated allocator over seeded questions
that a bundled profile answers.

    python -m benchmarks.truth.fragmentation [--seconds N] [--again]

Appends to `results/fragmentation.jsonl`, a row as each of COUNT questions ends, and writes
`results/fragmentation.md`. What is there is not asked again. The bound that `planning/reserve.py`
takes where no tape can be replayed is held against these rows by `tests/planning/test_reserve.py`.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from statistics import mean
from typing import Any

from benchmarks.pages import page_of, table
from benchmarks.questions import drawn_models, drawn_setup, key, workload_on
from benchmarks.rows import Row, grouped
from benchmarks.runner import Rows
from lora_profiler.errors import LoraProfilerError
from lora_profiler.measuring.records.serialize import setup_dict, setup_from_dict
from lora_profiler.planning.engine import predict
from lora_profiler.planning.reserve import held_bytes
from lora_profiler.question.support.library_memory import WORKSPACES, workspace_bytes
from lora_profiler.question.workload import TrainSetup
from lora_profiler.units import MIB

SEED, COUNT = 23, 240
MOST_PARAMETERS = 15_000_000_000
CARDS = ("a10", "h100_sxm_80gb")


BATCH_SIZES, LENGTHS = (2, 3, 4, 8, 16), (128, 512, 1024, 2048, 4096)
Question = tuple[str, TrainSetup, str]
"""Model, setup, card."""


def questions() -> Iterator[Question]:
    draw = random.Random(SEED)
    names = [m.id for m in drawn_models() if m.num_parameters <= MOST_PARAMETERS]
    for _ in range(COUNT):
        setup = drawn_setup(draw, LENGTHS, ("foreach", "fused"), BATCH_SIZES)
        yield draw.choice(names), setup, draw.choice(CARDS)


def answered(*question: Any) -> dict[str, Any]:
    """Refused where no tape answers."""
    asked = _asked(*question)
    try:
        workload = workload_on(*question)
        answer = predict(workload, may_trace=False)
    except LoraProfilerError as error:
        return asked | {"refused": str(error)[:200]}
    memory = answer.device_memory
    if memory is None:
        return asked | {"refused": "no profile"}
    return asked | {
        "peak_bytes": answer.peak.total_bytes,
        "held_bytes": held_bytes(answer),
        "workspace_bytes": WORKSPACES * workspace_bytes(workload.platform),
        "smallest_bytes": memory.smallest_bytes,
        "reserved_bytes": memory.reserved_bytes,
        "expandable_reserved_bytes": memory.expandable_reserved_bytes,
    }


def beyond(row: Mapping[str, Any]) -> int:
    """Bytes that the allocator needs beyond peak and workspaces."""
    return int(row["smallest_bytes"] - row["peak_bytes"] - row["workspace_bytes"])


def _asked(model: str, setup: TrainSetup, card: str) -> dict[str, Any]:
    return {"model": model, "setup": setup_dict(setup), "card": card}


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    answered = [r for r in rows if "refused" not in r]
    kinds = {
        "peak": _size,
        "method": lambda r: setup_from_dict(r["setup"]).method,
        "checkpointing": lambda r: "on" if r["setup"]["checkpointing"] else "off",
        "card": lambda r: r["card"],
    }
    groups = {"all": answered} | grouped(answered, kinds)
    return page_of(
        "What the caching allocator needs beyond a peak",
        f"`python -m benchmarks.truth.fragmentation`: {len(rows)} of {COUNT} seeded questions so"
        " far, "
        f"{len(answered)} of which a bundled profile answers. The least that the simulated "
        "allocator completes three steps with, less the peak of live bytes and two BLAS "
        "workspaces. The simulation is held against rehearsals in [boundary.md](boundary.md).",
        "Shares are of the peak, and of what comes and goes in a step: the peak less weights, "
        "adapters and optimizer states.",
        table(
            " | >questions | >mean of peak | >largest | >mean of what comes and goes | >largest |"
            " >mean MiB | >largest MiB",
            (_summary(name, of_group) for name, of_group in groups.items()),
        ),
    )


def _size(row: Mapping[str, Any]) -> str:
    gib = row["peak_bytes"] / 1024 / MIB
    return (
        "1, below 2 GiB"
        if gib < 2
        else "2, below 8 GiB"
        if gib < 8
        else "3, below 24 GiB"
        if (gib < 24)
        else "4, from 24 GiB on"
    )


def _summary(name: str, rows: Sequence[Row]) -> tuple[object, ...]:
    shares = [beyond(r) / r["peak_bytes"] for r in rows]
    passing = [beyond(r) / (r["peak_bytes"] - r["held_bytes"]) for r in rows]
    sizes = [beyond(r) / MIB for r in rows]
    told = (f"{of(each):.1%}" for each in (shares, passing) for of in (mean, max))
    return name, len(rows), *told, f"{mean(sizes):,.0f}", f"{max(sizes):,.0f}"


BENCHMARK = Rows(
    text=__doc__,
    name="fragmentation",
    page=page,
    key=key,
    again=lambda row: answered(row["model"], setup_from_dict(row["setup"]), row["card"]),
)

if __name__ == "__main__":
    asked = [(key(_asked(*question)), question) for question in questions()]
    BENCHMARK.main(lambda options: nullcontext((asked, lambda question: answered(*question))))
