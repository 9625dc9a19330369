"""What the caching allocator needs beyond a peak: the simulated allocator over seeded questions
that a bundled profile answers.

    python -m benchmarks.fragmentation [--seconds N] [--again]

Appends to `results/fragmentation.jsonl`, a row as each of COUNT questions ends, and writes
`results/fragmentation.md`. What is there is not asked again. The bound that `planning/reserve.py`
takes where no tape can be replayed is held against these rows by `tests/test_reserve.py`.
"""

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.drawn_models import drawn_models
from benchmarks.rows import append_row, parser_of_rows, read_rows
from lora_profiler.catalog import find_gpu, find_model
from lora_profiler.errors import LoraProfilerError
from lora_profiler.planning.engine import predict
from lora_profiler.planning.reserve import held_bytes
from lora_profiler.platform import Platform
from lora_profiler.records.serialize import setup_dict, setup_from_dict
from lora_profiler.support.library_memory import WORKSPACES, workspace_bytes
from lora_profiler.units import MIB
from lora_profiler.workload import LoraConfig, Quantization, TrainSetup, Workload

HERE = Path(__file__).parent
ROWS = HERE / "results" / "fragmentation.jsonl"
PAGE = HERE / "results" / "fragmentation.md"
SEED, COUNT = 23, 240
MOST_PARAMETERS = 15_000_000_000
CARDS = ("a10", "h100_sxm_80gb")


def questions() -> Iterator[tuple[str, TrainSetup, str]]:
    draw = random.Random(SEED)
    names = [m.id for m in drawn_models() if m.num_parameters <= MOST_PARAMETERS]
    for _ in range(COUNT):
        method = draw.choice(("full", "lora", "qlora"))
        lora = LoraConfig(r=draw.choice((8, 16, 64)))
        setup = TrainSetup(
            lora=None if method == "full" else lora,
            quantization=Quantization() if method == "qlora" else None,
            batch_size=draw.choice((2, 3, 4, 8, 16)),
            seq_len=draw.choice((128, 512, 1024, 2048, 4096)),
            checkpointing=draw.random() < 0.5,
            optimizer_impl=draw.choice(("foreach", "fused")),
        )
        yield draw.choice(names), setup, draw.choice(CARDS)


def row(model: str, setup: TrainSetup, card: str) -> dict[str, Any]:
    """Refused where no tape answers."""
    question = {"model": model, "setup": setup_dict(setup), "card": card}
    platform = Platform(capability=find_gpu(card).capability)
    try:
        workload = Workload(model=find_model(model, offline=True), setup=setup, platform=platform)
        answer = predict(workload, may_trace=False)
    except LoraProfilerError as error:
        return question | {"refused": str(error)[:200]}
    memory = answer.device_memory
    if memory is None:
        return question | {"refused": "no profile"}
    return question | {
        "peak_bytes": answer.peak.total_bytes,
        "held_bytes": held_bytes(answer),
        "workspace_bytes": WORKSPACES * workspace_bytes(platform),
        "smallest_bytes": memory.smallest_bytes,
        "reserved_bytes": memory.reserved_bytes,
        "expandable_reserved_bytes": memory.expandable_reserved_bytes,
    }


def beyond(row: Mapping[str, Any]) -> int:
    """Bytes that the allocator needs beyond peak and workspaces."""
    return int(row["smallest_bytes"] - row["peak_bytes"] - row["workspace_bytes"])


def main() -> None:
    options = parser_of_rows(__doc__).parse_args()
    until = time.monotonic() + options.seconds
    if options.again:
        ROWS.unlink(missing_ok=True)
    rows = read_rows(ROWS)
    known = {_key(r) for r in rows}
    for model, setup, card in questions():
        if time.monotonic() > until:
            break
        if _key({"model": model, "setup": setup_dict(setup), "card": card}) in known:
            continue
        rows.append(row(model, setup, card))
        append_row(ROWS, rows[-1])
    PAGE.write_text(page(rows), encoding="utf-8")


def _key(row: Mapping[str, Any]) -> str:
    return json.dumps([row["model"], row["setup"], row["card"]], sort_keys=True)


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    answered = [r for r in rows if "refused" not in r]
    lines = [
        "# What the caching allocator needs beyond a peak",
        "",
        f"`python -m benchmarks.fragmentation`: {len(rows)} of {COUNT} seeded questions so far, "
        f"{len(answered)} of which a bundled profile answers. The least that the simulated "
        "allocator completes three steps with, less the peak of live bytes and two BLAS "
        "workspaces. The simulation is held against rehearsals in [boundary.md](boundary.md).",
        "",
        "Shares are of the peak, and of what comes and goes in a step: the peak less weights, "
        "adapters and optimizer states.",
        "",
        "| | questions | mean of peak | largest | mean of what comes and goes | largest | "
        "mean MiB | largest MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        _summary("all", answered),
    ]
    groups = {
        "peak": _size,
        "method": lambda r: setup_from_dict(r["setup"]).method,
        "checkpointing": lambda r: "on" if r["setup"]["checkpointing"] else "off",
        "card": lambda r: r["card"],
    }
    for name, group in groups.items():
        for value in sorted({group(r) for r in answered}):
            of_value = [r for r in answered if group(r) == value]
            lines.append(_summary(f"{name}: {value}", of_value))
    return "\n".join(lines) + "\n"


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


def _summary(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    shares = [beyond(r) / r["peak_bytes"] for r in rows]
    passing = [beyond(r) / (r["peak_bytes"] - r["held_bytes"]) for r in rows]
    sizes = [beyond(r) / MIB for r in rows]
    return (
        f"| {name} | {len(rows)} | {mean(shares):.1%} | {max(shares):.1%} | {mean(passing):.1%} | "
        f"{max(passing):.1%} | {mean(sizes):,.0f} | {max(sizes):,.0f} |"
    )


if __name__ == "__main__":
    main()
