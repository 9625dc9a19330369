"""Step time: predictions against public measurements, each by constants that were fitted without it.

    python -m benchmarks.step_time [--write]

Every open throughput row on one card becomes a workload and a stack (`public_rows/replay.py`), its kernels are traced, and eta
and beta are fitted to the A100 rows: leave one model out, leave one source out. Prints the errors; `--write` writes
`results/step_time.md` and `results/step_time.json`. A minute or two on one core; needs the test extra.
"""

import json
import sys
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.public_rows import stacks
from benchmarks.public_rows.replay import NotExpressibleError, Replay, replay_of, throughput_rows
from lora_profiler.catalog import find_gpu
from lora_profiler.kernel import StepKernels
from lora_profiler.steptime.constants import Fixed, rates_of
from lora_profiler.steptime.fit import Fitted, Measured, fit, leave_out
from lora_profiler.steptime.roofline import Step, loaded
from lora_profiler.steptime.update import update_bytes
from lora_profiler.traced.kernels import step_kernels
from lora_profiler.workload import Workload

RESULTS = Path(__file__).parent / "results"
FAMILY = "a100"


@dataclass(frozen=True, slots=True)
class Case:
    replay: Replay
    step: Step
    measured: Measured


def sizes_of(workload: Workload) -> stacks.Sizes:
    config, setup = workload.model.config, workload.setup
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    return stacks.Sizes(
        tokens=setup.batch_size * setup.seq_len,
        hidden=hidden,
        inner=config.get("intermediate_size") or 4 * hidden,
        vocabulary=config["vocab_size"],
        q_width=heads * width,
        kv_width=(config.get("num_key_value_heads") or heads) * width,
        layers=workload.model.num_layers,
    )


class Cases:
    """Cases of rows; rows that differ in their stack alone share a trace."""

    def __init__(self) -> None:
        self._traced: dict[Any, StepKernels] = {}

    def case(self, replay: Replay) -> Case:
        key = (replay.workload, replay.build)
        if key not in self._traced:
            self._traced[key] = step_kernels(replay.workload, replay.build)
        plain = self._traced[key]
        kernels = stacks.rewritten(plain.kernels, sizes_of(replay.workload), replay.rewrites)
        setup = replay.workload.setup
        moved = update_bytes(setup, plain.trainable, clipping=replay.clipping)
        assert moved is not None
        step = Step(micro=replace(plain, kernels=kernels), accumulation=setup.accumulation, update_bytes=moved)
        rates = rates_of(find_gpu(replay.card))
        assert rates is not None
        return Case(replay, step, Measured(replay.id, loaded(step, rates, Fixed()), replay.seconds))


def host_share(case: Case, fitted: Fitted) -> float:
    load = case.measured.load
    return load.host / load.micro_seconds(fitted.eta, fitted.beta)


def three(errors: list[float]) -> str:
    """Median, 90th percentile and largest of absolute errors, in %."""
    if not errors:
        return "-"
    found = sorted(100 * abs(e) for e in errors)
    return f"{median(found):.1f} / {found[min(len(found) - 1, int(0.9 * len(found)))]:.1f} / {found[-1]:.1f}"


def main() -> None:
    torch.set_num_threads(1)
    cases, left_out, made = [], {}, Cases()
    for row in throughput_rows():
        try:
            cases.append(made.case(replay_of(row)))
        except NotExpressibleError as reason:
            left_out[row["id"]] = str(reason)
    a100 = [case for case in cases if case.replay.card.startswith(FAMILY)]
    rows = [case.measured for case in a100]
    fitted = fit(rows)
    by_model = leave_out(rows, {case.replay.id: case.replay.group for case in a100})
    by_source = leave_out(rows, {case.replay.id: case.replay.source for case in a100})
    print(f"{len(rows)} rows, eta {fitted.eta:.4f}, beta {fitted.beta:.4f}")
    print("leave one model out ", three(list(by_model.values())))
    print("leave one source out", three(list(by_source.values())))
    for case in cases:
        r = case.replay
        error = by_model[r.id] if r.id in by_model else fitted.error(case.measured)
        source = by_source.get(r.id, 0.0)
        print(
            f"{r.id:45} {r.method:6} {r.kernels[:30]:30} b{r.workload.setup.batch_size} {100 * error:7.1f} {100 * source:7.1f}"
            f" host {100 * host_share(case, fitted):3.0f}% {r.seconds:8.3f} s"
        )
    for name in sorted({c.replay.group for c in a100}):
        print(name, three([by_model[c.replay.id] for c in a100 if c.replay.group == name]))
    for low, high in ((0, 0.1), (0.1, 0.25), (0.25, inf)):
        print(low, high, three([by_model[c.replay.id] for c in a100 if low <= host_share(c, fitted) < high]))
    for id, reason in left_out.items():
        print(id, reason)


if __name__ == "__main__":
    main()
