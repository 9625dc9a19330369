"""Where one way overtakes another, as sentences and maps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from lora_profiler.planning.crossover import (
    FRUGAL,
    HIGHEST_RANK,
    Crossing,
    Crossover,
    CrossoverPoint,
    Quantity,
    checkpoints_some,
)
from lora_profiler.question.workload import Method, setup_dict
from lora_profiler.report import labels
from lora_profiler.report.answer.short_answer import is_short
from lora_profiler.report.answer.verdicts import a_gpu, joined
from lora_profiler.report.blocks import Block, Sign, Table, VerdictLine, cell_table, dim
from lora_profiler.report.json import picked
from lora_profiler.report.labels import way_label
from lora_profiler.report.setup_words import training_line
from lora_profiler.units import count_text

_WORDS: dict[Quantity, tuple[str, str]] = {
    "memory": ("needs less memory than", "needs more memory than"),
    "time": ("is faster than", "is slower than"),
}
_TITLES: dict[Quantity, str] = {"memory": "least memory", "time": "fastest step"}


def crossover_blocks(found: Crossover) -> list[Block]:
    """A verdict for each pair, the ranks up to which LoRA saves memory, and maps of batch and
    length where not all cells are alike; of these less where it would not fit the screen."""
    batches = sorted({point.batch_size for point in found.points})
    whole = _blocks(found, batches)
    if is_short(whole):
        return whole
    few = sorted({batches[0], batches[len(batches) // 2], batches[-1]})
    some = (_blocks(found, few, quantities) for quantities in (("memory", "time"), ("time",), ()))
    return next(filter(is_short, some), whole)


def _blocks(
    found: Crossover, batches: Sequence[int], maps: Sequence[Quantity] = ("memory", "time")
) -> list[Block]:
    blocks: list[Block] = [*verdicts(found)]
    if any(point.highest_rank is not None for point in found.points):
        blocks.append(_ranks(found, batches))
    lines = [*found.left_out, setup_sentence(found)]
    if any(point.seconds for point in found.points):
        lines.append(_TIMES)
    elif maps:
        maps = ("memory",)
    blocks += [table for quantity in maps for table in _map(found, quantity, batches)]
    if len(batches) < len({point.batch_size for point in found.points}):
        lines.append("All batches and lengths: `--format json`.")
    return [*blocks, dim(*lines)]


def setup_sentence(found: Crossover) -> str:
    """'gpt2 on a T4: float32 weights, adamw (fused), no checkpointing.', what all methods share."""
    first = found.workloads[0]
    where = f" on {a_gpu(found.gpu)}" if found.gpu else ""
    words = training_line(first.setup).partition(", ")[2]
    checkpointing = "with checkpointing" if first.setup.checkpointing else "no checkpointing"
    if checkpoints_some(found.workloads):
        checkpointing = "checkpointing in some"
    return f"{first.model.id}{where}: {words}, {checkpointing}."


_TIMES = "Times are estimates: intervals that overlap may turn the order."


def sentences(found: Crossover) -> list[str]:
    return [f"{verdict.words}{verdict.rest}" for verdict in verdicts(found)]


def verdicts(found: Crossover) -> list[VerdictLine]:
    """Where each frugal method saves, or that it does not: one line for all methods that it stands
    alike to."""
    names = {w.setup.method: way_label(w.setup) for w in found.workloads}
    batches = sorted({point.batch_size for point in found.points})
    lengths = sorted({point.seq_len for point in found.points})
    quantities: list[Quantity] = ["memory"]
    if any(point.seconds for point in found.points):
        quantities.append("time")
    alike: dict[tuple[Quantity, Method, Sign, str], list[str]] = {}
    for quantity, (dearer, cheaper) in product(quantities, FRUGAL):
        if dearer in names and cheaper in names:
            key = (quantity, dearer, cheaper)
            spans = [c for c in found.crossings if (c.quantity, c.dearer, c.cheaper) == key]
            sign, where = _where(spans, batches, lengths)
            alike.setdefault((quantity, dearer, sign, where), []).append(names[cheaper])
    return [
        VerdictLine(
            sign=sign,
            words=f"{names[dearer]} {_WORDS[quantity][sign != 'fits']} {joined(others)}:",
            rest=f" {where}.",
        )
        for (quantity, dearer, sign, where), others in alike.items()
    ]


_EVERYWHERE = "at every length"


def _where(
    spans: Sequence[Crossing], batches: Sequence[int], lengths: Sequence[int]
) -> tuple[Sign, str]:
    """("fits", where it saves), else the lengths and batches at which it does not."""
    if not spans:
        return "fits", _EVERYWHERE
    if [span.batch_size for span in spans] == list(batches) and all(s.last is None for s in spans):
        first, *_, last = spans if len(spans) > 1 else (*spans, *spans)
        if first.first != last.first:
            down = f"{count_text(last.first)} at {count_text(last.batch_size)}"
            at = f"tokens at batch {count_text(first.batch_size)}"
            return "tight", f"from {count_text(first.first)} {at}, {down}"
    parts: dict[str, list[int]] = {}
    for span in spans:
        parts.setdefault(_span_words(span, lengths), []).append(span.batch_size)
    if len(parts) == 1 and next(iter(parts.values())) == list(batches):
        words = next(iter(parts))
        return "does_not_fit" if words == _EVERYWHERE else "tight", words
    return "tight", "; ".join(
        f"{words} at batch {', '.join(map(count_text, sizes))}" for words, sizes in parts.items()
    )


def _span_words(span: Crossing, lengths: Sequence[int]) -> str:
    if span.last is None:
        if span.first == lengths[0]:
            return _EVERYWHERE
        return f"from {count_text(span.first)} tokens on"
    if span.first == lengths[0]:
        return f"up to {count_text(span.last)} tokens"
    return f"from {count_text(span.first)} to {count_text(span.last)} tokens"


def _names(found: Crossover) -> Mapping[Method, str]:
    return {w.setup.method: labels.adapter_label(w.setup) for w in found.workloads}


def _map(found: Crossover, quantity: Quantity, batches: Sequence[int]) -> Iterator[Table]:
    """A cell names the method that costs least; nothing where that is one and the same."""

    def cell(point: CrossoverPoint) -> str:
        least: Method | None = point.least(quantity)
        return names[least] if least else "?"

    names = _names(found)
    if len(set(map(cell, found.points))) > 1:
        title = f"Method with the {_TITLES[quantity]}, by batch and tokens"
        yield _table(found, title, cell, batches)


def _ranks(found: Crossover, batches: Sequence[int]) -> Table:
    def rank(point: CrossoverPoint) -> str:
        highest = point.highest_rank
        if highest is None:
            return "?"
        return "any" if highest == HIGHEST_RANK else count_text(highest) if highest else "none"

    name = _names(found)["lora"]
    title = f"Highest rank at which {name} needs no more memory than full, by batch and tokens"
    return _table(found, title, rank, batches)


def _table(
    found: Crossover, title: str, cell: Callable[[CrossoverPoint], str], batches: Sequence[int]
) -> Table:
    lengths = sorted({point.seq_len for point in found.points})
    at = {(point.batch_size, point.seq_len): point for point in found.points}
    rows = ((f"batch {batch}", *(cell(at[batch, n]) for n in lengths)) for batch in batches)
    return cell_table(("", *map(count_text, lengths)), rows, title=title)


def crossover_payload(found: Crossover) -> dict[str, Any]:
    """`lora-profile crossover --format json`; an unknown time is left out."""
    return {
        "schema_version": "1.0",
        "model": found.workloads[0].model.id,
        "gpu": found.gpu.key if found.gpu else None,
        "setups": [setup_dict(workload.setup) for workload in found.workloads],
        "points": [
            picked(point, "batch_size seq_len peak_bytes seconds highest_rank")
            for point in found.points
        ],
        "crossings": [
            {
                **picked(span, "quantity dearer cheaper batch_size"),
                "first_tokens": span.first,
                "last_tokens": span.last,
            }
            for span in found.crossings
        ],
        "left_out": list(found.left_out),
    }
