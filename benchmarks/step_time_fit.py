"""Public steps as the roofline sees them, constants fitted without one group of them at a time, and
the interval that the errors give."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any

from benchmarks.public_rows import stacks
from benchmarks.public_rows.grade import TINY, half_width
from benchmarks.public_rows.replay import Replay
from lora_profiler.catalog import find_gpu
from lora_profiler.comparison.percentiles import quantile
from lora_profiler.kernels import StepKernels
from lora_profiler.steptime.constants import Fixed, Rates, rates_of
from lora_profiler.steptime.fit import Fitted, Measured, fit, leave_out
from lora_profiler.steptime.roofline import Step, loaded
from lora_profiler.steptime.step import update_bytes, update_launches
from lora_profiler.traced.kernels import step_kernels
from lora_profiler.workload import Workload

FAMILIES = {
    "a100": ("a100_sxm_80gb", "a100_sxm_40gb", "a100_pcie_80gb", "a100_pcie_40gb"),
    "geforce": ("rtx_3090", "rtx_4090"),
}
USUAL = Fixed()
HOST_SHARES = (0.25, 1.0)
"""Up to which an interval is told. Beyond a quarter hosts differ, and few rows say how much."""


@dataclass(frozen=True, slots=True)
class Case:
    """A row that can be predicted: its question, its step, and what was measured."""

    replay: Replay
    step: Step

    def measured(
        self, fixed: Fixed = USUAL, change: Callable[[Rates], Rates] = lambda rates: rates
    ) -> Measured:
        rates = rates_of(find_gpu(self.replay.card))
        assert rates is not None
        return Measured(
            self.replay.id, loaded(self.step, change(rates), fixed), self.replay.seconds
        )


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


class Traces:
    """Steps of rows; rows that differ in their stack alone share a trace."""

    def __init__(self) -> None:
        self._traced: dict[Any, StepKernels] = {}

    def case(self, replay: Replay, rewrites: Sequence[stacks.Rewrite]) -> Case:
        key = (replay.workload, replay.build)
        if key not in self._traced:
            self._traced[key] = step_kernels(replay.workload, replay.build)
        plain = self._traced[key]
        kernels = stacks.rewritten(plain.kernels, sizes_of(replay.workload), rewrites)
        setup = replay.workload.setup
        moved = update_bytes(setup, plain.trainable, clipping=replay.clipping)
        assert moved is not None
        elements = sum(plain.trainable.values())
        step = Step(
            micro=replace(plain, kernels=kernels),
            accumulation=setup.accumulation,
            update_bytes=moved,
            update_launches=update_launches(setup, plain.trained_tensors, elements),
        )
        return Case(replay, step)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the A100 rows say: the fit of all, and every row's error without its model and without
    its source."""

    fitted: Fitted
    by_model: Mapping[str, float]
    by_source: Mapping[str, float]


def outcome(cases: Sequence[Case], **changed: Any) -> Outcome:
    rows = [case.measured(**changed) for case in cases]
    return Outcome(
        fit(rows),
        leave_out(rows, {case.replay.id: case.replay.group for case in cases}),
        leave_out(rows, {case.replay.id: case.replay.source for case in cases}),
    )


def host_share(case: Case, fitted: Fitted) -> float:
    load = case.measured().load
    return load.host / load.micro_seconds(fitted.eta, fitted.beta)


def in_family(case: Case, family: str) -> bool:
    return case.replay.card in FAMILIES[family]


def three(errors: Iterable[float]) -> str:
    """Median, 90th percentile and largest of absolute errors, in %."""
    found = sorted(100 * abs(e) for e in errors)
    return (
        f"{quantile(found, 0.5):.1f} / {quantile(found, 0.9):.1f} / {found[-1]:.1f}"
        if found
        else "-"
    )


def median_signed(errors: Iterable[float]) -> str:
    return f"{100 * quantile(sorted(errors), 0.5):+.1f}"


def grouped(
    title: str, cases: Sequence[Case], errors: Mapping[str, float], key: Callable[[Case], str]
) -> list[str]:
    lines = [
        f"| {title} | rows | median / p90 / max | median, signed |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name in sorted({key(case) for case in cases}):
        found = [errors[case.replay.id] for case in cases if key(case) == name]
        lines.append(f"| {name} | {len(found)} | {three(found)} | {median_signed(found)} |")
    return [*lines, ""]


def widths(cases: Sequence[Case], found: Outcome) -> list[tuple[float, float]]:
    """Half-width of the interval up to each share of host time: what nine in ten errors of rows
    whose model was left out are within, each model weighing the same, never less than that for a
    smaller share, in whole percent."""
    result: list[tuple[float, float]] = []
    widest = 0.0
    for share, here in by_host_share(cases, found):
        width = half_width(grouped_errors(here, found.by_model, lambda case: case.replay.group))
        widest = max(widest, ceil(100 * width - TINY) / 100)
        result.append((share, widest))
    return result


def by_host_share(cases: Sequence[Case], found: Outcome) -> Iterator[tuple[float, list[Case]]]:
    least = -inf
    for share in HOST_SHARES:
        yield share, [c for c in cases if least < host_share(c, found.fitted) <= share]
        least = share


def grouped_errors(
    cases: Sequence[Case], errors: Mapping[str, float], key: Callable[[Case], str]
) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = {}
    for case in cases:
        groups.setdefault(key(case), []).append(errors[case.replay.id])
    return groups


def covered(
    cases: Sequence[Case], found: Outcome, errors: Mapping[str, float], key: Callable[[Case], str]
) -> list[str]:
    """Each group's rows against the interval that the errors of the other groups give."""
    lines, inside, rows = [], 0, 0
    for share, here in by_host_share(cases, found):
        groups = grouped_errors(here, errors, key)
        for name, of in groups.items():
            width = half_width({other: e for other, e in groups.items() if other != name})
            if width == inf:
                lines.append(f"| {name} | up to {share:.0%} | {len(of)} | no other | |")
                continue
            within = sum(abs(error) <= width for error in of)
            inside, rows = inside + within, rows + len(of)
            lines.append(f"| {name} | up to {share:.0%} | {len(of)} | {within} | {width:.1%} |")
    return [
        f"{inside} of {rows} ({inside / rows:.1%}) lie inside what the others' errors give:",
        "",
        "| left out | share of host time | rows | inside | half-width |",
        "| --- | --- | ---: | ---: | ---: |",
        *lines,
        "",
    ]
