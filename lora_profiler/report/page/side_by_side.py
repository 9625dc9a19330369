"""Two runs side by side: in what they differ, and the numbers of both with their change."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from lora_profiler.comparison.errors import PHASE_GROUPS, group_peaks
from lora_profiler.report.blocks import Row, Table
from lora_profiler.report.measured import run_labels
from lora_profiler.report.page.runs import Run
from lora_profiler.units import bytes_text, change_text, error_text, rate_text, seconds_text
from lora_profiler.workload import setup_dict

_NOT_TOLD = "-"
_Number = TypeVar("_Number", int, float)


def pair_table(first: Run, second: Run) -> Table:
    """What differs of model, method, options and device, then the numbers that both have. What is
    the same is left out of the former."""
    rows = [Row(cells=("what differs",), kind="section")]
    rows += [Row(cells=(*cells, ""), indent=1) for cells in _differences(first, second)]
    if len(rows) == 1:
        rows.append(Row(cells=("nothing: the same was run twice", "", "", ""), indent=1))
    rows.append(Row(cells=("numbers",), kind="section"))
    rows += [Row(cells=cells, indent=1) for cells in _numbers(first, second)]
    names = (f"#{first.number}", f"#{second.number}")
    return Table(columns=("", *names, "change"), rows=tuple(rows))


def _differences(first: Run, second: Run) -> Iterable[tuple[str, str, str]]:
    a, b = (run.scored.record.workload for run in (first, second))
    options, others = setup_dict(a.setup), setup_dict(b.setup)
    named = [
        ("model", a.model.id, b.model.id),
        ("device", first.device, second.device),
        *(
            (name.replace("_", " "), _option_text(options[name]), _option_text(others[name]))
            for name in options
        ),
    ]
    return [each for each in named if each[1] != each[2]]


def _option_text(value: object) -> str:
    if value is None or value == []:
        return _NOT_TOLD
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _numbers(first: Run, second: Run) -> Iterable[tuple[str, str, str, str]]:
    both = (first, second)
    counted = ["rehearsed" if run.scored.record.is_rehearsed else "measured" for run in both]
    word = counted[0] if counted[0] == counted[1] else "counted"
    yield from _row(f"peak, {word}", [run.measured_bytes for run in both], bytes_text)
    yield from _row("peak, predicted", [run.predicted_bytes for run in both], bytes_text)
    errors = [run.error for run in both]
    if any(error is not None for error in errors):
        texts = [_NOT_TOLD if error is None else error_text(error) for error in errors]
        yield "error of the peak", texts[0], texts[1], ""
    peaks = [group_peaks(run.scored.record.measurement.phase_peak_bytes) for run in both]
    for group in PHASE_GROUPS:
        name = f"peak, {run_labels.PHASE_LABELS[group]}"
        yield from _row(name, [found.get(group) for found in peaks], bytes_text)
    yield from _row("median step", [run.step_seconds for run in both], seconds_text)
    yield from _row("tokens a second", [run.tokens_per_second for run in both], rate_text)


def _row(
    name: str, values: Sequence[_Number | None], text: Callable[[_Number], str]
) -> Iterable[tuple[str, str, str, str]]:
    """Nothing where neither has the number."""
    first, second = values
    if first is None and second is None:
        return
    change = change_text(second / first - 1) if first and second is not None else ""
    texts = [_NOT_TOLD if value is None else text(value) for value in values]
    yield name, texts[0], texts[1], change
