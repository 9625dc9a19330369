"""The answer that a person wanted, in at most 25 lines of 80 columns: the verdict, what to do, what
holds the peak against the GPU's memory, one table, and what was assumed."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from lora_profiler import units
from lora_profiler.facts.stacks.stack import Gap
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.engine import common_assumptions
from lora_profiler.planning.fit import Fit
from lora_profiler.question.loop import loop_facts
from lora_profiler.question.support.check import (
    profile_unsupported_reason,
    trace_unsupported_reason,
)
from lora_profiler.question.workload import TrainSetup
from lora_profiler.report import setup_words
from lora_profiler.report.answer.verdicts import (
    MOST,
    advice_blocks,
    bar_parts,
    gpu_count,
    interval_lines,
    joined,
    leaves_open,
    limit_of,
    method_name,
    needs_block,
    rate_title,
    rate_words,
    sign_of,
    speed_words,
    verdict_blocks,
    version_words,
)
from lora_profiler.report.blocks import (
    Bar,
    Bars,
    Block,
    Paragraph,
    Table,
    dim,
    filled,
    paragraph,
    table,
)
from lora_profiler.report.labels import method_label, sureness

if TYPE_CHECKING:
    from lora_profiler.planning.advise import Remedy
    from lora_profiler.planning.guided import Guided
    from lora_profiler.planning.timing import TimedStep


class Room(NamedTuple):
    """Texts. `context`, `workspaces` and `fragmentation` add up to `reserve`."""

    usable: str
    peak: str
    reserve: str
    context: str
    workspaces: str
    fragmentation: str
    headroom: str


def room(fit: Fit) -> Room:
    """Usable memory, peak and headroom are rounded as everywhere; the reserve, an estimate, takes
    up what rounding leaves."""
    size = units.byte_unit(fit.usable_bytes)[1]
    usable, peak, headroom = (
        units.hundredths(count, size)
        for count in (fit.usable_bytes, fit.peak_bytes, fit.headroom_bytes)
    )
    reserve = max(0, usable - peak - headroom)
    exact = fit.reserve.context_bytes, fit.reserve.workspace_bytes, fit.reserve.fragmentation_bytes
    parts = shared(reserve, [100 * count / size for count in exact])
    context, workspaces, fragmentation = (
        units.hundredths_text(part, count) for part, count in zip(parts, exact, strict=True)
    )
    return Room(
        usable=units.hundredths_text(usable, fit.usable_bytes),
        peak=units.hundredths_text(peak, fit.peak_bytes),
        reserve=units.hundredths_text(reserve, fit.reserve_bytes),
        context=context,
        workspaces=workspaces,
        fragmentation=fragmentation,
        headroom=units.hundredths_text(usable - peak - reserve, fit.headroom_bytes),
    )


def shared(total: int, exact: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `total`, each as near to its exact one as that allows."""
    found = [int(number) for number in exact]
    while (left := total - sum(found)) != 0:
        step = 1 if left > 0 else -1
        able = [place for place, number in enumerate(found) if step > 0 or number > 0]
        place = max(able, key=lambda place: step * (exact[place] - found[place]))
        found[place] += step
    return found


WIDTH, MOST_LINES = 80, 25
_MOST_WAYS = 3


def short_blocks(
    answers: Sequence[Answer], guided: "Guided | None" = None, subject: str = ""
) -> list[Block]:
    """About one model in one setup by one or more methods; `guided` is the same by trainer, of a
    question that names none, `subject` the file that the question came from. Less of it where it
    would not fit the screen."""
    if guided is not None and not any(line.foreseen for line in guided.lines):
        guided = None
    above = list(verdicts(answers, guided, subject))
    if guided is not None and _is_drawn(guided, answers):
        from lora_profiler.report.answer.guided import trainer_bars

        bars = trainer_bars(guided, answers[0].gpu)
    else:
        bars = method_bars(answers)
    tables = list(_tables(answers, guided))
    whole, brief = (dim(*notes(answers, guided, is_brief=short)) for short in (False, True))
    choices: Sequence[list[Block]] = (
        [*above, bars, *tables, whole],
        [*above, bars, *tables, brief],
        [*above, *tables, whole],
        [*above, *tables, brief],
    )
    return next(filter(is_short, choices), choices[-1])


def is_short(blocks: Sequence[Block]) -> bool:
    from lora_profiler.report.terminal import plain

    return plain(blocks, WIDTH).count("\n") <= MOST_LINES


# --- the verdict ----------------------------------------------------------------------------------


def verdicts(answers: Sequence[Answer], guided: "Guided | None", subject: str) -> Iterator[Block]:
    """What decides, and what to do; without a GPU how large a one is enough."""
    if answers[0].gpu is None:
        yield needs_block(answers)
        if guided is not None:
            from lora_profiler.report.answer.guided import range_lines

            yield paragraph(*range_lines(guided))
        return
    if guided is not None and any(line.foreseen and line.foreseen.judged for line in guided.lines):
        from lora_profiler.report.answer.guided import trainer_advice, verdict_lines

        yield from verdict_lines(guided, answers)
        yield from advice_blocks(
            answers, subject, partial(trainer_advice, guided), by=f"By {setup_words.LOOP_OF_GUIDES}"
        )
    else:
        yield from verdict_blocks(answers, subject)
        yield from advice_blocks(answers, subject)


# --- bars -----------------------------------------------------------------------------------------


def method_bars(answers: Sequence[Answer]) -> Bars:
    """A bar for each method, by the GPU's memory or by that of the smallest GPUs that suffice."""
    rows = [
        Bar(
            name=method_name(answer),
            parts=bar_parts(answer.prediction),
            overhead_bytes=answer.fit.reserve_bytes if answer.fit else None,
            sign=sign_of(answer),
        )
        for answer in answers
    ]
    return Bars(rows=tuple(rows), limits=tuple(_limits(answers)))


def _limits(answers: Sequence[Answer]) -> Iterator[tuple[int, str]]:
    if answers[0].gpu is not None:
        yield limit_of(answers[0].gpu, gpu_count(answers[0]))
        return
    on_cuda = (a for a in answers if a.prediction.workload.setup.device == "cuda")
    cards = [a.smallest_card for a in on_cuda if a.prediction.is_whole]
    sizes = {c.memory_gib_marketed: c.usable_bytes or 0 for c in cards if c is not None}
    yield from ((usable, f"{marketed:g} GB") for marketed, usable in sorted(sizes.items()))


# --- the table ------------------------------------------------------------------------------------


def _tables(answers: Sequence[Answer], guided: "Guided | None") -> Iterator[Block]:
    """By trainer; else ways to fit, or how much room there is and how fast it is."""
    if answers[0].over_data is not None:
        from lora_profiler.report.answer.comparison_table import short_lines

        yield Paragraph(lines=tuple(short_lines(answers)), kind="facts")
    if guided is not None:
        if not _is_drawn(guided, answers):
            from lora_profiler.report.answer.guided import lines_table

            yield lines_table(guided)
        return
    unfit = [a for a in answers if a.fit and a.fit.verdict == "does_not_fit" and a.remedies]
    fitting = [a for a in answers if a.fit and a.fit.verdict != "does_not_fit"]
    if fitting:
        yield _room(fitting)
    elif unfit:
        yield _ways(min(unfit, key=lambda a: a.prediction.peak.total_bytes))


def _is_drawn(guided: "Guided", answers: Sequence[Answer]) -> bool:
    """Whether trainers have bars, not a table: of one method whose peaks are known."""
    foreseen = [line.foreseen for line in guided.lines if line.foreseen]
    return len(answers) == 1 and all(each.prediction.is_whole for each in foreseen)


def _room(answers: Sequence[Answer]) -> Table:
    """What is free, how far each size can go with all else as asked, and how fast it is."""
    unit, size = units.byte_unit(answers[0].gpu.usable_bytes or 0 if answers[0].gpu else 0)

    def most(count: int | None) -> str:
        return units.count_text(count) if count else ""

    columns = (
        ("Room", method_name),
        (f"free, {unit}", lambda a: units.short_in_unit(max(a.fit.headroom_bytes, 0), size)),
        ("max batch", lambda a: most(a.fit.largest_batch_size)),
        ("max tokens", lambda a: most(a.fit.longest_seq_len)),
        ("step", _step_words),
        (rate_title([answers[0].prediction]), _rate),
    )
    return filled(table(answers, columns))


def _step_words(answer: Answer) -> str:
    """With what the ranks send each other, where the network is known."""
    if bounds := _bounds(answer):
        return " to ".join(map(units.seconds_text, bounds))
    return units.seconds_text(answer.step.time.seconds) if answer.step else ""


def _rate(answer: Answer) -> str:
    return rate_words(answer.step, answer.communication)


def _bounds(answer: Answer) -> tuple[float, float] | None:
    """Seconds of a step over a network that is known."""
    if answer.communication is None or not answer.communication.seconds:
        return None
    from lora_profiler.report.answer.timing import step_bounds

    return step_bounds(answer)


def _ways(answer: Answer) -> Table:
    """Changes that make it fit, each with its peak, its speed and what it means."""
    remedies = answer.remedies[:_MOST_WAYS]
    unit, size = units.byte_unit(max(remedy.peak_bytes for remedy in remedies))
    columns = (
        (f"Ways to fit {method_label(answer.prediction)}", lambda r: f"`{' '.join(r.options)}`"),
        ("", lambda r: _cost(r, answer.step)),
        (unit, lambda r: units.short_in_unit(r.peak_bytes, size)),
        ("tokens/s", lambda r: f"{r.tokens_per_second:,.0f}" if r.tokens_per_second else ""),
    )
    return filled(table(remedies, columns, left=2))


def _cost(remedy: "Remedy", step: "TimedStep | None") -> str:
    changes = "" if remedy.learns_the_same else "changes the result"
    return ", ".join(filter(None, (speed_words(remedy, step), changes)))


# --- dim lines ------------------------------------------------------------------------------------


def notes(answers: Sequence[Answer], guided: "Guided | None", *, is_brief: bool) -> Iterator[str]:
    """What was assumed, what the number is worth, where more is."""
    predictions = [answer.prediction for answer in answers]
    model = predictions[0].workload.model
    size = "" if is_brief else f" ({units.short_count_text(model.num_parameters)} parameters)"
    computed = "Computed for each trainer's loop; not measured on a GPU."
    lines = guided.lines if guided else ()
    foreseen = [line.foreseen.prediction for line in lines if line.foreseen]
    if estimated := [each for each in foreseen if each.modules_error is not None]:
        most = max(estimated, key=lambda each: each.modules_error or 0.0)
        computed = f"{estimated_words(most).format(f'{100 * (most.modules_error or 0):g} %')}."
    if guided is not None and guided.own_defaults:
        yield f"{model.id}{size}: each trainer with its own defaults."
        yield from _common(predictions)
        yield computed
    else:
        yield from _on_host(predictions)
        yield from _assumed(answers, guided, f"{model.id}{size}", is_brief=is_brief)
        if guided is None or not all(prediction.is_whole for prediction in predictions):
            yield from _trust(answers, 0 if is_brief or guided else MOST)
        else:
            yield from _common(predictions)
            if not is_brief:
                yield computed
    options = (
        *(() if answers[0].gpu else ("`--gpu KEY` (does it fit)",)),
        *(() if guided is None else ("`--trainer NAME`",)),
        "`--detail`",
        "`--explain`",
    )
    yield f"More: {', '.join(options)}."


def _assumed(
    answers: Sequence[Answer], guided: "Guided | None", model: str, *, is_brief: bool
) -> Iterator[str]:
    """What would change the answer most, and the question as it was understood."""
    predictions = [answer.prediction for answer in answers]
    workloads = [prediction.workload for prediction in predictions]
    if guided is not None:
        from lora_profiler.report.answer.guided import change_lines, unable_line

        yield from unable_line(guided)
        yield from change_lines(guided)
    worst = "worst " if answers[0].over_data else ""
    training, attention = setup_words.asked_words(predictions)
    kernels = "" if answers[0].gpu else setup_words.platform_words(workloads[0])
    yield f"{model}: {worst}{training}, {attention}{kernels}."
    sent = answers[0].communication
    if sent and guided is None and answers[0].step:
        yield setup_words.sending_words(sent.network)
    if any(generates(workload.setup) for workload in workloads) and answers[0].step:
        yield "Times are without the generation of completions."
    if guided is None or not is_brief:
        names = 0 if is_brief else setup_words.NAMED
        lines = setup_words.short_trainer_lines(answers[0].trainer, workloads, names)
        yield from (f"{line}." for line in lines)


def generates(setup: TrainSetup) -> bool:
    return bool(setup.completions_at_once) or loop_facts(setup.loop_state).generates


def _on_host(predictions: Sequence[Prediction]) -> Iterator[str]:
    """What the host has to hold, where anything waits there."""
    sizes = []
    for prediction in predictions:
        if size := sum(prediction.host_bytes.values()):
            ranks, name = prediction.workload.setup.world_size, method_label(prediction)
            rank, in_all = (
                (" a rank", f", {units.bytes_text(size * ranks)} in all") if ranks > 1 else ("", "")
            )
            sizes.append(f"{units.bytes_text(size)}{rank} of CPU memory ({name}){in_all}")
    if sizes:
        yield f"Also needs {joined(sizes)}."


def _trust(answers: Sequence[Answer], most: int) -> Iterator[str]:
    """What each peak is worth, a line for each kind, and the interval of each, with at most so many
    names of what is not given."""
    kinds: dict[str, list[str]] = {}
    for answer in answers:
        kinds.setdefault(sureness_words(answer), []).append(method_name(answer))
    for kind, names in kinds.items():
        if kind and len(kinds) > 1:
            kind = f"{joined(names)}: {kind[0].lower()}{kind[1:]}"
        yield from ([f"{kind}."] if kind else [])
    yield from _common([answer.prediction for answer in answers])
    yield from interval_lines(answers, most)


def _common(predictions: Sequence[Prediction]) -> Iterator[str]:
    yield from dict.fromkeys(
        w for p in predictions for w in common_assumptions(p.workload, p.priced_as)
    )


def sureness_words(answer: Answer) -> str:
    """What the peak is worth. Nothing is exact of which the question leaves something open; there
    the interval speaks, and what older versions took."""
    lower = "A lower bound: activations are not known"
    if not answer.prediction.is_whole:
        return lower
    if missing := missing_words(answer):
        return f"Estimate: {missing}"
    if has_gaps(answer):
        return "Estimate: parts of this trainer's loop are not modelled (`--detail`)"
    trainer = answer.trainer
    loop = f"for {trainer.stack.title}" if trainer and trainer.stack.version else "for this loop"
    exact = f"Computed byte for byte {loop}; not measured on a GPU"
    if leaves_open(answer):
        exact = version_words(answer)
    within = "Within {}: parts of this loop are bounded, not computed"
    if answer.prediction.modules_error is not None:
        within = estimated_words(answer.prediction)
    return sureness(answer.prediction, exact, lower, within, "Estimate")


def estimated_words(prediction: Prediction) -> str:
    """Of a type that neither rules nor laws describe; {} is for the bound."""
    words = "Within {}: estimated from the names and shapes of the model's layers"
    workload = prediction.priced_as or prediction.workload
    if not profile_unsupported_reason(workload):
        return f"{words}; `lora-profile compile` makes it exact"
    if not trace_unsupported_reason(workload.setup):
        return f"{words}; `--engine traced` makes it exact"
    return words


def missing_words(answer: Answer) -> str:
    """'torch.compile is not modelled (the answer is too high) and 1 more', of what the question
    names; empty where it names nothing that is not modelled."""
    named = [gap for gap in _gaps(answer) if gap.missing]
    if not named:
        return ""
    first, *others = named
    errs = f" (the answer is {first.direction})" if first.direction else ""
    more = f" and {len(others)} more" if others else ""
    return f"{first.missing} is not modelled{errs}{more}" + (" (`--detail`)" if others else "")


def has_gaps(answer: Answer) -> bool:
    return bool(_gaps(answer))


def _gaps(answer: Answer) -> Sequence[Gap]:
    trainer = answer.trainer
    return trainer.gaps(answer.prediction.workload.setup) if trainer else ()
