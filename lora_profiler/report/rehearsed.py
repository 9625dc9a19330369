"""A rehearsal as blocks and as JSON: records of a pretended card, and the answer about a script. It
says of every figure that it was rehearsed, not measured."""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from lora_profiler.facts.catalog import find_gpu
from lora_profiler.memory.prediction import CATEGORIES, Category, Exactness, Prediction
from lora_profiler.planning.nearest import Nearest, RehearsedTime
from lora_profiler.rehearsal.launch import PretendedCard
from lora_profiler.rehearsal.result import COUNTERS, PartOfRun, Rehearsal, Tried, limits, worst_of
from lora_profiler.report import labels
from lora_profiler.report.answer.comparison_table import MethodRows
from lora_profiler.report.answer.timing import add_times
from lora_profiler.report.answer.verdicts import a_gpu, gpu_name, size_text, worded
from lora_profiler.report.blocks import (
    Bar,
    Bars,
    Block,
    Row,
    RowKind,
    Section,
    Sign,
    Table,
    VerdictLine,
    advice,
    cell_table,
    dim,
    paragraph,
    table,
    with_words_last,
)
from lora_profiler.report.json import picked
from lora_profiler.report.labels import method_label
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.measurements import package_words
from lora_profiler.report.page.content import Content
from lora_profiler.runs.comparison.errors import Result, counted, counted_peak
from lora_profiler.steptime import PARTS, Part, StepTime
from lora_profiler.units import (
    GIB,
    byte_unit,
    bytes_text,
    count_text,
    error_text,
    in_unit,
    percent_text,
    rate_text,
    short_in_unit,
)


def rehearsed_blocks(results: Sequence[Result]) -> list[Block]:
    blocks: list[Block] = []
    for result in results:
        record, failure = result.record, result.record.measurement.failure
        label, device = method_label(result.prediction), record.environment.device.name
        blocks += [
            VerdictLine(
                sign="fits" if record.measurement.went_through else "does_not_fit",
                words=f"{record.workload.model.id}, {label}: {run_labels.status_label(record)}.",
                rest=_peak_words(result),
            ),
            paragraph(f"{device}: {', '.join(package_words(record.environment))}."),
        ]
        if failure is not None:
            phase = failure.phase or ""
            where = f"In {run_labels.PHASE_LABELS.get(phase, phase)}: " if phase else ""
            blocks.append(paragraph(f"{where}{failure.reason}"))
        if record.measurement.went_through:
            blocks.append(_bytes_compared(result))
    limits = dict.fromkeys(limit for r in results for limit in r.record.environment.limits)
    return [*blocks, dim(*limits)]


def _peak_words(result: Result) -> str:
    """' 6.33 GiB at peak, 6.33 GiB predicted.'"""
    peak = result.record.measurement.peak_requested_bytes
    predicted = size_text(counted_peak(result.prediction))
    return "" if peak is None else f" {size_text(peak)} at peak, {predicted} predicted."


def _bytes_compared(result: Result) -> Table:
    """The steady peak by category, and the peaks of the allocator, beside what is predicted."""
    m, prediction = result.record.measurement, result.prediction
    predicted = counted(prediction.workload, prediction.peak.bytes)
    rows = [
        compared(labels.CATEGORY_LABELS[name], size, predicted.get(name, 0), bytes_text(size))
        for name in CATEGORIES
        for size in [m.attribution_bytes.get(name, 0)]
        if size or predicted.get(name)
    ]
    memory = prediction.device_memory
    peaks = (
        ("requested peak", m.peak_requested_bytes, counted_peak(prediction)),
        ("allocated peak", m.peak_allocated_bytes, memory.allocated_bytes if memory else None),
        ("reserved peak", m.peak_reserved_bytes, memory.reserved_bytes if memory else None),
    )
    rows += [
        compared(name, size, other, bytes_text(size), kind="total")
        for name, size, other in peaks
        if size is not None
    ]
    return Table(
        title=f"the peak, rehearsed and predicted ({prediction.exactness})",
        columns=("bytes", "rehearsed", "predicted", "difference", ""),
        rows=tuple(rows),
    )


def compared(
    name: str, rehearsed: int, predicted: int | None, *more: str, kind: RowKind = "plain"
) -> Row:
    if predicted is None:
        return Row(cells=(name, count_text(rehearsed), "-", "-", *more), kind=kind)
    difference = predicted - rehearsed
    text = f"{difference:+,}" if difference else "equal"
    cells = (name, count_text(rehearsed), count_text(predicted), text, *more)
    return Row(cells=cells, kind=kind)


# --- the answer about a script --------------------------------------------------------------------

_HEADS = ("requested", "allocated", "reserved")
_TEMPORARIES = tuple(
    f"temporaries of the {of}" for of in ("forward pass", "backward pass", "optimizer")
)
_ALIKE: tuple[tuple[str, tuple[str, ...], tuple[Category, ...]], ...] = (
    ("weights and adapters", ("parameters",), ("parameters", "adapters")),
    ("quantisation constants", ("quantisation constants",), ("quantization_state",)),
    ("buffers", ("buffers",), ("buffers",)),
    ("gradients", ("gradients",), ("gradients",)),
    ("optimizer states", ("optimizer states",), ("optimizer_states",)),
    ("inputs and activations", ("saved for the backward pass",), ("inputs", "activations")),
    ("logits and loss", ("logits and loss",), ("logits_and_loss",)),
    ("temporaries", _TEMPORARIES, ("temporaries",)),
    ("workspaces of BLAS", ("workspaces of BLAS",), ("workspace",)),
)
"""Categories of a rehearsal and of a prediction that are the same."""
_PARTS_OF_BAR: Mapping[str, str] = {
    "weights and adapters": "weights",
    "quantisation constants": "weights",
    "gradients": "gradients",
    "optimizer states": "optimizer",
    "inputs and activations": "activations",
    "logits and loss": "logits",
    "temporaries": "temporary",
}
"""All else is the rest."""
_LONGEST_PLACE = 44


def script_name(command: Sequence[str]) -> str:
    """'train.py' of `torchrun --nproc-per-node 2 src/train.py`, 'trl sft' of `trl sft ...`."""
    scripts = [word for word in command if word.endswith(".py")]
    name = scripts[0] if scripts else command[0]
    verb = [w for w in command[1:2] if not scripts and not w.startswith("-")]
    return " ".join([os.path.basename(name), *verb])


def rehearsal_blocks(
    results: Sequence[Rehearsal],
    card: PretendedCard,
    script: str,
    nearest: Nearest | None = None,
    time: RehearsedTime | None = None,
    tried: Sequence[Tried] = (),
    *,
    detail: bool,
) -> list[Block]:
    """The verdict on `script` with what decides it, a bar of the peak, when memory is held, and the
    largest tensors; with `detail` every count in bytes."""
    result = worst_of(results)
    blocks: list[Block] = [_verdict(result, card, script), *_data_sizes(result)]
    blocks += _failure(result, detail=detail)
    blocks += [*_bars(result, card), _peaks(result), *_largest(result, most=8 if detail else 3)]
    lines = [*_reserved_over_steps(result), *_leak_lines(result, card)]
    lines += [_nearest_line(result, nearest)] if nearest else []
    if result.status == "out_of_memory" and result.document["out_of_memory"]:
        wanted = size_text(result.document["out_of_memory"]["wanted_bytes"])
        lines.append(f"The overhead includes the {wanted} that did not fit.")
    lines += [time_line(time)] if time else []
    if len(results) < result.world_size:
        silent = result.world_size - len(results)
        lines.append(f"{silent} of {result.world_size} ranks ended without a result.")
    blocks += [paragraph(*lines)] if lines else []
    blocks += [_changes(result, tried)] if tried else []
    if detail:
        blocks += _detail(results, card, nearest, time)
    about = limits(result, is_custom=card.is_custom)
    more = [] if detail else ["Every byte, phase and kernel: --detail"]
    return [*blocks, dim(*about, *more)]


def _detail(
    results: Sequence[Rehearsal],
    card: PretendedCard,
    nearest: Nearest | None,
    time: RehearsedTime | None,
) -> Iterator[Block]:
    result = worst_of(results)
    named = {" ".join(filter(None, key)): peak for key, peak in result.phases().items()}
    yield _counters("each phase, first step and later ones", named)
    if len(results) > 1:
        of_ranks = {f"rank {each.rank}": each.peak("whole") or {} for each in results}
        yield _counters("each rank's peak", of_ranks)
    yield from _held(result)
    if nearest is not None and nearest.prediction is not None:
        yield from _nearest(result, nearest, nearest.prediction)
    if time is not None and time.time is not None:
        yield from time_blocks(time, time.time, a_gpu(find_gpu(card.key)))
    yield paragraph(*_ran(result))


def _changes(result: Rehearsal, tried: Sequence[Tried]) -> Table:
    """What one change of the script's arguments makes of the reserved peak, the lowest first."""
    whole = result.peak("whole")
    rows = []
    for each in sorted(tried, key=lambda one: one.reserved_bytes or sys.maxsize):
        size = difference = "-"
        words = each.reason.partition("\n")[0]
        if each.result is not None and each.result.status != "done":
            error = each.result.document["error"] or {}
            words = f"{each.result.status}: {error.get('type', '')}".replace("_", " ")
        elif (peak := each.reserved_bytes) is not None:
            size = short_in_unit(peak, GIB)
            if whole and result.status == "done":
                difference = f"{(peak - whole['reserved_bytes']) / GIB:+.2f}"
        rows.append((each.change, size, difference, words))
    return cell_table(("", "GiB reserved", "change", ""), rows, title="one change")


def _verdict(result: Rehearsal, card: PretendedCard, script: str) -> VerdictLine:
    count = result.document["device"]["count"]
    gpus = a_gpu(find_gpu(card.key), count)
    whole = result.peak("whole")
    sizes = (whole["reserved_bytes"] if whole else 0, card.total_bytes)
    reserved, of = (short_in_unit(size, GIB) for size in sizes)
    error = {"step": 0, "phase": "", "type": "an error"} | (result.document["error"] or {})
    words, rest = {
        "done": (
            f"{worded('fits', script, gpus)}:",
            f" {reserved} of {of} GiB reserved, {result.steps} steps simulated.",
        ),
        "out_of_memory": (f"{worded('does_not_fit', script, gpus)}:", f" {_ran_out(result)}."),
        "refused": (f"{script} does not run on {gpus}:", f" {error['type']} {_when(error)}."),
        "error": (f"{script} failed on {gpus}:", f" {error['type']} {_when(error)}."),
        "ended": (f"{script} ended too early:", f" after {result.steps} optimizer steps."),
    }[result.status]
    sign: Sign = "fits" if result.status == "done" else "does_not_fit"
    return VerdictLine(sign=sign, words=words, rest=rest)


def _data_sizes(result: Rehearsal) -> Iterator[Block]:
    """Of data that was made in place of the script's own, which the peak follows from."""
    sizes: Mapping[str, str] = result.document["data_sizes"]
    if sizes:
        kinds = " and ".join(f"{name} of {size}" for name, size in sizes.items())
        option = " (--pretend-tokens)" if {"texts", "conversations"} & {*sizes} else ""
        yield paragraph(f"Its data is simulated: {kinds}{option}.")


def _ran_out(result: Rehearsal) -> str:
    """'out of memory in step 1, backward; 1.0 GiB more needed, 1.0 MiB free'."""
    ran_out = result.document["out_of_memory"]
    if ran_out is None:
        return "out of memory"
    wanted, free = (size_text(ran_out[f"{name}_bytes"]) for name in ("wanted", "free"))
    return f"out of memory {_when(ran_out)}; {wanted} more needed, {free} free"


def _failure(result: Rehearsal, *, detail: bool) -> list[Block]:
    """The script's own words, the first two sentences of them at least, and where it was."""
    error = result.document["error"]
    if error is None:
        return []
    words = error["message"]
    if not detail:
        words = ". ".join(words.strip().partition("\n")[0].split(". ")[:2])
    places = [f"  {_place(line)}" for line in error.get("where", ())]
    read = result.document["last_read"]
    if read and result.status == "error":
        value = f"{read['value']}, which the simulated GPU did not compute"
        places += [f"The script last read {value}:", f"  {_place(read['where'])}"]
    return [paragraph(f"{error['type']}: {words}", *places), *_pretended(result)]


_OF_HUB = re.compile(r"on the Hub|huggingface\.co|OfflineMode", re.IGNORECASE)


def _pretended(result: Rehearsal) -> Iterator[Block]:
    """What to type where something of the hub is not on this disk and could be simulated."""
    document = result.document
    if result.status != "error" or document.get("pretends_data", True):
        return
    if names := document["without_tokenizer"]:
        yield advice(f"The tokenizer of {', '.join(names)} is not here: add `--pretend-data`.")
    elif _OF_HUB.search(document["error"]["message"]):
        yield advice("Data that is not on this disk can be simulated: add `--pretend-data`.")


def _when(moment: Mapping[str, Any]) -> str:
    step = moment["step"]
    if moment["phase"] == "evaluation":
        return "during evaluation"
    return "before training" if step == 0 else f"in step {step}, {moment['phase']}"


def _bars(result: Rehearsal, card: PretendedCard) -> Iterator[Block]:
    """What is held at the peak, or as memory ran out, against the GPU's memory."""
    held = result.document["held"]
    if held is None or not held["requested_bytes"]:
        return
    parts = dict.fromkeys((*dict.fromkeys(_PARTS_OF_BAR.values()), "rest"), 0)
    for name, count in held["categories"].items():
        parts[_part_of(name)] += count
    whole = result.peak("whole")
    over = max(0, whole["reserved_bytes"] - held["requested_bytes"]) if whole else 0
    if result.status == "out_of_memory":
        over += (result.document["out_of_memory"] or {"wanted_bytes": 0})["wanted_bytes"]
    is_done = result.status == "done"
    bar = Bar(
        name=f"Step {held['step']}" if held["step"] else "Loading",
        parts={name: count for name, count in parts.items() if count},
        overhead_bytes=over,
        sign="fits" if is_done else "does_not_fit" if result.status == "out_of_memory" else "",
    )
    label = f"{gpu_name(find_gpu(card.key))}, {short_in_unit(card.total_bytes, GIB)} GiB"
    yield Bars(rows=(bar,), limits=((card.total_bytes, label),))


def _part_of(category: str) -> str:
    """'activations' for what is saved for the backward pass; 'rest' for what has no part."""
    alike = (name for name, own, _ in _ALIKE if category in own)
    return _PARTS_OF_BAR.get(next(alike, ""), "rest")


def _peaks(result: Rehearsal) -> Table:
    """What tensors and allocator hold before training, in the first step and in later ones."""
    parts = {name: result.peak(name) for name in PARTS_OF_RUN}
    whole = parts.pop("whole")
    unit, size = byte_unit(whole["reserved_bytes"] if whole else 0)
    rows, held = [], result.document["held"]
    for part, peak in parts.items():
        if peak is not None:
            is_peak = whole is not None and peak["requested_bytes"] == whole["requested_bytes"]
            cells = (in_unit(peak[counter], size) for counter in (COUNTERS[0], COUNTERS[2]))
            at = f"peak {_when(_moment_of_peak(result))}" if is_peak and held else ""
            rows.append((PARTS_OF_RUN[part], *cells, at))
    return with_words_last(cell_table((unit, "tensors", "reserved", ""), rows))


def _moment_of_peak(result: Rehearsal) -> Mapping[str, Any]:
    """That of what was held, in the last step, unless rows of another step were longer."""
    held: Mapping[str, Any] = result.document["held"]
    rows: list[Mapping[str, Any]] = result.document["phases"]
    most = max((row["requested_bytes"] for row in rows), default=0)
    at_peak = [row for row in rows if row["requested_bytes"] == most]
    is_of_held = any(all(row[key] == held[key] for key in ("step", "phase")) for row in at_peak)
    return held if is_of_held or not at_peak else at_peak[0]


PARTS_OF_RUN: Final[dict[PartOfRun, str]] = {
    "setup": "before training",
    "first_step": "step 1",
    "steady": "later steps",
    "whole": "peak",
}


def _largest(result: Rehearsal, *, most: int) -> list[Block]:
    """The largest tensors at the peak, equal ones together, and the line that allocated them."""
    held = result.document["held"]
    alike: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for piece in held["largest"] if held else ():
        alike.setdefault((_tensor_name(piece), piece["bytes"]), []).append(piece)
    shown = list(alike.items())[:most]
    if not shown:
        return []
    unit, size = byte_unit(shown[0][0][1])
    rows = []
    for (name, count), pieces in shown:
        times = f"{len(pieces)} × " if len(pieces) > 1 else ""
        stacks = [piece["stack"][0] for piece in pieces if piece["stack"]]
        place = _place(stacks[0]).partition(" ")[0] if stacks else ""
        cut = place if len(place) <= _LONGEST_PLACE else f"...{place[3 - _LONGEST_PLACE :]}"
        rows.append((name, f"{times}{short_in_unit(count, size)}", cut))
    return [with_words_last(cell_table(("Largest tensors", unit, "allocated in"), rows))]


def _tensor_name(piece: Mapping[str, Any]) -> str:
    """'layers.0.mlp.down_proj' of a parameter, else 'logits' as in the bar."""
    if piece["category"] != "parameters" or not piece["name"]:
        return _part_of(piece["category"])
    name = str(piece["name"]).rpartition("model.")[2].removesuffix(".weight")
    return name.removesuffix(".base_layer")


_STEPS_OF_A_RUN = 4
"""From which on it shows whether memory grows; the first two make optimizer states."""


def _reserved_over_steps(result: Rehearsal) -> Iterator[str]:
    """Whether the allocator reserved more after step 2, and the step of its peak."""
    by_step: dict[int, int] = {}
    for row in result.document["phases"]:
        by_step[row["step"]] = max(by_step.get(row["step"], 0), row["reserved_bytes"])
    by_step.pop(0, None)
    if max(by_step, default=0) < _STEPS_OF_A_RUN:
        return
    peak = max(by_step, key=lambda step: (by_step[step], -step))
    if peak > 2:
        before, after = (size_text(by_step[step]) for step in (2, peak))
        yield f"Reserved memory grew from {before} in step 2 to {after} in step {peak}, its peak."
    else:
        yield f"Reserved memory peaks in step {peak} and does not grow later."


def _leak_lines(result: Rehearsal, card: PretendedCard) -> Iterator[str]:
    """What every step leaves behind, the line that allocated it, and the step that has no room."""
    leak, whole = result.document["leak"], result.peak("whole")
    if leak is None or whole is None:
        return
    growth = leak["bytes_per_step"]
    place = _place(leak["where"]).partition(" ")[0]
    stay = f"; the tensors that stay were allocated at {place}" if place else ""
    yield f"Memory grows by {size_text(growth)} every step{stay}."
    if result.status == "done":
        steps = result.steps + (card.total_bytes - whole["reserved_bytes"]) // growth
        yield f"At that rate the GPU is full after about {count_text(steps)} steps."


def _nearest_line(result: Rehearsal, nearest: Nearest) -> str:
    """How far the closest prediction is off, and why it is an estimate."""
    if nearest.prediction is None:
        return f"No prediction to compare with: {nearest.reason}."
    held = result.document["held"]["requested_bytes"]
    predicted = counted_peak(nearest.prediction)
    error = predicted / held - 1 if held else 0
    off = "the same to the byte" if predicted == held else f"{error_text(error)}"
    doubts = _exactness(result, nearest.prediction, nearest.doubts)[1]
    why = f"; {doubts[0]}" if doubts else ""
    return f"Predicted for this loop: {bytes_text(predicted)}, {off}{why}."


def _counters(title: str, peaks: Mapping[str, Mapping[str, int]]) -> Table:
    rows = (
        (name, *(count_text(peak.get(counter, 0)) for counter in COUNTERS))
        for name, peak in peaks.items()
    )
    return cell_table(("rehearsed, bytes", *_HEADS), rows, title=title)


def _held(result: Rehearsal) -> list[Block]:
    held = result.document["held"]
    if held is None:
        return []
    unit, size = byte_unit(held["requested_bytes"])
    moment = "as memory ran out" if result.status == "out_of_memory" else "at the peak"
    sums = [*held["categories"].items(), ("sum", held["requested_bytes"])]
    return [
        table(
            sums,
            (
                ("", lambda each: each[0]),
                (unit, lambda each: in_unit(each[1], size)),
                ("requested bytes", lambda each: count_text(each[1])),
            ),
            title=f"what was held {moment} {_when(held)}",
            kind=lambda each: "total" if each is sums[-1] else "plain",
        )
    ]


def _nearest(result: Rehearsal, nearest: Nearest, prediction: Prediction) -> list[Block]:
    """The closest prediction, the difference to what was held, and why it is an estimate."""
    held = result.document["held"]
    predicted = counted(prediction.workload, prediction.peak.bytes)
    rows, categories = [], dict(held["categories"])
    for name, rehearsed_names, predicted_names in _ALIKE:
        rehearsed = sum(categories.pop(each, 0) for each in rehearsed_names)
        of_prediction = sum(predicted.get(each, 0) for each in predicted_names)
        if rehearsed or of_prediction:
            rows.append(compared(name, rehearsed, of_prediction))
    rows += [compared(name, count, 0) for name, count in categories.items()]
    total = held["requested_bytes"], counted_peak(prediction)
    exactness, doubts = _exactness(result, prediction, nearest.doubts)
    loop = f"{nearest.stack.title}, " if nearest.stack is not None else ""
    columns = ("bytes", "rehearsed", "predicted", "difference")
    rows.append(compared("sum", *total, kind="total"))
    title = f"closest prediction: {loop}{exactness}"
    blocks: list[Block] = [Table(title=title, columns=columns, rows=tuple(rows))]
    if doubts:
        blocks.append(paragraph(f"An estimate: {'; '.join(doubts)}."))
    return blocks


def _exactness(
    result: Rehearsal, prediction: Prediction, doubts: Sequence[str]
) -> tuple[Exactness, list[str]]:
    """Of a prediction beside a rehearsal, and why it is an estimate. What an exact one misses is
    the script's own, as a running loss is."""
    found, missed = list(doubts), result.document["held"]["requested_bytes"]
    missed -= counted_peak(prediction)
    if missed and not doubts and prediction.exactness == "exact":
        than = "more" if missed > 0 else "less"
        found.append(f"the script holds {abs(missed):,} bytes {than} than is predicted")
    return "estimate" if found else prediction.exactness, found


def _place(line: str) -> str:
    """A line by its place in the environment's packages or in this folder."""
    return line.rpartition("/site-packages/")[2].removeprefix(f"{os.getcwd()}/")


def _ran(result: Rehearsal) -> list[str]:
    document, facts = result.document, result.document["facts"]
    capability = document["device"]["compute_capability"]
    lines = [f"torch {document['torch']} on a simulated GPU of compute capability {capability}."]
    if "model" in facts:
        names = ", ".join(name.rpartition(".")[2] for name in facts["optimizers"])
        counts = f"{facts['parameters']:,} parameters, {facts['trained_parameters']:,} trained"
        lines.append(f"{facts['model']}: {counts}; {names or 'no optimizer yet'}.")
    if result.launches is not None:
        kernels, calls = result.launches
        none = "no fused kernel: the scores were kept, or there is no attention"
        attention = ", ".join(document["attention"]) or none
        launched = f"{kernels:,} kernels and makes {calls:,} calls of BLAS and its like"
        lines.append(f"A step launches {launched}. Attention: {attention}.")
    if document["retries"]:
        lines.append(f"The allocator gave its cache back {document['retries']} times to go on.")
    second, log = document["second_count"], "second count, of the allocator's own log"
    if second["is_equal"]:
        return [*lines, f"The requested peak is equal to a {log}."]
    return [*lines, f"A {log}, says {second['requested_bytes']:,} bytes requested."]


def rehearsal_document(
    results: Sequence[Rehearsal],
    card: PretendedCard,
    nearest: Nearest | None = None,
    time: RehearsedTime | None = None,
    tried: Sequence[Tried] = (),
) -> dict[str, Any]:
    """What each rank's process wrote, but for its step's kernels: the time is made of them."""
    result = worst_of(results)
    told: dict[str, Any] | None = None
    if nearest is not None:
        told = {"reason": nearest.reason}
        if nearest.prediction is not None:
            peak = nearest.prediction.peak
            exactness, doubts = _exactness(result, nearest.prediction, nearest.doubts)
            told = {
                "trainer": nearest.stack.key if nearest.stack is not None else None,
                "exactness": exactness,
                "doubts": doubts,
                **picked(nearest.prediction, "engine"),
                "moment": peak.moment,
                "requested_bytes": peak.total_bytes,
                "categories": dict(peak.bytes),
            }
    return {
        "schema_version": "1.0",
        "device": "rehearsed",
        "status": result.status,
        "card": {
            **picked(card, "key name capability total_bytes context_bytes"),
            "count": result.document["device"]["count"],
        },
        "limits": limits(result, is_custom=card.is_custom),
        "told_rank": result.rank,
        "nearest_prediction": told,
        "step_time": None if time is None else time_document(time),
        "tried": [
            {
                "change": each.change,
                "status": each.result.status if each.result else None,
                "reserved_bytes": each.reserved_bytes,
                "reason": each.reason,
            }
            for each in tried
        ],
        "ranks": [_strict_json(each.document) for each in results],
    }


def _strict_json(document: Mapping[str, Any]) -> dict[str, Any]:
    """`document` without its kernels; infinity, which configs of Mamba layers have, as a word: JSON
    has no such number."""
    kept = {name: value for name, value in document.items() if name != "work"}
    return json.loads(json.dumps(kept), parse_constant=str)  # type: ignore[no-any-return]


# --- the time of its step, worked out from the kernels that it launched ---------------------------


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

    rows, title = MethodRows([]), f"one step on {gpu}, predicted from the kernels that it launched"
    add_times(rows, [time])
    return [rows.table("", "", title=title), paragraph(*_time_lines(found, time))]


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


# --- as a page ------------------------------------------------------------------------------------


def rehearsal_content(
    blocks: Sequence[Block], command: Sequence[str], document: Mapping[str, Any]
) -> Content:
    """`blocks` are those of `report.rehearsed.rehearsal_blocks`, in detail."""
    verdict = next(block for block in blocks if isinstance(block, VerdictLine))
    rest = tuple(block for block in blocks if not isinstance(block, VerdictLine))
    return Content(
        title=verdict.words.rstrip(":,"),
        lines=(
            f"{verdict.words}{verdict.rest}",
            shlex.join(command),
            "Simulated without a GPU, not measured on one.",
        ),
        cards=(),
        sections=(Section("memory", "Memory and time", rest),),
        data=dict(document),
    )
