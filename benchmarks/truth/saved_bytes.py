"""Saved activation bytes: predicted against `saved_tensors_hooks` on every case of the tests' grid.

    python -m benchmarks.truth.saved_bytes

Writes `results/saved_bytes.md` and `results/saved_bytes.json`: how many cases are equal to the
byte, by family and by kind, and every case that is not. About five minutes on one core; needs the
test extra.
"""

import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import torch

import cases
import oracle
from benchmarks.pages import versions_of, words_of, write_document, write_page
from lora_profiler.memory.analytic import predict

VERSIONS = versions_of("torch", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class Row:
    case: cases.Case
    real: int
    predicted: int | None

    @property
    def exact(self) -> bool:
        return self.real == self.predicted


def measure() -> Iterator[Row]:
    """One row a case; cases that differ only in size share a model."""

    def but_for_size(case: cases.Case) -> tuple[object, ...]:
        s = case.setup
        return case.config, case.method, s.dtype, s.attention, s.checkpointing

    for _, group in groupby(cases.grid(), key=but_for_size):
        members = list(group)
        model = oracle.build(cases.CONFIGS[members[0].config], members[0].setup)
        for case in members:
            real = oracle.saved_activation_bytes(model, case.setup)
            yield Row(case, real, predict(cases.workload(case)).saved_activation_bytes)


def counted(rows: list[Row], key: str) -> list[tuple[str, int, int]]:
    """(value, exact cases, cases) by one property of the case."""
    values = {
        "family": lambda c: cases.family(c.config),
        "trains": lambda c: c.method,
        "dtype": lambda c: c.setup.dtype,
        "attention": lambda c: c.setup.attention,
        "checkpointing": lambda c: "on" if c.setup.checkpointing else "off",
        "batch x sequence": lambda c: f"{c.setup.batch_size} x {c.setup.seq_len}",
    }
    number, exact = (
        Counter(values[key](r.case) for r in rows),
        Counter(values[key](r.case) for r in rows if r.exact),
    )
    return [(value, exact[value], number[value]) for value in number]


def as_markdown(rows: list[Row], seconds: float) -> str:
    failures = [r for r in rows if not r.exact]
    lines = [
        "# Saved activation bytes, predicted and real",
        "",
        f"{len(rows) - len(failures)} of {len(rows)} cases equal to the byte. Real: the"
        " storages that `saved_tensors_hooks` sees",
        "in one forward pass of a transformers + PEFT model on the CPU",
        f"({words_of(VERSIONS)}).",
        f"`python -m benchmarks.truth.saved_bytes`, {seconds:.0f} s on one thread.",
    ]
    for key in ("family", "trains", "dtype", "attention", "checkpointing", "batch x sequence"):
        lines += ["", f"| {key} | exact | cases |", "|---|---:|---:|"]
        lines += [
            f"| {value} | {exact} | {number} |" for value, exact, number in counted(rows, key)
        ]
    lines += ["", "## Cases that are not equal", ""]
    if not failures:
        lines.append("None.")
    else:
        lines += ["| case | real | predicted | difference |", "|---|---:|---:|---:|"]
        lines += [
            f"| {r.case} | {r.real} | {r.predicted} | {(r.predicted or 0) - r.real:+} |"
            for r in failures
        ]
    return "\n".join(lines) + "\n"


def document(rows: list[Row]) -> dict[str, Any]:
    failures = [
        {"case": str(r.case), "real": r.real, "predicted": r.predicted} for r in rows if not r.exact
    ]
    by_family = {
        value: {"exact": exact, "cases": number} for value, exact, number in counted(rows, "family")
    }
    exact = len(rows) - len(failures)
    return {
        "cases": len(rows),
        "exact": exact,
        "families": by_family,
        "failures": failures,
        "versions": VERSIONS,
    }


def main() -> int:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    started = time.perf_counter()
    rows = []
    for row in measure():
        rows.append(row)
        if not row.exact:
            print(row.case, row.real, row.predicted, flush=True)
        if len(rows) % 500 == 0:
            print(f"{len(rows)} cases", flush=True)
    write_page("saved_bytes", as_markdown(rows, time.perf_counter() - started))
    write_document("saved_bytes", document(rows))
    inexact = sum(not r.exact for r in rows)
    print(f"{len(rows) - inexact} of {len(rows)} exact")
    return 1 if inexact else 0


if __name__ == "__main__":
    sys.exit(main())
