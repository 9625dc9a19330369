"""Where LoRA needs more memory than full training, held against rehearsals on both sides of each
end that `crossover` names.

    python -m benchmarks.rehearsed.crossover --python PYTHON [--again]

PYTHON is of an environment with a CUDA build of torch. Appends to `results/crossover.jsonl` as
each point ends, full and LoRA at one length, and writes `results/crossover.md`; what is there is
not run again. --again predicts anew and writes the page only. Nothing was measured.
"""

from argparse import Namespace
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.pages import page_of, table
from benchmarks.rows import Row
from benchmarks.runner import Asked, Rows
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.measuring.harness import make_case, measure_case
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.planning.crossover import crossover
from lora_profiler.planning.engine import on_card, peak_bytes
from lora_profiler.planning.rehearsed import pretended_on
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from lora_profiler.rehearsal.launch import pretended

Point = tuple[str, int, int]
"""Model, batch, tokens."""
CARD = "a100_sxm_80gb"
MODELS = (
    "Qwen/Qwen2.5-0.5B", "HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-360M",
    "EleutherAI/pythia-160m", "facebook/opt-125m", "openai-community/gpt2",
)  # fmt: skip
BATCH_SIZES = (2, 4, 8)
LENGTHS = (8, 128, 1024, 2048)


def ways(model: str, batch_size: int, seq_len: int) -> tuple[Workload, Workload]:
    """Full training and LoRA on every linear layer."""
    setup = TrainSetup(batch_size=batch_size, seq_len=seq_len)
    full, lora = (
        on_card(Workload(model=find_model(model, offline=True), setup=one), find_gpu(CARD))
        for one in (setup, replace(setup, lora=LoraConfig()))
    )
    return full, lora


def points() -> list[Point]:
    """The last length at which LoRA needs less, and the first at which it
    needs more."""
    found = []
    for model in MODELS:
        found_of = crossover(ways(model, 1, 1024), batch_sizes=BATCH_SIZES, lengths=LENGTHS)
        for span in found_of.crossings:
            if span.quantity == "memory" and span.first > LENGTHS[0]:
                found += [(model, span.batch_size, span.first - 1)]
                found += [(model, span.batch_size, span.first)]
    return found


def rehearse(python: str, workload: Workload) -> int:
    """Bytes asked for at the steady peak, without BLAS workspaces, which both methods have."""
    host = pretended_on(pretended(find_gpu(CARD), 0), 1, python)
    asked = replace(workload, platform=host.platform)
    measured = measure_case(make_case(asked, Conditions(min_timed_steps=0)), pretended=host)
    m = measured.measurement
    assert m.peak_requested_bytes is not None, m.failure
    return m.peak_requested_bytes - (m.workspace_bytes or 0)


def point_of(row: Row) -> Point:
    return row["model"], row["batch_size"], row["seq_len"]


def rehearsed(python: str, point: Point) -> dict[str, Any]:
    model, batch_size, seq_len = point
    full, lora = (rehearse(python, way) for way in ways(*point))
    sizes = {"model": model, "batch_size": batch_size, "seq_len": seq_len}
    return {**sizes, "full_bytes": full, "lora_bytes": lora}


def page(rows: Sequence[Row]) -> str:
    lines = []
    right = equal = 0
    for row in rows:
        full, lora = row["full_bytes"], row["lora_bytes"]
        predicted = [peak_bytes(way) for way in ways(*point_of(row))]
        right += (lora > full) == (predicted[1] > predicted[0])
        equal += (predicted[0] == full) + (predicted[1] == lora)
        differences = (
            f"{a - b:+,}" if a != b else "0" for a, b in zip(predicted, (full, lora), strict=True)
        )
        sizes = (row["batch_size"], f"{row['seq_len']:,}", f"{full:,}", f"{lora:,}")
        lines.append((row["model"], *sizes, "LoRA" if lora > full else "full", *differences))
    return page_of(
        "Where LoRA costs more memory, rehearsed",
        f"`python -m benchmarks.rehearsed.crossover`: full training and LoRA r16 on a pretended"
        f" {find_gpu(CARD).name}, at the last\n"
        "length at which `crossover` says that LoRA needs less, and at the next token. Bytes"
        " that tensors ask for at the peak,\n"
        "by torch's CUDA build over stub libraries: rehearsed, not measured.",
        f"The order is as predicted at **{right} of {len(rows)}** points; {equal} of"
        f" {2 * len(rows)} peaks are equal to the byte.",
        table(
            "model | >batch | >tokens | >full | >LoRA | needs more |"
            " >predicted full - rehearsed | >predicted LoRA - rehearsed",
            lines,
        ),
    )


def asked(options: Namespace) -> AbstractContextManager[Asked]:
    made = partial(rehearsed, str(options.python))
    return nullcontext((((point, point) for point in points()), made))


BENCHMARK = Rows(text=__doc__, name="crossover", page=page, key=point_of)

if __name__ == "__main__":
    BENCHMARK.main(asked)
