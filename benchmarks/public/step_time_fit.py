"""Public steps as the roofline sees them, constants fitted without one group of them at a time, and
the interval that the errors give."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, inf, log
from typing import Any

from benchmarks.pages import table
from benchmarks.public import stacks
from benchmarks.public.conditions import NotExpressibleError
from benchmarks.public.grade import TINY, half_width
from benchmarks.public.replay import Replay
from lora_profiler.facts.catalog import find_gpu
from lora_profiler.memory.kernels import StepKernels
from lora_profiler.question.workload import Workload
from lora_profiler.runs.comparison.throughput import quantile
from lora_profiler.steptime.constants import HOSTS, Fixed, Rates, rates_of
from lora_profiler.steptime.fit import Fitted, Measured, fit
from lora_profiler.steptime.roofline import Step, loaded, update_bytes, update_launches
from lora_profiler.trace.kernels import step_kernels

FAMILIES = {
    "a100": ("a100_sxm_80gb", "a100_sxm_40gb", "a100_pcie_80gb", "a100_pcie_40gb"),
    "geforce": ("rtx_3090", "rtx_4090"),
}
USUAL = Fixed()
HOST_SHARES = (0.25, 1.0)
"""Up to which errors are told apart. Beyond a quarter hosts differ."""
LAUNCHES = [half * 0.5e-6 for half in range(20, 81)]
"""Seconds of a launch with torch 2.0, of which the one that suits is taken: 10 to 40 us."""
LAUNCH_ROUNDS = 3


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
        """Raises NotExpressibleError."""
        optimizer = replay.workload.setup.optimizer
        if update_bytes(replay.workload.setup, {}) is None:
            raise NotExpressibleError(f"{optimizer}: the bytes of its update are not counted")
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
            micro=plain._replace(kernels=kernels),
            accumulation=setup.accumulation,
            update_bytes=moved,
            update_launches=update_launches(setup, plain.trained_tensors, elements),
        )
        return Case(replay, step)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the A100 rows say: the fit of all, the seconds of a launch with torch 2.0, and every
    row's error without its model and without its source, with how far `beyond` the hosts' range it
    lies."""

    fitted: Fitted
    older_launch: float
    by_model: Mapping[str, float]
    by_source: Mapping[str, float]
    beyond_model: Mapping[str, float]
    beyond_source: Mapping[str, float]


def outcome(cases: Sequence[Case], fixed: Fixed = USUAL, **changed: Any) -> Outcome:
    rows = [(case, case.measured(fixed=fixed, **changed)) for case in cases]
    fitted, launch = fit_with_launch(rows, fixed.launch_seconds)
    found = [
        {
            id: told
            for group in dict.fromkeys(map(key, cases))
            for id, told in left_out(rows, key, group, fixed.launch_seconds).items()
        }
        for key in (group_of, source_of)
    ]
    parts = [{id: told[part] for id, told in each.items()} for part in (0, 1) for each in found]
    return Outcome(fitted, launch, *parts)


def group_of(case: Case) -> str:
    return case.replay.group


def source_of(case: Case) -> str:
    return case.replay.source


Rows = Sequence[tuple[Case, Measured]]


def left_out(
    rows: Rows, key: Callable[[Case], str], group: str, usual: float
) -> dict[str, tuple[float, float]]:
    """Errors of a group's rows by the constants of all others', and how far beyond hosts' range."""
    fitted, launch = fit_with_launch([each for each in rows if key(each[0]) != group], usual)
    own = [(case, row) for case, row in rows if key(case) == group]
    told = zip(own, with_launch(own, launch / usual), strict=True)
    return {
        row.id: (fitted.error(row), beyond(fitted, row, case.replay.rounding))
        for (case, _), row in told
    }


def beyond(fitted: Fitted, row: Measured, rounding: float, hosts: float = HOSTS) -> float:
    """How far a row lies outside of what hosts within `hosts` would take, beyond what its source
    rounds away, as the half-width of an interval that would just hold it; 0 within."""
    quick, slow = (
        row.load.on_host(times).seconds(fitted.eta, fitted.beta) for times in (1 / hosts, hosts)
    )
    return max(0.0, quick / (row.seconds + rounding) - 1, 1 - slow / (row.seconds - rounding))


def fit_with_launch(rows: Rows, usual: float) -> tuple[Fitted, float]:
    """eta and beta, and the seconds of a launch that leave rows of torch 2.0 the least absolute
    error; where there is none of these, the `usual` ones."""
    older = [each for each in rows if each[0].replay.older_host]
    launch, fitted = usual, fit([row for _, row in rows])
    for _ in range(LAUNCH_ROUNDS if older else 0):
        spread = partial(_spread, older, usual, fitted)
        launch = min(LAUNCHES, key=spread)
        fitted = fit(with_launch(rows, launch / usual))
    return fitted, launch


def with_launch(rows: Rows, times: float) -> list[Measured]:
    """The rows, with launches that take so many times as long where the host has torch 2.0."""
    return [
        row._replace(load=row.load.on_host(times)) if case.replay.older_host else row
        for case, row in rows
    ]


def _spread(rows: Rows, usual: float, fitted: Fitted, launch: float) -> float:
    return sum(
        abs(log(row.load.seconds(fitted.eta, fitted.beta) / row.seconds))
        for row in with_launch(rows, launch / usual)
    )


def host_share(case: Case, found: Outcome) -> float:
    (row,) = with_launch([(case, case.measured())], found.older_launch / USUAL.launch_seconds)
    return row.load.host / row.load.micro_seconds(found.fitted.eta, found.fitted.beta)


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
    groups = sorted(grouped_errors(cases, errors, key).items())
    lines = table(
        f"{title} | >rows | >median / p90 / max | >median, signed",
        ((name, len(found), three(found), median_signed(found)) for name, found in groups),
    )
    return [*lines, ""]


def published_width(cases: Sequence[Case], found: Outcome) -> float:
    """Half-width of the interval around the times of hosts within `HOSTS`: what nine in ten rows
    are within whose model was left out, each model weighing the same, and those whose source was,
    in whole percent."""
    width = max(
        half_width(grouped_errors(cases, beyond, key))
        for beyond, key in ((found.beyond_model, group_of), (found.beyond_source, source_of))
    )
    return ceil(100 * width - TINY) / 100


def by_host_share(cases: Sequence[Case], found: Outcome) -> list[tuple[float, list[Case]]]:
    bounds = zip((-inf, *HOST_SHARES), HOST_SHARES, strict=False)
    return [(to, [c for c in cases if least < host_share(c, found) <= to]) for least, to in bounds]


def grouped_errors(
    cases: Sequence[Case], errors: Mapping[str, float], key: Callable[[Case], str]
) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = {}
    for case in cases:
        groups.setdefault(key(case), []).append(errors[case.replay.id])
    return groups


def covered(
    cases: Sequence[Case], beyond: Mapping[str, float], key: Callable[[Case], str]
) -> list[str]:
    """Each group's rows against the interval that those of the other groups give."""
    lines, inside = [], 0
    groups = grouped_errors(cases, beyond, key)
    for name, of in groups.items():
        width = half_width({other: e for other, e in groups.items() if other != name})
        within = sum(each <= width for each in of)
        inside += within
        lines.append((name, len(of), within, f"{width:.1%}"))
    return [
        f"{inside} of {len(cases)} ({inside / len(cases):.1%}) lie inside what the others give:",
        "",
        *table("left out | >rows | >inside | >half-width", lines),
        "",
    ]
