"""One question under each trainer: how many it fits with, a row for each, and what would change the
answer most."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from lora_profiler.facts.catalog import Gpu
from lora_profiler.facts.stacks import Stack
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.guided import Foreseen, Guided, Line, OpenChange
from lora_profiler.question.option import flag
from lora_profiler.question.workload import Method
from lora_profiler.report.answer import verdicts
from lora_profiler.report.blocks import Bar, Bars, Block, Sign, Table, VerdictLine, paragraph, table
from lora_profiler.report.labels import capital, method_label
from lora_profiler.report.terminal import SIGNS
from lora_profiler.units import byte_unit, count_text, short_in_unit

_MOST_NAMES = 2
"""So many trainers are named where others are counted."""

Lines = Sequence[Line]


def guided_blocks(guided: Guided) -> list[Block]:
    """The lines of all trainers, what changes the answer most, and the range, for the detailed
    answer and the dashboard."""
    words = (*refused_lines(guided), *change_lines(guided), *range_lines(guided))
    return [lines_table(guided), paragraph(*words)]


def verdict_lines(guided: Guided, answers: Sequence[Answer]) -> Iterator[VerdictLine]:
    """'LoRA r16 fits an RTX 4090 with 7 of 8 trainers (not LitGPT): 15.8 to 30.3 GiB.', of each
    method; the sign is that of the loop of guides, which speaks alone where no trainer's verdict is
    known."""
    for place, answer in enumerate(verdicts.best_first(answers)):
        assert answer.gpu is not None
        lines = guided.of(answer.prediction.workload.setup.method)
        known = [line for line in lines if _verdict(line)]
        if not known:
            yield from verdicts.verdict_blocks([answer])
            continue
        fitting = [line for line in known if _verdict(line) == "fits"]
        count = verdicts.gpu_count(answer)
        gpu = "" if place else verdicts.a_gpu(answer.gpu, count)
        usable = verdicts.size_text(answer.gpu.usable_bytes or 0)
        unknown = [_name(line) for line in lines if line.foreseen and not _verdict(line)]
        words = _fits_with(verdicts.method_name(answer), known, gpu, unknown)
        peaks = _range(fitting or known)
        if peaks.split()[-1] == usable.split()[-1]:  # the unit
            usable = usable.partition(" ")[0]
        rest = f": {peaks}{verdicts.on_each(count)}"
        rest += "." if fitting else f", {'which' if count > 1 else 'it'} has {usable}."
        is_no = all(_verdict(line) == "does_not_fit" for line in known)
        is_open = verdicts.sign_of(answer) == "does_not_fit" and not is_no
        sign = "tight" if is_open else verdicts.sign_of(answer)
        yield VerdictLine(sign=sign, words=words, rest=rest)


def _fits_with(method: str, lines: Lines, gpu: str, unknown: Sequence[str]) -> str:
    """'LoRA r16 fits an RTX 4090 with 7 of 8 trainers (not LitGPT)'; `unknown` are the trainers of
    which a lower bound alone is known."""
    fitting, may = ([line for line in lines if _verdict(line) == v] for v in ("fits", "tight"))
    no = [_name(line) for line in lines if _verdict(line) == "does_not_fit"]
    sign: Sign = "fits" if fitting else "tight" if may else "does_not_fit"
    words = verdicts.worded(sign, method, gpu or "it" * (sign == "tight"))
    if len(lines) == 1:
        return f"{words} with {_name(lines[0])}, the one trainer that is known"
    if sign == "does_not_fit" and unknown:
        is_few = len(unknown) <= _MOST_NAMES
        names = verdicts.joined(unknown, "and") if is_few else str(len(unknown))
        return f"{words} with any of {len(lines)} trainers ({names} unknown)"
    if sign == "does_not_fit":
        return f"{words} with any trainer"
    if sign == "tight":
        return f"{words} with {_some(may, len(lines))}"
    if len(fitting) == len(lines):
        return f"{words} with {'both' if len(lines) == 2 else f'all {len(lines)}'} trainers"
    others = f" (may run out with {_some(may, len(lines))})" if may else ""
    if not may and len(no) <= _MOST_NAMES:
        others = f" (not {verdicts.joined(no, 'or')})"
    return f"{words} with {_some(fitting, len(lines))}{others}"


def trainer_advice(guided: Guided, method: Method) -> str:
    """'Train QLoRA r16 with Unsloth: 14.6 GiB + overhead.', the trainer that needs least of those
    with which it fits; else with what options it fits, if any."""
    lines = guided.of(method)
    fitting = [line for line in lines if _verdict(line) == "fits"]
    if fitting:
        least = min(fitting, key=lambda line: _least([line]))
        size = verdicts.size_text(_least([least]))
        return f"Train {_label(lines)} with {_name(least)}: {size} + overhead."
    if way := guided.way_in(method):
        size = f"{verdicts.size_text(way.peak_bytes)} + overhead"
        return f"{capital(_label(lines))} fits with `{' '.join(way.options)}`: {size}."
    return ""


def _range(lines: Lines) -> str:
    """'15.8 to 30.3 GiB'; where no peak is known 'at least 16.0 GiB'."""
    sizes = [p.peak.total_bytes for p in _predictions(lines) if p.is_whole]
    if not sizes:
        return f"at least {verdicts.size_text(_least(lines))}"
    unit, size = byte_unit(max(sizes))
    low, high = (short_in_unit(each, size) for each in (min(sizes), max(sizes)))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def range_lines(guided: Guided) -> Iterator[str]:
    """'The trainer decides: LoRA r16 15.8 to 30.3 GiB, full 50.1 to 120 GiB.'"""
    if ranges := [f"{_label(lines)} {_range(lines)}" for lines in _by_need(guided)]:
        yield f"The trainer decides: {', '.join(ranges)}."


def refused_lines(guided: Guided) -> Iterator[str]:
    """'LitGPT: the cce loss needs a 16-bit head.', why trainers do not run the question."""
    refusals = ((_name(line), line.refusal) for line in guided.lines if line.refusal)
    for name, refusal in dict.fromkeys(refusals):
        yield refusal if refusal.startswith(name) else f"{name}: {refusal}"


def unable_line(guided: Guided) -> Iterator[str]:
    """'Not with LitGPT or Unsloth (`--detail`).', which run no method of the question."""
    able = {line.stack.name for line in guided.lines if line.foreseen}
    if unable := dict.fromkeys(_name(line) for line in guided.lines if line.stack.name not in able):
        yield f"Not with {verdicts.joined(list(unable), 'or')} (`--detail`)."


def change_lines(guided: Guided) -> Iterator[str]:
    """'What would change LoRA r16 most: `--no-checkpointing` 31.7 GiB ✗, ...', of the method that
    needs least."""
    for lines in _by_need(guided)[:1]:
        if words := [_change(change) for change in guided.changes(lines[0].method)]:
            yield f"{_label(lines)} changes most with {', '.join(words)}."


def _least(lines: Lines) -> int:
    return min(p.peak.total_bytes for p in _predictions(lines))


def trainer_bars(guided: Guided, gpu: Gpu | None) -> Bars:
    """One method by trainer, on one scale with the GPU's memory."""
    (lines,) = _by_method(guided)
    rows = [
        line_bar(line, line.foreseen)._replace(detail=_sizes(line) if guided.own_defaults else "")
        for line in lines
        if line.foreseen
    ]
    count = max(p.workload.setup.world_size for p in _predictions(lines))
    limits = (verdicts.limit_of(gpu, count),) if gpu else ()
    ordered = tuple(sorted(rows, key=lambda row: row.total_bytes))
    title = verdicts.rate_title(_predictions(lines))
    return Bars(rows=ordered, limits=limits, has_sizes=False, speed_title=title)


def line_bar(line: Line, foreseen: Foreseen) -> Bar:
    return Bar(
        name=trainer_name(line.stack),
        parts=verdicts.bar_parts(foreseen.prediction),
        overhead_bytes=foreseen.judged.reserve.total_bytes if foreseen.judged else None,
        sign=_verdict(line),
        speed=_speed(line),
    )


def lines_table(guided: Guided) -> Table:
    """A row for each trainer that runs the question, the one that needs least first: of one method
    with overhead, verdict and speed, of several the peak and the verdict of each."""
    methods = _by_method(guided)
    peaks = [p.peak.total_bytes for p in _predictions(guided.lines)]
    unit, size = byte_unit(max(peaks, default=0))
    columns: list[tuple[str, Callable[[Lines], str]]] = [("trainer", lambda row: _name(row[0]))]
    if guided.own_defaults:
        columns.append(("batch × tokens", lambda row: _sizes(row[0])))
    for place, lines in enumerate(methods):
        columns.append((f"{_label(lines)}, {unit}", _of(place, partial(_peak, size))))
        if len(methods) == 1:
            columns.append(("+ overhead", _of(place, partial(_overhead, size))))
        columns.append(("", _of(place, lambda line: SIGNS[_verdict(line)])))
    if len(methods) == 1:
        columns.append((verdicts.rate_title(_predictions(guided.lines)), _of(0, _speed)))
    rows: list[Lines] = sorted(filter(_predictions, zip(*methods, strict=True)), key=_need)
    return table(rows, [each for each in columns if any(each[1](row) for row in rows)])


def _need(row: Lines) -> tuple[int, int]:
    """The peak of the last method, lower bounds behind those that are whole; trainers that cannot
    run it come last."""
    if (foreseen := row[-1].foreseen) is None:
        return 2, 0
    prediction = foreseen.prediction
    return int(not prediction.is_whole), prediction.peak.total_bytes


def _of(place: int, text: Callable[[Line], str]) -> Callable[[Lines], str]:
    return lambda row: text(row[place])


def _by_method(guided: Guided) -> list[Lines]:
    return [guided.of(method) for method in guided.by_method]


def _by_need(guided: Guided) -> list[Lines]:
    """The lines of each method that a trainer can run, the one that needs least first."""
    return sorted((lines for lines in _by_method(guided) if _predictions(lines)), key=_least)


def _predictions(lines: Lines) -> list[Prediction]:
    return [line.foreseen.prediction for line in lines if line.foreseen]


def _label(lines: Lines) -> str:
    predictions = _predictions(lines)
    return method_label(predictions[0]) if predictions else lines[0].method


def trainer_name(stack: Stack) -> str:
    """'TRL', or 'your own loop' for one that no library has."""
    return stack.library or ("your own loop" if stack.name == "loop" else "bare loop")


def _name(line: Line) -> str:
    return trainer_name(line.stack)


def _sizes(line: Line) -> str:
    """'8 × 1,024': batch size and sequence length."""
    if line.foreseen is None:
        return ""
    setup = line.foreseen.prediction.workload.setup
    return f"{count_text(setup.batch_size)} × {count_text(setup.seq_len)}"


def _verdict(line: Line) -> Sign:
    judged = line.foreseen.judged if line.foreseen else None
    return judged.verdict if judged else ""


def _some(lines: Lines, count: int) -> str:
    """'TRL and axolotl', '6 of 8 trainers'."""
    if len(lines) <= _MOST_NAMES < count:
        return verdicts.joined([_name(line) for line in lines])
    return f"{len(lines)} of {count} trainers"


def _peak(unit_bytes: int, line: Line) -> str:
    if line.foreseen is None:
        return "-"
    prediction = line.foreseen.prediction
    size = short_in_unit(prediction.peak.total_bytes, unit_bytes)
    return size if prediction.is_whole else f">= {size}"


def _overhead(unit_bytes: int, line: Line) -> str:
    judged = line.foreseen.judged if line.foreseen else None
    return short_in_unit(judged.reserve.total_bytes, unit_bytes) if judged else ""


def _speed(line: Line) -> str:
    foreseen = line.foreseen
    return verdicts.rate_words(foreseen.step, foreseen.communication) if foreseen else ""


def _change(change: OpenChange) -> str:
    judged = change.foreseen.judged
    sign = f" {SIGNS[judged.verdict]}" if judged else ""
    if isinstance(change.value, bool):
        option = flag(change.option if change.value else f"no_{change.option}")
    else:
        option = f"{flag(change.option)} {change.value}"
    return f"`{option}` ({verdicts.size_text(change.peak_bytes)}{sign})"
