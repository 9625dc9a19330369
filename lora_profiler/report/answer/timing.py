"""How long a step takes, in words: times with their interval side by side, where they go, why LoRA
gains what it gains, the fastest of the smallest cards that suffice, and what ranks send."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lora_profiler.facts.evidence import MeasuredStep
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.fit import smallest_cards
from lora_profiler.planning.placement import Communication
from lora_profiler.planning.timing import SpeedGap, TimedStep, step_time
from lora_profiler.report import labels
from lora_profiler.report.answer.comparison_table import MethodRows
from lora_profiler.report.answer.verdicts import with_sending
from lora_profiler.report.blocks import Rows, Table, cell_table
from lora_profiler.report.evidence import row_label
from lora_profiler.report.labels import method_label
from lora_profiler.report.measured import run_labels
from lora_profiler.report.setup_words import sending_words
from lora_profiler.steptime import PARTS, Part, StepTime
from lora_profiler.units import (
    between_text,
    byte_unit,
    count_text,
    error_text,
    percent_text,
    rate_text,
    seconds_text,
)

THIS_MACHINE = "this machine's processor"
_LEAST_SHARE = 0.01
"""A cause of less than this share of the step is not named, but one of the rest."""


def device_name(answers: Sequence[Answer]) -> str:
    gpu = answers[0].gpu
    return gpu.name if gpu else THIS_MACHINE


def time_table(answers: Sequence[Answer]) -> Table | None:
    """One optimizer step, a column a method: its time with interval, rates, and where the time
    goes. None where none is known.

    With full fine-tuning first a column more for each other method gives it as a share of full.
    """
    times = [answer.step.time if answer.step else None for answer in answers]
    known = [time for time in times if time]
    if not known:
        return None
    rows = MethodRows(answers, with_share=True)
    setup = answers[0].prediction.workload.setup  # of ranks each has a batch, or all work on one
    add_times(rows, times, "" if setup.batches_at_once == 1 else " and rank")
    step = "One step on average" if answers[0].over_data else "One step"
    basis = labels.BASIS_LABELS[known[0].likeness]
    return rows.of_methods(f"{step} on {device_name(answers)}, {basis}")


def add_times(rows: MethodRows, times: Sequence[StepTime | None], per: str = "") -> None:
    """The time of a step with its interval, rates, and where it goes; of at least one that is
    known. `per` is what tokens a second are of besides."""
    known = [time for time in times if time]

    def row(label: str, value: Callable[[StepTime], float], text: _Text, **look: Any) -> None:
        found = [value(time) if time else None for time in times]
        rows.numbers(label, found, text, **{"share": False, **look})

    seconds = partial(seconds_text, largest=max(time.high for time in known))
    row("time", lambda t: t.seconds, seconds, share=True, kind="peak")
    row("at least", lambda t: t.low, seconds)
    row("at most", lambda t: t.high, seconds)
    row(f"tokens a second{per}", lambda t: t.tokens_per_second, rate_text, share=True)
    if all(time.mfu is not None for time in known):
        row("MFU", lambda t: t.mfu or 0.0, percent_text)
    rows.section("where the time goes")
    longest = max(max(time.parts.values(), default=0.0) for time in known)
    for part in PARTS:
        if any(time.parts.get(part) for time in known):
            row(labels.PART_LABELS[part], _spent(part), partial(seconds_text, largest=longest))


def _spent(part: Part) -> Callable[[StepTime], float]:
    return lambda time: time.parts.get(part, 0.0)


_Text = Callable[[float], str]


def time_lines(answers: Sequence[Answer]) -> list[str]:
    """Why LoRA gains what it gains, what times rest on, and where there is none and why."""
    refused: dict[str, list[str]] = {}
    lines: list[str] = []
    for answer in answers:
        if answer.timing and answer.timing.refusal:
            refused.setdefault(answer.timing.refusal, []).append(method_label(answer.prediction))
        if answer.speed_gap:
            lines.append(gap_line(method_label(answer.prediction), answer.speed_gap))
    lines += [f"{', '.join(names)}: {refusal}" for refusal, names in refused.items()]
    known = [answer.step for answer in answers if answer.step]
    if not known:
        return lines
    unfit = (a for a in answers if a.fit and a.fit.verdict == "does_not_fit")
    if beyond := [method_label(a.prediction) for a in unfit if a.step]:
        lines.append(f"{', '.join(beyond)}: speed if it fitted.")
    basis, cards = known[0].time.likeness, known[0].time.constants.cards
    like = f" ({', '.join(cards)})" if cards and basis == "same class" else ""
    definition = f"{labels.BASIS_DEFINITIONS[basis]}{like}"
    lines.append(f"Step times, {labels.BASIS_LABELS[basis]}: {definition}.")
    if any(step.kernels.is_estimate for step in known):
        lines.append(
            "No rule counts this model's kernels: they are read off its traced step, with what such"
            " operators usually read. The interval is wider."
        )
    kernels = (kernel for step in known for kernel in step.kernels.kernels)
    ops = {kernel.op for kernel in kernels if kernel.kind == "attention_forward"}
    borrowed = [words for part, words in _TIMED_AS_FLASH.items() if any(part in op for op in ops)]
    if borrowed and basis != "this machine":
        lines.append(
            f"Attention by {' and '.join(borrowed)} is timed at the share of the peak that flash"
            " attention reaches: no source times it."
        )
    evidence = (evidence_line(step.evidence) for step in known if step.evidence)
    return [*lines, *dict.fromkeys(evidence)]


_TIMED_AS_FLASH = {"cudnn": "cuDNN's kernel", "efficient": "the efficient kernel"}
"""Kernels of attention, by a part of their operators' names, whose speed no public measurement here
tells."""


def gap_line(label: str, gap: SpeedGap) -> str:
    """'LoRA r16 makes 77.43 % of full's FLOPs in 90.20 % of its time, 0.71 s more than its FLOPs
    suggest: it loses 0.40 s to casts of the adapters, ..., and gains 0.17 s in the optimizer's
    update; all else +0.01 s.'"""
    least = _LEAST_SHARE * gap.seconds
    text = partial(seconds_text, largest=max(map(abs, (gap.gap_seconds, *gap.causes.values()))))
    named = [item for item in gap.causes.items() if abs(item[1]) >= least]
    named.sort(key=lambda item: -abs(item[1]))
    lost = [f"{text(spent)} to {labels.CAUSE_LABELS[cause]}" for cause, spent in named if spent > 0]
    won = [f"{text(-spent)} in {labels.CAUSE_LABELS[cause]}" for cause, spent in named if spent < 0]
    both = ("loses", lost), ("gains", won)
    said = [f"{verb} {', '.join(words)}" for verb, words in both if words]
    rest = gap.gap_seconds - sum(spent for _, spent in named)
    longer = "more" if gap.gap_seconds >= 0 else "less"
    more = f"{text(abs(gap.gap_seconds))} {longer} than its FLOPs suggest"
    flops, seconds = percent_text(gap.flops_ratio), percent_text(gap.seconds_ratio)
    shares = f"{flops} of full's FLOPs in {seconds} of its time"
    why = f"it {', and '.join(said)}; all else" if said else "in all"
    return f"{label} makes {shares}, {more}: {why} {'-' if rest < 0 else '+'}{text(abs(rest))}."


def evidence_line(row: MeasuredStep) -> str:
    """'Nearest public measurement: mistralai/Mistral-7B-v0.1, LoRA, 16,384 tokens on a100_sxm_80gb
    took 4.93 s; ...'."""
    error = f"error is {error_text(row.error)} {labels.LEFT_OUT_LABELS[row.left_out]}"
    took = f"{row_label(row)} took {seconds_text(row.measured_seconds)}"
    return f"Nearest public measurement: {took}; the prediction's {error}."


def predicted_time_line(step: TimedStep, measured_seconds: float) -> str:
    """'predicted: 1.23 s (1.03 s to 1.52 s), like a fitted card; error -4.20 %', beside a measured
    time."""
    error = error_text(step.time.seconds / measured_seconds - 1)
    basis, time = labels.BASIS_LABELS[step.time.likeness], step.time
    seconds = seconds_text(time.seconds, time.high)
    return f"predicted: {seconds} ({interval_words(step)}), {basis}; error {error}"


def time_words(answers: Sequence[Answer]) -> str:
    """'full: 1.23 s (1.03 s to 1.52 s); LoRA r16: ...', of the methods whose time is known."""
    pairs = [(method_label(a.prediction), a.step) for a in answers if a.step]
    longest = max((step.time.high for _, step in pairs), default=0.0)
    return "; ".join(
        f"{name}: {seconds_text(s.time.seconds, longest)} ({interval_words(s, longest)})"
        for name, s in pairs
    )


def interval_words(step: TimedStep, largest: float | None = None) -> str:
    """'0.98 s to 1.45 s'; `largest` of the times that stand beside it, if others do."""
    return between_text(step.time.low, step.time.high, largest)


def smallest_cards_table(answers: Sequence[Answer], engine: str = "auto") -> Table | None:
    """A row for each method and card of the smallest memory that is enough, with its tokens a
    second where they are known; None for a device that has no cards, and where nobody knows the
    activations."""
    known = [a for a in answers if a.prediction.is_whole]
    known = [a for a in known if a.prediction.workload.setup.device == "cuda"]
    if not known:
        return None
    rows = (row for answer in known for row in _rows(answer, engine))
    title = "the smallest memory that is enough, the fastest GPU first"
    return cell_table(("", "GPU", "memory", "tokens a second"), rows, title=title, left=2)


def _rows(answer: Answer, engine: str) -> list[tuple[str, ...]]:
    label = method_label(answer.prediction)
    cards = smallest_cards(answer.prediction)
    if not cards:
        return [(label, "none alone", "", "")]
    steps = ((card, step_time(answer.prediction.workload, card, engine).step) for card in cards)
    rates = [(card, step.time.tokens_per_second if step else 0.0) for card, step in steps]
    rows: list[tuple[str, ...]] = []
    for card, rate in sorted(rates, key=lambda it: -it[1]):
        speed = rate_text(rate) if rate else "not known"
        rows.append(("" if rows else label, card.name, f"{card.memory_gib_marketed:g} GB", speed))
    return rows


# --- between ranks --------------------------------------------------------------------------------


def communication_table(answers: Sequence[Answer]) -> Table | None:
    """A row for each kind of collective and phase, a column a method; None where nobody sends."""
    found = [answer.communication for answer in answers]
    known = [each for each in found if each is not None]
    if not known:
        return None
    world = answers[0].prediction.workload.setup.world_size
    rows = MethodRows(answers)
    unit, rows.size = byte_unit(max(each.sent_bytes for each in known))
    for kind in dict.fromkeys((t.collective, t.phase) for each in known for t in each.traffic):
        label = f"{kind[0].replace('_', '-')}, {run_labels.PHASE_SHORT[kind[1]]}"
        rows.add(label, *(_cell(each, kind, rows) for each in found))
    sent = (rows.text(each.sent_bytes) if each else "" for each in found)
    rows.add("a rank sends", *sent, kind="total")
    network = known[0].network
    if network is not None:
        texts = ("" if e is None or e.seconds is None else seconds_text(e.seconds) for e in found)
        rows.add(f"at least, over {network.key}", *texts, kind="peak")
        bounds = [step_bounds(answer) for answer in answers]
        longest = max((b[1] for b in bounds if b), default=0.0)
        ends = ("step, if all of it is hidden behind compute", "step, if nothing is")
        for end, label in enumerate(ends if any(bounds) else ()):
            rows.add(label, *("" if b is None else seconds_text(b[end], longest) for b in bounds))
    return rows.of_methods(f"Communication of a step among {world} ranks", unit)


def _cell(each: Communication | None, kind: tuple[str, str], rows: Rows) -> str:
    for traffic in each.traffic if each else ():
        if (traffic.collective, traffic.phase) == kind:
            return f"{count_text(traffic.count)} x, {rows.text(traffic.size_bytes)}"
    return "-"


def step_bounds(answer: Answer) -> tuple[float, float] | None:
    """Seconds of a step at least and at most, sending included; None where not both are known."""
    sent = answer.communication.seconds if answer.communication else None
    return None if answer.step is None or sent is None else with_sending(answer.step.time, sent)


def communication_lines(answers: Sequence[Answer]) -> list[str]:
    """Of the times where several ranks train."""
    for a in answers:
        if a.communication and a.step:
            return [sending_words(a.communication.network)]
    return []
