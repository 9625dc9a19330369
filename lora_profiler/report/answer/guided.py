"""One question under each trainer: how many it fits with, a row for each, and what would change the
answer most."""

from collections.abc import Callable, Iterator, Sequence

from lora_profiler.option import flag
from lora_profiler.planning.guided import Change, Guided, Line
from lora_profiler.prediction import Prediction
from lora_profiler.report.blocks import Block, Table, paragraph, table
from lora_profiler.report.labels import method_label
from lora_profiler.units import GIB, bytes_text, count_text, in_unit

_OWN_LOOP = "your own loop"
_VERDICTS = {"fits": "fits", "tight": "may run out", "does_not_fit": "does not fit"}
_SHORT = {"fits": "fits", "tight": "tight", "does_not_fit": "no"}
_MOST_NAMES = 2
"""So many trainers are named where others are counted."""

Lines = Sequence[Line]


def guided_blocks(guided: Guided) -> list[Block]:
    """The lines of all trainers, what changes the answer most, and the range, for the detailed
    answer and the dashboard."""
    return [lines_table(guided), paragraph(*change_lines(guided), range_line(guided))]


def verdict_line(guided: Guided) -> str:
    """'LoRA r16 fits with 7 of 8 trainers, does not fit with LitGPT', of each method; '' without a
    GPU."""
    texts = []
    for lines in _by_method(guided):
        known = [line for line in lines if _verdict(line)]
        by_verdict = {
            words: [_name(line) for line in known if _verdict(line) == verdict]
            for verdict, words in _VERDICTS.items()
        }
        parts = [
            f"{words} with {_some(names, len(known))}"
            for words, names in by_verdict.items()
            if names
        ]
        if parts:
            texts.append(f"{_label(lines)} {', '.join(parts)}")
    return "; ".join(texts)


def range_line(guided: Guided) -> str:
    """'Depending on the trainer, LoRA r16 needs 15.78 to 30.24 GiB; ...'"""
    texts = []
    for lines in _by_method(guided):
        sizes = [p.peak.total_bytes for p in _predictions(lines) if p.is_whole]
        if sizes:
            low, high = (in_unit(size, GIB) for size in (min(sizes), max(sizes)))
            texts.append(f"{_label(lines)} needs {low} to {high} GiB")
    ranges = f"Depending on the trainer, {', '.join(texts)}; " if texts else ""
    return f"{ranges}--trainer NAME answers for one."


def change_lines(guided: Guided) -> Iterator[str]:
    """'LoRA r16 changes most with --no-checkpointing (31.71 GiB, does not fit), ...', of each
    method."""
    for lines in _by_method(guided):
        words = [_change(change) for change in guided.changes[lines[0].method]]
        if words:
            yield f"{_label(lines)} changes most with {', '.join(words)}."


def lines_table(guided: Guided) -> Table:
    """A row for each trainer: of one method with overhead, verdict and speed, of several the peak
    and the verdict of each."""
    methods = _by_method(guided)
    columns: list[tuple[str, Callable[[Lines], str]]] = [("trainer", lambda row: _name(row[0]))]
    for place, lines in enumerate(methods):
        columns.append((f"{_label(lines)}, GiB", _of(place, _peak)))
        if len(methods) == 1:
            columns.append(("+ overhead", _of(place, _overhead)))
        columns.append(("", _of(place, lambda line: _SHORT.get(_verdict(line), ""))))
    if len(methods) == 1:
        columns.append(("tokens/s", _of(0, _speed)))
    rows: list[Lines] = list(zip(*methods, strict=True))
    return table(rows, [each for each in columns if any(each[1](row) for row in rows)])


def _of(place: int, text: Callable[[Line], str]) -> Callable[[Lines], str]:
    """The text of a row's line at `place`."""
    return lambda row: text(row[place])


def _by_method(guided: Guided) -> list[Lines]:
    return [guided.of(method) for method in guided.changes]


def _predictions(lines: Lines) -> list[Prediction]:
    return [line.foreseen.prediction for line in lines if line.foreseen]


def _label(lines: Lines) -> str:
    predictions = _predictions(lines)
    return method_label(predictions[0]) if predictions else lines[0].method


def _name(line: Line) -> str:
    """'TRL', or 'your own loop' for one that no library has."""
    return line.stack.library or _OWN_LOOP


def _verdict(line: Line) -> str:
    judged = line.foreseen.judged if line.foreseen else None
    return judged.verdict if judged else ""


def _some(names: Sequence[str], count: int) -> str:
    if len(names) == count:
        return f"all {count} trainers" if count > 1 else names[0]
    return " and ".join(names) if len(names) <= _MOST_NAMES else f"{len(names)} of {count} trainers"


def _peak(line: Line) -> str:
    if line.foreseen is None:
        return "-"
    prediction = line.foreseen.prediction
    size = in_unit(prediction.peak.total_bytes, GIB)
    return size if prediction.is_whole else f">= {size}"


def _overhead(line: Line) -> str:
    judged = line.foreseen.judged if line.foreseen else None
    return in_unit(judged.reserve.total_bytes, GIB) if judged else ""


def _speed(line: Line) -> str:
    step = line.foreseen.step if line.foreseen else None
    return count_text(round(step.time.tokens_per_second)) if step else ""


def _change(change: Change) -> str:
    judged = change.foreseen.judged
    verdict = f", {_VERDICTS[judged.verdict]}" if judged else ""
    if isinstance(change.value, bool):
        option = flag(change.option if change.value else f"no_{change.option}")
    else:
        option = f"{flag(change.option)} {change.value}"
    return f"{option} ({bytes_text(change.peak_bytes)}{verdict})"
