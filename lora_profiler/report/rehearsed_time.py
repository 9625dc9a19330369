"""The time of a rehearsed step, worked out from the kernels that it launched, as blocks and as
JSON."""

from typing import Any

from lora_profiler.planning.nearest import RehearsedTime
from lora_profiler.report import labels
from lora_profiler.report.blocks import Block, Row, Table, paragraph
from lora_profiler.report.json import picked
from lora_profiler.steptime import PARTS, Part, StepTime
from lora_profiler.units import count_text, percent_text, rate_text, seconds_text

_BOUNDS: tuple[tuple[str, tuple[Part, ...]], ...] = (
    ("matrix products", ("gemm", "attention_forward", "attention_backward")),
    ("moving bytes", ("memory", "dequantise", "update")),
    ("the CPU, which launches kernels more slowly than the GPU runs them", ("launches",)),
)
"""What bounds a step, by the parts of its time."""


def time_line(found: RehearsedTime) -> str:
    time = found.time
    if time is None:
        return f"The time of a step is not known: {found.reason}."
    unit, size = ("ms", 1000) if time.seconds < 1 else ("s", 1)
    middle, low, high = (f"{size * each:.3g}" for each in (time.seconds, time.low, time.high))
    rate = rate_text(time.tokens_per_second, "tokens")
    return f"Estimated step: {middle} {unit} ({low} to {high}), {rate}."


def time_blocks(found: RehearsedTime, time: StepTime, gpu: str) -> list[Block]:
    rows = [
        Row(cells=("time", seconds_text(time.seconds)), kind="peak"),
        Row(cells=("at least", seconds_text(time.low))),
        Row(cells=("at most", seconds_text(time.high))),
        Row(cells=("tokens a second", rate_text(time.tokens_per_second))),
        Row(cells=("where the time goes",), kind="section"),
    ]
    longest = max(time.parts.values())
    rows += [
        Row(cells=(labels.PART_LABELS[part], seconds_text(time.parts[part], longest)), indent=1)
        for part in PARTS
        if time.parts.get(part)
    ]
    title = f"one step on {gpu}, predicted from the kernels that it launched"
    table = Table(title=title, columns=("", ""), rows=tuple(rows))
    return [table, paragraph(*_time_lines(found, time))]


def _time_lines(found: RehearsedTime, time: StepTime) -> list[str]:
    bound, share = bound_of(time)
    launches = f"{count_text(found.launches)} launches over {count_text(found.tokens)} tokens"
    lines = [
        f"Predicted, not measured: {launches}, {labels.BASIS_LABELS[time.likeness]}. The largest"
        f" share, {percent_text(share)}, is {bound}."
    ]
    if found.products < found.library_calls:
        unseen = count_text(found.library_calls - found.products)
        calls = f"{count_text(found.library_calls)} calls of BLAS and its like"
        not_seen = "not seen as operators: what they compute is not in the time"
        lines.append(f"{unseen} of {calls} were {not_seen}.")
    if found.by_bytes:
        lines.append(f"Priced by the bytes of their tensors alone: {', '.join(found.by_bytes)}.")
    if found.left_out:
        lines.append(f"Not priced: {', '.join(found.left_out)}.")
    return lines


def bound_of(time: StepTime) -> tuple[str, float]:
    """What takes the largest share of the time, in words, and that share."""
    spent = {
        words: sum(time.parts.get(part, 0.0) for part in parts) / time.seconds
        for words, parts in _BOUNDS
    }
    words = max(spent, key=lambda each: spent[each])
    return words, spent[words]


def time_document(found: RehearsedTime) -> dict[str, Any]:
    time = found.time
    if time is None:
        return {"reason": found.reason}
    return {
        "basis": "predicted",
        "seconds": time.seconds,
        "low_seconds": time.low,
        "high_seconds": time.high,
        "tokens": found.tokens,
        "tokens_per_second": time.tokens_per_second,
        "part_seconds": {part: time.parts[part] for part in PARTS if part in time.parts},
        "bound_by": bound_of(time)[0],
        **picked(time, "share_of_host likeness"),
        "launches": found.launches,
        "products_seen": found.products,
        "library_calls": found.library_calls,
        "priced_by_bytes": list(found.by_bytes),
        "not_priced": list(found.left_out),
    }
