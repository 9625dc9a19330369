"""Where one way overtakes another, as sentences and maps."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from lora_profiler.planning.crossover import (
    FRUGAL,
    HIGHEST_RANK,
    Crossing,
    Crossover,
    Point,
    Quantity,
)
from lora_profiler.report import labels
from lora_profiler.report.blocks import Block, Row, Table, heading, paragraph
from lora_profiler.report.json import picked
from lora_profiler.report.labels import way_label
from lora_profiler.report.setup_words import training_line
from lora_profiler.units import count_text
from lora_profiler.workload import Method, setup_dict

_MORE: dict[Quantity, str] = {"memory": "needs more memory than", "time": "takes longer than"}
_TITLES: dict[Quantity, str] = {"memory": "least memory", "time": "quickest step"}


def crossover_blocks(found: Crossover) -> list[Block]:
    """The sentences first, then a map of batch and length for memory and, on a card, for time."""
    first = found.workloads[0]
    where = f" on {found.gpu.name}" if found.gpu else ""
    ways = ", ".join(way_label(workload.setup) for workload in found.workloads)
    asked = training_line(first.setup).split(", ", 1)[1]
    blocks: list[Block] = [
        heading(f"{first.model.id}: {ways}{where}"),
        paragraph(asked),
        paragraph(*sentences(found)),
        _map(found, "memory"),
    ]
    if any(point.highest_rank is not None for point in found.points):
        blocks.append(_ranks(found))
    if any(point.seconds for point in found.points):
        blocks += [_map(found, "time"), paragraph(_TIMES)]
    return blocks


_TIMES = (
    "Times are estimates: two that are nearer than their intervals (lora-profile predict --detail)"
    " may stand the other way."
)


def sentences(found: Crossover) -> list[str]:
    """One for each pair and quantity: where the frugal method is none, or that it is everywhere."""
    names = {w.setup.method: way_label(w.setup) for w in found.workloads}
    batches = sorted({point.batch_size for point in found.points})
    lengths = sorted({point.seq_len for point in found.points})
    quantities: list[Quantity] = ["memory"]
    if any(point.seconds for point in found.points):
        quantities.append("time")
    lines = []
    for quantity, (dearer, cheaper) in product(quantities, FRUGAL):
        if dearer in names and cheaper in names:
            key = (quantity, dearer, cheaper)
            spans = [c for c in found.crossings if (c.quantity, c.dearer, c.cheaper) == key]
            what = f"{names[dearer]} {_MORE[quantity]} {names[cheaper]}"
            lines.append(f"{what}: {_where(spans, batches, lengths)}.")
    return lines


def _where(spans: Sequence[Crossing], batches: Sequence[int], lengths: Sequence[int]) -> str:
    if not spans:
        return f"nowhere from {count_text(lengths[0])} to {count_text(lengths[-1])} tokens"
    parts: dict[str, list[int]] = {}
    for span in spans:
        parts.setdefault(_span_words(span, lengths), []).append(span.batch_size)
    if len(parts) == 1 and next(iter(parts.values())) == list(batches):
        return next(iter(parts))
    return "; ".join(
        f"{words} at batch {', '.join(map(count_text, sizes))}" for words, sizes in parts.items()
    )


def _span_words(span: Crossing, lengths: Sequence[int]) -> str:
    if span.last is None:
        if span.first == lengths[0]:
            return "at every length"
        return f"from {count_text(span.first)} tokens on"
    if span.first == lengths[0]:
        return f"up to {count_text(span.last)} tokens"
    return f"from {count_text(span.first)} to {count_text(span.last)} tokens"


def _map(found: Crossover, quantity: Quantity) -> Table:
    """A cell names the method that costs least."""

    def cell(point: Point) -> str:
        least: Method | None = point.least(quantity)
        return labels.METHOD_LABELS[least] if least else "?"

    return _table(found, f"{_TITLES[quantity]}, by batch and tokens", cell)


def _ranks(found: Crossover) -> Table:
    def rank(point: Point) -> str:
        highest = point.highest_rank
        if highest is None:
            return "?"
        return "any" if highest == HIGHEST_RANK else count_text(highest) if highest else "none"

    title = "highest rank at which LoRA needs no more memory than full, by batch and tokens"
    return _table(found, title, rank)


def _table(found: Crossover, title: str, cell: Callable[[Point], str]) -> Table:
    """Rows are batches, columns lengths."""
    lengths = sorted({point.seq_len for point in found.points})
    at = {(point.batch_size, point.seq_len): point for point in found.points}
    rows = [
        Row(cells=(f"batch {batch}", *(cell(at[batch, length]) for length in lengths)))
        for batch in sorted({point.batch_size for point in found.points})
    ]
    return Table(title=title, columns=("", *map(count_text, lengths)), rows=tuple(rows))


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
    }
