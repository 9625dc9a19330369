"""Peak memory: predictions against public measurements, no constant fitted to any.

    python -m benchmarks.public_accuracy [--write | --check] [--only TEXT]

Every open memory row becomes a workload and a stack (`public_rows/memory.py`): the real model on the meta device, with what the
libraries of the time and the fused kernels ran in place of today's code. Its step is traced, and a simulated allocator reads off
what the row's counter counted. Prints the report; `--write` writes it to `results/public_accuracy.md`, every row to
`results/public_accuracy.json`; `--check` compares with that, and fails with the rows that moved. Minutes on one core; needs the
test extra.
"""

import argparse
import gc
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Any

import torch

from benchmarks.public_rows.memory import GIB, MemoryRow, NotExpressibleError, memory_row, memory_rows
from benchmarks.public_rows.sharded import sharded_peak
from benchmarks.public_rows.tape import Tape, tape_of

FILE = Path(__file__).parent / "results" / "public_accuracy.json"
MARKS = {1: (0.005, 0.03), 2: (0.01, None)}
"""Mean and worst absolute error that rows of a tier are to reach."""
NOMINAL = 0.9
MOVED = 0.001
"""An error that grows by more than this share of the measured value has moved."""
CARDS_GB = (12, 16, 24, 32, 40, 48, 80, 96, 141)
EXPLAINED = {
    "litgpt-rt:48": "7 to 9 kB a token and layer of its 4-bit layers are not understood; the same code is 0.8 % low on Llama",
    "litgpt-rt:49": "as litgpt-rt:48",
}


class Tapes:
    """Traces of rows; rows of one run share one."""

    def __init__(self) -> None:
        self._traced: dict[Any, Tape] = {}

    def of(self, row: MemoryRow) -> Tape:
        key = (row.workload, row.stack)
        if key not in self._traced:
            self._traced = {key: tape_of(row.workload, row.build, row.contexts)}  # rows of one run follow one another
        return self._traced[key]


def predicted(row: MemoryRow, tape: Tape) -> dict[str, int]:
    """Bytes that the row's counter would show; for a reserved one also the allocated bytes, its lower end."""
    if row.ranks > 1:
        return {"bytes": sharded_peak(tape, row.workload, row.ranks, wide_shards=row.wide_shards, prefetched=row.prefetched)}
    if row.reading == "at rest":
        return {"bytes": tape.at_end() + row.held_bytes}
    if row.reading == "after the update":
        return {"bytes": tape.after_update() + row.held_bytes}
    allocated, reserved = tape.peak(row.is_first_step)
    if row.reading == "reserved":
        return {"bytes": reserved, "low_bytes": allocated}
    return {"bytes": allocated + row.held_bytes}


def outcome(only: str = "") -> dict[str, Any]:
    tapes, rows, left_out = Tapes(), [], {}
    for raw in memory_rows():
        if only not in raw["id"]:
            continue
        try:
            row = memory_row(raw)
        except NotExpressibleError as reason:
            left_out[f"{raw['id']} {raw['quantity']}"] = str(reason)
            continue
        found = predicted(row, tapes.of(row))
        rows.append(
            {
                "id": row.id,
                "quantity": row.quantity,
                "reading": row.reading,
                "model": row.group,
                "source": row.source,
                "published": raw["source"],
                "card": raw["gpu"],
                "cards": int(raw["n_gpus"] or 1),
                "method": row.workload.setup.method,
                "batch_size": row.workload.setup.batch_size,
                "seq_len": row.workload.setup.seq_len,
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
        )
        print(f"{rows[-1]['id']} {row.quantity}: {100 * rows[-1]['error']:+.3f} %", file=sys.stderr, flush=True)
    versions = {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")}
    return {"versions": versions, "rows": rows, "left_out": left_out}


# --- what the errors say ------------------------------------------------------------------------------------------------


def graded(rows: Iterable[Mapping[str, Any]], tier: int) -> list[Mapping[str, Any]]:
    """Rows of a tier whose counter is exact and whose stack is known without them."""
    return [row for row in rows if row["tier"] == tier and not row["apart"] and row["reading"] != "reserved"]


def mean(errors: Iterable[float]) -> float:
    found = [abs(e) for e in errors]
    return sum(found) / len(found) if found else 0.0


def half_width(errors: Sequence[float]) -> float:
    """Of an interval that a new row lies in with the nominal probability, were it drawn like these: the split-conformal quantile
    of absolute errors (Vovk et al., 2005): number ceil((n + 1) x 0.9) of n in order, the largest where there are too few."""
    ordered = sorted(abs(e) for e in errors)
    return ordered[min(len(ordered), ceil((len(ordered) + 1) * NOMINAL)) - 1]


def intervals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each source's rows against an interval that the other sources' errors gave."""
    usable = [row for row in rows if row["reading"] != "reserved" and row["tier"] < 3 and not row["apart"]]
    by_source = defaultdict(list)
    for row in usable:
        by_source[row["source"]].append(row["error"])
    covered = {}
    for source, errors in by_source.items():
        width = half_width([e for other, found in by_source.items() if other != source for e in found])
        covered[source] = {"half_width": width, "rows": len(errors), "inside": sum(abs(e) <= width for e in errors)}
    inside, n = (sum(each[key] for each in covered.values()) for key in ("inside", "rows"))
    return {
        "half_width": half_width([row["error"] for row in usable]),
        "by_source": covered,
        "inside": inside,
        "rows": n,
        "binomial": binomial_interval(inside, n),
        "under": sum(row["error"] < 0 for row in usable),
        "under_by_more_than_1_percent": sum(row["error"] < -0.01 for row in usable),
    }


def binomial_interval(hits: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % interval of a share, by bisection of the binomial tail."""
    from math import comb

    def tail(p: float, low: int, high: int) -> float:
        return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(low, high + 1))

    def solve(is_above: Any) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if is_above(middle) else (middle, high)
        return (low + high) / 2

    lower = 0.0 if hits == 0 else solve(lambda p: tail(p, hits, n) > 0.025)
    upper = 1.0 if hits == n else solve(lambda p: tail(p, 0, hits) < 0.025)
    return lower, upper


def verdicts(rows: Sequence[Mapping[str, Any]], width: float) -> dict[str, int]:
    """Would it run on a card of so much memory? Said with the upper end of the interval, held against the measured peak."""
    found = {"asked": 0, "fits": 0, "refused though it fits": 0, "accepted though it does not": 0}
    for row in rows:
        if row["reading"] not in ("peak",) or row["tier"] > 2:
            continue
        for size in CARDS_GB:
            capacity = size * 10**9
            fits, said = row["measured_bytes"] <= capacity, row["predicted_bytes"] * (1 + width) <= capacity
            found["asked"] += 1
            found["fits"] += fits
            found["refused though it fits"] += fits and not said
            found["accepted though it does not"] += said and not fits
    return found


# --- the report -----------------------------------------------------------------------------------------------------------


def report(document: Mapping[str, Any]) -> list[str]:
    rows = document["rows"]
    told = intervals(rows)
    lines = [
        "# Peak memory against public measurements",
        "",
        "Written by `python -m benchmarks.public_accuracy --write`; errors are (predicted - measured) / measured, in %. No constant",
        "was fitted to any row. Traced by " + ", ".join(f"{n} {v}" for n, v in document["versions"].items()) + ".",
        "",
        "| rows | n | mean abs. | worst | in tolerance | to be reached |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for tier in (1, 2):
        found = graded(rows, tier)
        errors = [row["error"] for row in found]
        held = sum(row["tolerance"] is None or abs(row["error"]) <= row["tolerance"] for row in found)
        middle, worst = MARKS[tier]
        goal = f"mean {100 * middle:g}" + (f", worst {100 * worst:g}" if worst else "")
        lines.append(
            f"| tier {tier} | {len(found)} | {100 * mean(errors):.2f} | {100 * max(errors, key=abs):+.2f} | {held} | {goal} |"
        )
    lines += ["", "| source, what its counter counted | n | mean abs. | worst |", "| --- | ---: | ---: | ---: |"]
    groups: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        where = ", several cards" if row["cards"] > 1 and row["reading"] == "peak" else ""
        groups[f"{row['source']}, {row['reading']}{where}{' (apart)' if row['apart'] else ''}"].append(row["error"])
    for name, errors in groups.items():
        lines.append(f"| {name} | {len(errors)} | {100 * mean(errors):.2f} | {100 * max(errors, key=abs):+.2f} |")
    low, high = told["binomial"]
    fits = verdicts(rows, told["half_width"])
    lines += [
        "",
        "## The interval",
        "",
        f"Half-width {100 * told['half_width']:.2f} %: the split-conformal quantile of all graded rows' errors at {NOMINAL:.0%}. Tested source by",
        "source, each against the errors of the others alone:",
        "",
        f"- {told['inside']} of {told['rows']} rows lie inside: {told['inside'] / told['rows']:.1%}, 95 % binomial interval {low:.1%} to {high:.1%}.",
        *(f"- {s}: {c['inside']} of {c['rows']} within {100 * c['half_width']:.2f} %" for s, c in told["by_source"].items()),
        f"- {told['under']} of {told['rows']} are predicted too low, {told['under_by_more_than_1_percent']} by more than 1 %.",
        f"- Cards of {', '.join(map(str, CARDS_GB))} GB, told with the interval's upper end: {fits['refused though it fits']} false refusals among "
        f"{fits['fits']} that fit, {fits['accepted though it does not']} false acceptances among {fits['asked'] - fits['fits']} that do not.",
        "",
    ]
    reserved = [row for row in rows if row["reading"] == "reserved"]
    inside = sum(row["predicted_low_bytes"] <= row["measured_bytes"] <= row["predicted_bytes"] for row in reserved)
    lines += [
        "## Reserved bytes",
        "",
        f"Told as a range, from the allocated peak to what a simulated allocator reserves: {inside} of {len(reserved)} measured ones lie in it.",
        "",
        "| row | low, GiB | high, GiB | measured, GiB |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {r['id']} | {r['predicted_low_bytes'] / GIB:.2f} | {r['predicted_bytes'] / GIB:.2f} | {r['measured_bytes'] / GIB:.2f} |"
            for r in reserved
        ),
        "",
        "## Shown apart",
        "",
    ]
    reasons: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row["apart"]:
            reasons[row["apart"]].append(f"{row['id']} {100 * row['error']:+.2f} %")
    lines += [f"- {reason}: {', '.join(ids)}" for reason, ids in reasons.items()]
    lines += ["", "## Misses", ""]
    missed = [r for r in rows if not r["apart"] and r["reading"] != "reserved" and r["tolerance"] and abs(r["error"]) > r["tolerance"]]
    lines += [f"- {r['id']}, {r['quantity']}: {100 * r['error']:+.2f} %. {EXPLAINED.get(r['id'], 'Not understood')}." for r in missed]
    lines += ["No graded row is out of its tolerance."] if not missed else []
    lines += ["", "## Rows", "", "| row | counter | method | stack | measured, GiB | error, % | tier |", "| --- | --- | --- | --- | ---: | ---: | ---: |"]
    for r in rows:
        lines.append(
            f"| {r['id']} | {r['quantity']} | {r['method']} | {r['stack']}{', ' + str(r['cards']) + ' cards' if r['cards'] > 1 else ''} "
            f"| {r['measured_bytes'] / GIB:.4f} | {100 * r['error']:+.3f} | {r['tier']} |"
        )
    lines += ["", "## Not expressed", ""]
    absent: dict[str, list[str]] = defaultdict(list)
    for name, reason in document["left_out"].items():
        absent[reason].append(name)
    lines += [f"- {reason}: {len(names)} rows, {names[0]} for one" for reason, names in absent.items()]
    return [*lines, ""]


def moved(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows whose error has grown, and rows that are gone."""
    old = {(row["id"], row["quantity"]): row["error"] for row in before}
    new = {(row["id"], row["quantity"]): row["error"] for row in now}
    found = [f"{' '.join(key)}: gone" for key in old if key not in new]
    for key, error in new.items():
        if key not in old or abs(error) > abs(old[key]) + MOVED:
            found.append(f"{' '.join(key)}: {100 * error:+.3f} %, was {100 * old[key]:+.3f} %" if key in old else f"{key}: new")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write results")
    parser.add_argument("--check", action="store_true", help="fail with the rows whose error has grown")
    parser.add_argument("--render", action="store_true", help="run nothing; write the report of the rows that are there")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose id contains it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    gc.disable()  # the libraries hold a million objects, which would be looked through again and again
    start = time.monotonic()
    document = json.loads(FILE.read_text("utf-8")) if options.render else outcome(options.only)
    text = "\n".join(report(document))
    print(text)
    print(f"{time.monotonic() - start:.0f} s, {time.process_time():.0f} s of processor time", file=sys.stderr)
    if options.check:
        before = [row for row in json.loads(FILE.read_text("utf-8"))["rows"] if options.only in row["id"]]
        worse = moved(before, document["rows"])
        print("\n".join(worse) or "No error has grown.", file=sys.stderr)
        return 1 if worse else 0
    if options.write or options.render:
        FILE.with_suffix(".md").write_text(text, encoding="utf-8")
        FILE.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
