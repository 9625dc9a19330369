"""Peak memory: predictions against public measurements, no constant fitted to any.

    python -m benchmarks.public.accuracy [--write | --check | --render] [--only TEXT] [--jobs N]

Every open memory row becomes a workload and a stack (`public/memory.py`): the real model on
the meta device, with what the libraries of the time and the fused kernels ran in place of today's
code. Its step is traced, and a simulated allocator reads off what the row's counter counted. Prints
the report; `--write` writes it to `results/public_accuracy.md`, every row to
`results/public_accuracy.json`, and what the package shows of them to
`lora_profiler/facts/evidence/data/memory.json`; `--check` compares with the results, and fails with
the rows whose error has grown; `--render` runs nothing and writes anew of the rows that are there;
`--only` takes rows whose id contains the text. Minutes on one core; needs the test extra.
"""

import gc
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch

from benchmarks.pages import parser_of, read_document, versions_of, write_document, write_page
from benchmarks.public.conditions import NotExpressibleError
from benchmarks.public.memory import MemoryRow, memory_row, memory_rows
from benchmarks.public.packaged import memory_document, write
from benchmarks.public.report import report
from benchmarks.public.sharded import sharded_peak
from benchmarks.public.tape import Tape, tape_of

MOVED = 0.001
"""An error that grows by more than this share of the measured value has moved."""


def predicted(row: MemoryRow, tape: Tape) -> dict[str, int]:
    """Bytes that the row's counter would show; for a reserved one also the allocated bytes, its
    lower end."""
    if row.ranks > 1:
        return {
            "bytes": sharded_peak(
                tape,
                row.workload,
                row.ranks,
                wide_shards=row.wide_shards,
                prefetched=row.prefetched,
            )
        }
    if row.reading == "at rest":
        return {"bytes": tape.at_end() + row.held_bytes}
    if row.reading == "after the update":
        return {"bytes": tape.after_update() + row.held_bytes}
    allocated, reserved = tape.peak(row.is_first_step)
    if row.reading == "reserved":
        return {"bytes": reserved, "low_bytes": allocated}
    return {"bytes": allocated + row.held_bytes}


def outcome(only: str, jobs: int) -> dict[str, Any]:
    """Every row whose id contains `only`, in the order of the file."""
    raw, runs, left_out = memory_rows(), defaultdict(list), {}
    for number, each in enumerate(raw):
        if only in each["id"]:
            try:
                row = memory_row(each)
                runs[row.run].append(number)
            except NotExpressibleError as reason:
                left_out[f"{each['id']} {each['quantity']}"] = str(reason)
    found: dict[int, dict[str, Any]] = {}
    with ProcessPoolExecutor(jobs, initializer=quick_to_trace) as pool:
        for finished in as_completed(
            [pool.submit(rows_of_run, numbers) for numbers in runs.values()]
        ):
            found |= finished.result()
    versions = versions_of("torch", "transformers", "peft", "bitsandbytes")
    return {
        "versions": versions,
        "rows": [found[number] for number in sorted(found)],
        "left_out": left_out,
    }


def quick_to_trace() -> None:
    torch.set_num_threads(1)
    # the libraries hold a million objects, which would be looked through again and again
    gc.disable()


def rows_of_run(numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Rows of one run, by their number in the file: one trace tells all of its counters. Runs in a
    process of its own."""
    raw = memory_rows()
    first = memory_row(raw[numbers[0]])
    tape = tape_of(first.workload, first.build, first.contexts)
    return {number: told(raw[number], memory_row(raw[number]), tape) for number in numbers}


def told(raw: Mapping[str, str], row: MemoryRow, tape: Tape) -> dict[str, Any]:
    found, setup = predicted(row, tape), row.workload.setup
    return {
        "id": row.id,
        "quantity": row.quantity,
        "reading": row.reading,
        "model": row.group,
        "source": row.source,
        "published": raw["source"],
        "card": raw["gpu"],
        "cards": int(raw["n_gpus"]),
        "method": setup.method,
        "batch_size": setup.batch_size,
        "seq_len": setup.seq_len,
        "stack": row.stack,
        "tier": row.tier,
        "tolerance": row.tolerance,
        "measured_bytes": round(row.measured_bytes),
        "predicted_bytes": found["bytes"],
        **({"predicted_low_bytes": found["low_bytes"]} if "low_bytes" in found else {}),
        "error": round(found["bytes"] / row.measured_bytes - 1, 6),
        "apart": row.apart,
        "assumed": list(row.assumed),
    }


def moved(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows whose error has grown, and rows that are gone."""
    old = {(row["id"], row["quantity"]): row["error"] for row in before}
    new = {(row["id"], row["quantity"]): row["error"] for row in now}
    found = [f"{' '.join(key)}: gone" for key in old if key not in new]
    for key, error in new.items():
        if key not in old or abs(error) > abs(old[key]) + MOVED:
            found.append(
                f"{' '.join(key)}: {100 * error:+.3f} %, was {100 * old[key]:+.3f} %"
                if key in old
                else f"{key}: new"
            )
    return found


def main() -> int:
    parser = parser_of(__doc__, write=False, check=False, render=False, only="", jobs=2)
    options = parser.parse_args()
    start = time.monotonic()
    document = (
        read_document("public_accuracy") if options.render else outcome(options.only, options.jobs)
    )
    text = report(document)
    print(text)
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
    if options.check:
        before = [
            row for row in read_document("public_accuracy")["rows"] if options.only in row["id"]
        ]
        worse = moved(before, document["rows"])
        print("\n".join(worse) or "No error has grown.", file=sys.stderr)
        return 1 if worse else 0
    if options.write or options.render:
        write_page("public_accuracy", text)
        write_document("public_accuracy", document)
        write("memory", memory_document(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
