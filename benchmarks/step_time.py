"""Step time: predictions against public measurements, each by constants that were fitted without
it.

    python -m benchmarks.step_time [--write]

Every open throughput row of a whole model on one card becomes a workload and a stack
(`public_rows/replay.py`), its kernels are traced, and eta and beta are fitted to the A100 rows:
leave one model out, leave one source out. Prints the report; `--write` writes it to
`results/step_time.md`, every row to `results/step_time.json`, and to the package the constants of
all rows and the rows as evidence. Three minutes on one core; needs the test extra.
"""

import gc
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from math import ceil, inf
from pathlib import Path
from typing import Any

import torch

from benchmarks.public_rows import stacks
from benchmarks.public_rows.conditions import NotExpressibleError
from benchmarks.public_rows.packaged import step_document, write
from benchmarks.public_rows.replay import Replay, replay_of, throughput_rows
from lora_profiler.catalog import find_gpu
from lora_profiler.comparison.percentiles import quantile
from lora_profiler.kernels import StepKernels
from lora_profiler.steptime.constants import Fixed, Rates, rates_of
from lora_profiler.steptime.fit import Fitted, Measured, fit, leave_out
from lora_profiler.steptime.roofline import Step, loaded
from lora_profiler.steptime.step import update_bytes
from lora_profiler.traced.kernels import step_kernels
from lora_profiler.workload import Workload

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).parents[1] / "lora_profiler" / "steptime" / "data"
FAMILIES = {
    "a100": ("a100_sxm_80gb", "a100_sxm_40gb", "a100_pcie_80gb", "a100_pcie_40gb"),
    "geforce": ("rtx_3090", "rtx_4090"),
}
USUAL = Fixed()
HOST_SHARES = (0.10, 0.25, 1.0)
MARKS = {"leave one model out": (3, 13), "leave one source out": (4, 13)}
"""Median and 90th percentile of absolute errors, in %, that the A100 rows are to reach."""


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
        step = Step(
            micro=replace(plain, kernels=kernels),
            accumulation=setup.accumulation,
            update_bytes=moved,
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
    """Half-width of the interval up to each share of host time: the largest error of a row whose
    model was left out, never less than that for a smaller share, in whole percent."""
    result: list[tuple[float, float]] = []
    least, widest = -inf, 0.0
    for share in HOST_SHARES:
        errors = [
            abs(found.by_model[c.replay.id])
            for c in cases
            if least < host_share(c, found.fitted) <= share
        ]
        widest = max(widest, ceil(100 * max(errors, default=0.0)) / 100)
        result.append((share, widest))
        least = share
    return result


def main() -> None:
    torch.set_num_threads(1)
    # the libraries hold a million objects, which would be looked through again and again
    gc.disable()
    traces, cases, stopping_early, left_out = Traces(), [], [], {}
    for row in throughput_rows():
        try:
            replay = replay_of(row)
        except NotExpressibleError as reason:
            left_out[row["id"]] = str(reason)
            continue
        cases.append(traces.case(replay, replay.rewrites))
        stopping_early.append(
            traces.case(replay, [r for r in replay.rewrites if r is not stacks.reentrant])
        )
    a100 = [case for case in cases if in_family(case, "a100")]
    found = outcome(a100)
    variants = {
        "as it is": found,
        "checkpointing that stops early everywhere": outcome(
            [case for case in stopping_early if in_family(case, "a100")]
        ),
        "no waves": outcome(a100, change=lambda rates: replace(rates, processors=0)),
        "no cache": outcome(a100, change=lambda rates: replace(rates, l2_bytes=0)),
        "no host": outcome(a100, fixed=Fixed(launch_seconds=0.0)),
        "22 us a launch": outcome(a100, fixed=Fixed(launch_seconds=22e-6)),
    }
    geforce = [case for case in cases if in_family(case, "geforce")]
    from_the_other = leave_out(
        [c.measured() for c in geforce], {c.replay.id: c.replay.card for c in geforce}
    )
    others = [
        case for case in cases if not in_family(case, "a100") and not in_family(case, "geforce")
    ]
    text = "\n".join(report(a100, found, variants, geforce, from_the_other, others, left_out))
    print(text)
    if "--write" in sys.argv[1:]:
        (RESULTS / "step_time.md").write_text(text, encoding="utf-8")
        rows = [json_row(case, found, from_the_other) for case in cases]
        everything = {"rows": rows, "left_out": left_out, "half_widths": widths(a100, found)}
        (RESULTS / "step_time.json").write_text(
            json.dumps(everything, indent=1) + "\n", encoding="utf-8"
        )
        fits = {"a100": found.fitted, "geforce": fit([case.measured() for case in geforce])}
        families = [
            {
                "family": name,
                "eta": round(f.eta, 4),
                "beta": round(f.beta, 4),
                "cards": FAMILIES[name],
                "rows": sorted(f.rows),
            }
            for name, f in fits.items()
        ]
        constants = {"families": families, "half_widths": widths(a100, found)}
        (DATA / "constants.json").write_text(
            json.dumps(constants, indent=1) + "\n", encoding="utf-8"
        )
        write("steps", step_document(everything))


def json_row(case: Case, found: Outcome, from_the_other: Mapping[str, float]) -> dict[str, Any]:
    replay, fitted, load = case.replay, found.fitted, case.measured().load
    fitted_to = replay.id in found.by_model or replay.id in from_the_other
    return {
        "id": replay.id,
        "model": replay.group,
        "source": replay.source,
        "card": replay.card,
        "method": replay.method,
        "tier": replay.tier,
        "measured_seconds": round(replay.seconds, 4),
        "error_model_left_out": _rounded(found.by_model.get(replay.id)),
        "error_source_left_out": _rounded(found.by_source.get(replay.id)),
        "error_card_left_out": _rounded(from_the_other.get(replay.id)),
        "error_by_a100_constants": None if fitted_to else _rounded(fitted.error(case.measured())),
        "share_of_host": round(load.host / load.micro_seconds(fitted.eta, fitted.beta), 3),
        "launches": case.step.micro.launches,
        "assumed": list(replay.assumed),
    }


def _rounded(error: float | None) -> float | None:
    return None if error is None else round(error, 4)


def report(
    a100: Sequence[Case],
    found: Outcome,
    variants: Mapping[str, Outcome],
    geforce: Sequence[Case],
    from_the_other: Mapping[str, float],
    others: Sequence[Case],
    left_out: Mapping[str, str],
) -> list[str]:
    fitted, by_model, by_source = found.fitted, found.by_model, found.by_source
    tests = {"leave one model out": by_model, "leave one source out": by_source}
    lines = [
        "# Step time against public measurements",
        "",
        (
            "Written by `python -m benchmarks.step_time --write`; errors are (predicted - measured)"
            " / measured of a step's seconds,"
        ),
        "in %, as median / 90th percentile / largest of their absolute values. Traced by "
        + ", ".join(
            f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "bitsandbytes")
        )
        + ".",
        "",
        (
            f"{len(a100)} A100 rows, fitted: eta {fitted.eta:.3f}, beta {fitted.beta:.3f}. Only"
            " these two were fitted; the rules"
        ),
        (
            "were chosen with these rows in sight, so that on new ones somewhat more is to be"
            " expected."
        ),
        "",
        "| test | rows | median / p90 / max | to be reached |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, errors in tests.items():
        middle, high = MARKS[name]
        lines.append(f"| {name} | {len(errors)} | {three(errors.values())} | {middle} / {high} |")
    trusted = [by_model[c.replay.id] for c in a100 if c.replay.tier < 3]
    lines += [f"| leave one model out, tiers 1 and 2 | {len(trusted)} | {three(trusted)} | |", ""]
    lines += grouped("model, left out", a100, by_model, lambda case: case.replay.group)
    lines += grouped("source, left out", a100, by_source, lambda case: case.replay.source)
    lines += grouped("method, model left out", a100, by_model, lambda case: case.replay.method)
    lines += [
        (
            "| share of host time, model left out | rows | median / p90 / max | half-width of the"
            " interval |"
        ),
        "| --- | ---: | ---: | ---: |",
    ]
    least = -inf
    for share, width in widths(a100, found):
        here = [by_model[c.replay.id] for c in a100 if least < host_share(c, fitted) <= share]
        lines.append(
            f"| up to {100 * share:.0f} % | {len(here)} | {three(here)} | {100 * width:.0f} |"
        )
        least = share
    lines += [
        "",
        "What a rule is worth, each variant with both constants fitted anew:",
        "",
        "| variant | eta | beta | leave one model out | leave one source out |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, variant in variants.items():
        f = variant.fitted
        errors = f"{three(variant.by_model.values())} | {three(variant.by_source.values())}"
        lines.append(f"| {name} | {f.eta:.3f} | {f.beta:.3f} | {errors} |")
    lines += [
        "",
        (
            "Other cards. GeForce: by the constants of the other card's rows; the rest: by those of"
            " all A100 rows."
        ),
        "",
    ]
    lines += ["| row | card | error | assumed |", "| --- | --- | ---: | --- |"]
    for case in [*geforce, *others]:
        error = from_the_other.get(case.replay.id)
        error = fitted.error(case.measured()) if error is None else error
        lines.append(
            f"| {case.replay.id} | {case.replay.card} | {100 * error:+.1f} |"
            f" {'; '.join(case.replay.assumed)} |"
        )
    lines += ["", "Rows, with their model and their source left out:", ""]
    lines += [
        "| row | method | seconds | model out | source out | host |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for case in a100:
        id, host = case.replay.id, 100 * host_share(case, fitted)
        lines.append(
            f"| {id} | {case.replay.method} | {case.replay.seconds:.3f} | {100 * by_model[id]:+.1f}"
            f" | {100 * by_source[id]:+.1f} | {host:.0f} % |"
        )
    lines += ["", "Assumed where a source does not say:", ""]
    stated: dict[str, int] = {}
    for case in a100:
        for what in case.replay.assumed:
            stated[what] = stated.get(what, 0) + 1
    lines += [f"- {what} ({count} rows)" for what, count in stated.items()]
    lines += ["", "Left out:", ""]
    reasons: dict[str, list[str]] = {}
    for id, reason in left_out.items():
        reasons.setdefault(reason, []).append(id)
    lines += [f"- {reason}: {', '.join(ids)}" for reason, ids in reasons.items()]
    return [*lines, ""]


if __name__ == "__main__":
    main()
