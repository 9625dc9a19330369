"""A rehearsal as blocks and as JSON: records of a pretended card, and the answer about a script. It
says of every figure that it was rehearsed, not measured."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lora_profiler.comparison.errors import counted, counted_peak
from lora_profiler.comparison.scored import Result
from lora_profiler.planning.nearest import Nearest, RehearsedTime
from lora_profiler.prediction import CATEGORIES, Category, Exactness, Prediction
from lora_profiler.rehearsal.cards import PretendedCard
from lora_profiler.rehearsal.result import COUNTERS, Rehearsal, limits, worst_of
from lora_profiler.report import labels
from lora_profiler.report.blocks import Block, Row, RowKind, Table, heading, paragraph, table
from lora_profiler.report.json import picked
from lora_profiler.report.labels import method_label
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.measurements import package_words
from lora_profiler.steptime import PARTS, Part, StepTime
from lora_profiler.units import (
    byte_unit,
    bytes_text,
    count_text,
    in_unit,
    percent_text,
    rate_text,
    seconds_text,
)


def rehearsed_blocks(results: Sequence[Result]) -> list[Block]:
    blocks: list[Block] = []
    for result in results:
        record, failure = result.record, result.record.measurement.failure
        label, device = method_label(result.prediction), record.environment.device.name
        blocks += [
            heading(f"{record.workload.model.id}, {label}: {run_labels.status_label(record)}"),
            paragraph(f"{device}: {', '.join(package_words(record.environment))}."),
        ]
        if failure is not None:
            phase = failure.phase or ""
            where = f"In {run_labels.PHASE_LABELS.get(phase, phase)}: " if phase else ""
            blocks.append(paragraph(f"{where}{failure.reason}"))
        if record.measurement.went_through:
            blocks.append(_bytes_beside(result))
    limits = dict.fromkeys(limit for r in results for limit in r.record.environment.limits)
    return [*blocks, paragraph(*limits)]


def _bytes_beside(result: Result) -> Table:
    """The steady peak by category, and the peaks of the allocator, beside what is predicted."""
    m, prediction = result.record.measurement, result.prediction
    predicted = counted(prediction.workload, prediction.peak.bytes)
    rows = [
        beside(labels.CATEGORY_LABELS[name], size, predicted.get(name, 0), bytes_text(size))
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
        beside(name, size, other, bytes_text(size), kind="total")
        for name, size, other in peaks
        if size is not None
    ]
    return Table(
        title=f"the peak, and the prediction beside it ({prediction.exactness})",
        columns=("bytes", "rehearsed", "predicted", "difference", ""),
        rows=tuple(rows),
    )


def beside(
    name: str, rehearsed: int, predicted: int | None, *more: str, kind: RowKind = "plain"
) -> Row:
    """What was rehearsed, what is predicted, and the difference."""
    if predicted is None:
        return Row(cells=(name, count_text(rehearsed), "-", "-", *more), kind=kind)
    difference = predicted - rehearsed
    text = f"{difference:+,}" if difference else "equal"
    cells = (name, count_text(rehearsed), count_text(predicted), text, *more)
    return Row(cells=cells, kind=kind)


# --- the answer about a script --------------------------------------------------------------------

_HEADS = ("requested", "allocated", "reserved")
_ALIKE: tuple[tuple[str, tuple[str, ...], tuple[Category, ...]], ...] = (
    ("weights and adapters", ("parameters",), ("parameters", "adapters")),
    ("quantisation constants", ("quantisation constants",), ("quantization_state",)),
    ("buffers", ("buffers",), ("buffers",)),
    ("gradients", ("gradients",), ("gradients",)),
    ("optimizer states", ("optimizer states",), ("optimizer_states",)),
    ("inputs and activations", ("saved for the backward pass",), ("inputs", "activations")),
    ("logits and loss", ("logits and loss",), ("logits_and_loss",)),
    (
        "temporaries",
        (
            "temporaries of the forward pass",
            "temporaries of the backward pass",
            "temporaries of the optimizer",
        ),
        ("temporaries",),
    ),
    ("workspaces of BLAS", ("workspaces of BLAS",), ("workspace",)),
)
"""Categories of a rehearsal and of a prediction that are the same."""


def rehearsal_blocks(
    results: Sequence[Rehearsal],
    card: PretendedCard,
    nearest: Nearest | None = None,
    time: RehearsedTime | None = None,
    *,
    with_phases: bool,
) -> list[Block]:
    result = worst_of(results)
    blocks: list[Block] = [heading(_verdict(result, card)), *_failure(result), _peaks(result)]
    if with_phases:
        named = {" ".join(filter(None, key)): peak for key, peak in result.phases().items()}
        blocks.append(_counters("each phase, first step and later ones", named))
    if len(results) > 1:
        of_ranks = {f"rank {each.rank}": each.peak("whole") or {} for each in results}
        blocks.append(_counters("each rank's peak", of_ranks))
    blocks += _held(result)
    if nearest is not None:
        blocks += _nearest(result, nearest)
    if time is not None:
        blocks += time_blocks(time, card)
    if len(results) < result.world_size:
        silent = result.world_size - len(results)
        blocks.append(paragraph(f"{silent} of {result.world_size} ranks ended without a result."))
    about = limits(result, is_custom=card.is_custom)
    return [*blocks, paragraph(*_ran(result)), paragraph(*about)]


def _verdict(result: Rehearsal, card: PretendedCard) -> str:
    count = result.document["device"]["count"]
    cards = f"a pretended {card.name}" if count == 1 else f"{count} pretended {card.name}"
    reserved = (result.peak("whole") or {}).get("reserved_bytes", 0)
    room = f"{bytes_text(reserved)} reserved of {bytes_text(card.total_bytes)}"
    steps = f"{result.steps} optimizer steps, before those asked for"
    return {
        "done": f"It runs on {cards}, rehearsed for {result.steps} steps: {room}.",
        "out_of_memory": f"It runs out of memory on {cards}.",
        "refused": f"It does not run on {cards}.",
        "error": f"The script failed on {cards}.",
        "ended": f"The script ended on {cards} after {steps}.",
    }[result.status]


def _failure(result: Rehearsal) -> list[Block]:
    error, ran_out = result.document["error"], result.document["out_of_memory"]
    lines = []
    if ran_out is not None and result.status == "out_of_memory":
        wanted, free = (bytes_text(ran_out[f"{name}_bytes"]) for name in ("wanted", "free"))
        asked = f"{wanted} more were asked for, and {free} were free on the card."
        lines.append(f"{_when(ran_out).capitalize()}: {asked}")
    elif error is not None:
        lines.append(f"{_when({'step': 0} | error).capitalize()}.")
    if error is not None:
        lines.append(f"{error['type']}: {error['message']}")
        lines += [f"  {_place(line)}" for line in error.get("where", ())]
    return [paragraph(*lines)] if lines else []


def _when(moment: Mapping[str, Any]) -> str:
    step = moment["step"]
    return "before training" if step == 0 else f"in step {step}, {moment['phase']}"


def _peaks(result: Rehearsal) -> Table:
    names = {"setup": "before training", "first_step": "first step", "steady": "later steps"}
    rows = []
    for part, name in (names | {"whole": "peak"}).items():
        peak = result.peak(part)  # type: ignore[arg-type]
        if peak is not None:
            counts = (count_text(peak[counter]) for counter in COUNTERS)
            cells = (name, *counts, bytes_text(peak["reserved_bytes"]))
            rows.append(Row(cells=cells, kind="peak" if part == "whole" else "plain"))
    return Table(columns=("rehearsed, bytes", *_HEADS, ""), rows=tuple(rows))


def _counters(title: str, peaks: Mapping[str, Mapping[str, int]]) -> Table:
    rows = (
        Row(cells=(name, *(count_text(peak.get(counter, 0)) for counter in COUNTERS)))
        for name, peak in peaks.items()
    )
    return Table(title=title, columns=("rehearsed, bytes", *_HEADS), rows=tuple(rows))


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
        ),
        table(
            held["largest"][:5],
            (
                ("", lambda piece: bytes_text(piece["bytes"])),
                ("", lambda piece: piece["category"]),
                ("", lambda piece: piece["name"] or "-"),
                ("", lambda piece: _place(piece["stack"][0]) if piece["stack"] else "-"),
            ),
            title="the largest of it",
            left=4,
        ),
    ]


def _nearest(result: Rehearsal, nearest: Nearest) -> list[Block]:
    """The closest prediction, the difference to what was held, and why it is an estimate."""
    held = result.document["held"]
    if nearest.prediction is None:
        return [paragraph(f"No prediction to compare with: {nearest.reason}.")]
    predicted = counted(nearest.prediction.workload, nearest.prediction.peak.bytes)
    rows, categories = [], dict(held["categories"])
    for name, rehearsed_names, predicted_names in _ALIKE:
        rehearsed = sum(categories.pop(each, 0) for each in rehearsed_names)
        told = sum(predicted.get(each, 0) for each in predicted_names)
        if rehearsed or told:
            rows.append(beside(name, rehearsed, told))
    rows += [beside(name, count, 0) for name, count in categories.items()]
    total = held["requested_bytes"], counted_peak(nearest.prediction)
    exactness, doubts = _exactness(result, nearest.prediction, nearest.doubts)
    whose = f"{nearest.stack.title}, " if nearest.stack is not None else ""
    title = f"closest prediction: {whose}{exactness}"
    columns = ("bytes", "rehearsed", "predicted", "difference")
    rows.append(beside("sum", *total, kind="total"))
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
    lines = [f"torch {document['torch']} over a pretended card of compute capability {capability}."]
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
        "ranks": [
            {name: value for name, value in each.document.items() if name != "work"}
            for each in results
        ],
    }


# --- the time of a step ---------------------------------------------------------------------------

_BOUNDS: tuple[tuple[str, tuple[Part, ...]], ...] = (
    ("matrix products", ("gemm", "attention_forward", "attention_backward")),
    ("moving bytes", ("memory", "dequantise", "update")),
    ("the host, which launches kernels more slowly than the card runs them", ("launches",)),
)
"""What bounds a step, by the parts of its time."""


def time_blocks(found: RehearsedTime, card: PretendedCard) -> list[Block]:
    time = found.time
    if time is None:
        return [paragraph(f"The time of a step is not told: {found.reason}.")]
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
    title = f"one step on {card.name}, predicted from the kernels that it launched"
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
