"""Public measurements beside an answer, in words: how far off predictions of peaks were, and which
measured peak is nearest."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_profiler.evidence import Interval, MeasuredMemory, command_shares
from lora_profiler.planning.answers import Answer
from lora_profiler.report import labels
from lora_profiler.report.labels import method_label
from lora_profiler.units import bytes_text, count_text, error_text, percent_text

if TYPE_CHECKING:
    from lora_profiler.evidence import MeasuredStep
    from lora_profiler.planning.empirical_interval import PeakInterval


def likely_lines(answers: Sequence[Answer]) -> list[str]:
    """The interval of each peak, and the nearest measured peaks, as far as public rows tell."""
    pairs = [(method_label(answer.prediction), answer.peak_interval) for answer in answers]
    known = [(label, likely) for label, likely in pairs if likely]
    if not known:
        return []
    ranges = "; ".join(f"{label} {range_words(likely)}" for label, likely in known)
    lines = [
        "Peak as measured, were it as far off as public ones that options describe, exactly or but"
        f" for the versions of libraries: {ranges}. {command_words()}"
        f" {interval_words(known[0][1].interval)}."
    ]
    return lines + list(dict.fromkeys(nearest_peak_line(likely.nearest) for _, likely in known))


def range_words(likely: "PeakInterval") -> str:
    """'24.60 GiB to 25.15 GiB'."""
    return f"{bytes_text(likely.low_bytes)} to {bytes_text(likely.high_bytes)}"


def interval_words(found: Interval) -> str:
    """'Nine in ten of 68 public peaks, predicted with their own libraries and kernels replayed,
    were within 1.10 %, ...'."""
    share = f"{labels.NOMINAL_LABELS[found.nominal]} of {count_text(found.rows)} public peaks"
    within = f"were within {percent_text(found.half_width)}, the furthest {error_text(found.worst)}"
    return f"{share}, predicted with their own libraries and kernels replayed, {within}"


def command_words() -> str:
    """'Asked by options alone, nine in ten of the 60 that these describe so, of 4 sources that
    weigh the same, were within 1.20 %, ...'."""
    share, other = command_shares()["nearly"], command_shares()["not"]
    return (
        f"Asked by options alone, nine in ten of the {count_text(share.rows)} that these describe"
        f" so, of {count_text(len(share.by_source))} sources that weigh the same, were within"
        f" {percent_text(share.half_width)}, the furthest {error_text(share.worst)}, and"
        f" {count_text(share.inside)} within what the errors of the other sources give; of the"
        f" {count_text(other.rows)} with kernels that no option names nine in ten were within"
        f" {percent_text(other.half_width)}."
    )


def nearest_peak_line(row: MeasuredMemory) -> str:
    """'Nearest public measurement: mistralai/Mistral-7B-v0.1, LoRA, 4 x 4,096 tokens with
    checkpointing on a100_sxm_80gb peaked at 24.87 GiB; the prediction's error is -<0.01 % with its
    stack replayed.'"""
    error = f"the prediction's error is {error_text(row.error)} with its stack replayed"
    apart = f", and is no test: {row.apart}" if row.apart else ""
    peaked = f"{row_label(row)} peaked at {bytes_text(row.measured_bytes)}"
    return f"Nearest public measurement: {peaked}; {error}{apart}."


def row_label(row: "MeasuredMemory | MeasuredStep") -> str:
    """'mistralai/Mistral-7B-v0.1, LoRA, 4 x 4,096 tokens with checkpointing on a100_sxm_80gb'."""
    sizes, cards = f"{count_text(row.tokens)} tokens", ""
    if isinstance(row, MeasuredMemory):
        sizes, cards = setup_words(row), f"{row.cards} x " if row.cards > 1 else ""
    return f"{row.model}, {labels.METHOD_LABELS[row.method]}, {sizes} on {cards}{row.card}"


def setup_words(row: MeasuredMemory) -> str:
    """'4 x 4,096 tokens with checkpointing'."""
    checkpointing = " with checkpointing" if row.checkpointing else ""
    return f"{row.batch_size} x {count_text(row.seq_len)} tokens{checkpointing}"
