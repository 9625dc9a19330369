"""Equal layers as one row: tables with the textbook comparison of trained weights and the sums that
check it, and a figure of what each kind of layer costs under every method, side by side."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lora_profiler.prediction import Category, LayerCost, Prediction
from lora_profiler.report.blocks import Block, Row, RowKind, Table
from lora_profiler.report.charts import plot
from lora_profiler.report.charts.plot import Figure
from lora_profiler.report.labels import LAYER_LABELS, method_label
from lora_profiler.report.palette import FAINT_INK, LINE, METHOD_MARKS, PAPER
from lora_profiler.units import bytes_text, count_text, flops_text, percent_text, shape_text
from lora_profiler.workload import Method

_INDEX = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)|(?<=\.)\d+$")
_MOST_RANGES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """Layers that cost the same: `name` with their numbers as ranges
    ("model.layers.0-31.self_attn.q_proj")."""

    name: str
    layers: tuple[tuple[LayerCost, ...], ...]
    """One entry a layer: its cost under each method."""

    @property
    def count(self) -> int:
        return len(self.layers)

    @property
    def costs(self) -> tuple[LayerCost, ...]:
        """The cost of one of them under each method."""
        return self.layers[0]


def group_layers(
    layers: Sequence[Sequence[LayerCost]], *, parameters_only: bool = False
) -> list[LayerGroup]:
    """Groups equal layers of one model; `layers` holds the layers of each method, which share the
    names of all modules.

    Equal means: the same name but for the numbers in it, the same kind and shape, and the same cost
    under every method (with `parameters_only`, the same numbers of parameters; what owns none is
    left out).
    """
    members: dict[tuple[object, ...], list[tuple[LayerCost, ...]]] = {}
    by_name = [{cost.name: cost for cost in method} for method in layers[1:]]
    for first in layers[0]:
        if not all(first.name in found for found in by_name):
            continue  # what one method alone has beside the modules, such as a dropout mask
        costs = (first, *(found[first.name] for found in by_name))
        weights = [c.num_parameters or c.num_trainable_parameters for c in costs]
        if parameters_only and not any(weights):
            continue
        shape = first.in_features, first.out_features
        key: tuple[object, ...] = (_INDEX.sub("*", first.name), first.kind, *shape)
        for cost in costs:
            key += (cost.num_parameters, cost.num_trainable_parameters)
            if not parameters_only:
                key += _values(cost)
        members.setdefault(key, []).append(costs)
    return [
        LayerGroup(name=_range_name([m[0].name for m in group]), layers=tuple(group))
        for group in members.values()
    ]


def _range_name(names: list[str]) -> str:
    """The names with each changing number as ranges: a.0.b, a.1.b, a.3.b -> a.0-1,3.b."""
    pattern = _INDEX.split(names[0])
    numbers = [_INDEX.findall(name) for name in names]
    text = pattern[0]
    for place, rest in enumerate(pattern[1:]):
        text += _ranges({int(n[place]) for n in numbers}) + rest
    return text


def _ranges(numbers: Iterable[int]) -> str:
    """{0, 1, 2, 5} -> '0-2,5'; with many holes only '0..61'."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    if len(runs) > _MOST_RANGES:
        return f"{runs[0][0]}..{runs[-1][1]}"
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in runs)


def layer_blocks(predictions: Sequence[Prediction]) -> list[Block]:
    """One model's parameters under all methods, then memory and compute of each method."""
    return [parameter_table(predictions), *(cost_table(p) for p in predictions)]


def parameter_table(predictions: Sequence[Prediction]) -> Table:
    """Weights of each distinct layer and how many of them train under each method; the last row
    sums every copy."""
    groups = group_layers([p.layers for p in predictions], parameters_only=True)
    rows = []
    for group in groups:
        first = group.costs[0]
        sides = first.in_features, first.out_features
        shape = "" if None in sides else shape_text(*sides)  # type: ignore[arg-type]
        trained = [c.num_trainable_parameters for c in group.costs]
        rows.append(_parameter_row(group.name, group.count, shape, first.num_parameters, trained))
    model = sum(g.costs[0].num_parameters * g.count for g in groups)
    trained = [
        sum(g.costs[i].num_trainable_parameters * g.count for g in groups)
        for i in range(len(predictions))
    ]
    count = sum(g.count for g in groups)
    rows.append(_parameter_row("all copies together", count, "", model, trained, kind="total"))
    names = [f"trained, {method_label(p)}" for p in predictions]
    columns = ("layer", "copies", "in x out", "weights in each", *names, "fewer")
    length = len(columns) - all(t >= model for t in trained)
    return Table(
        title="Trained weights per layer",
        columns=columns[:length],
        rows=tuple(replace(row, cells=row.cells[:length]) for row in rows),
        spare=("in x out", "fewer"),
    )


def _parameter_row(
    name: str, count: int, shape: str, model: int, trained: Sequence[int], kind: RowKind = "plain"
) -> Row:
    least = min(trained)
    fewer = "" if least >= model else percent_text(1 - least / model) if least else "frozen"
    cells = (name, f"x{count}", shape, count_text(model), *map(count_text, trained), fewer)
    return Row(cells=cells, kind=kind)


def cost_table(prediction: Prediction) -> Table:
    """Bytes and FLOPs of each distinct layer under one method, and what belongs to no layer."""
    groups = group_layers([prediction.layers])
    rows = [_cost_row(g.name, g.count, _values(g.costs[0])) for g in groups]
    sums = list(map(sum, zip(*map(_values, prediction.layers), strict=True)))
    flops = prediction.flops
    totals = [*held_bytes(prediction).values(), sums[4] if flops is None else flops.total]
    rest = [total - part for total, part in zip(totals, sums, strict=True)]
    if any(rest):
        rows.append(_cost_row("outside the layers", 0, rest))
    rows.append(_cost_row("all together", 0, totals, kind="total"))
    names = ("weights", "gradients", "optimizer", "saved for backward", "compute")
    title = f"Memory and compute in each layer, {method_label(prediction)}"
    return Table(title=title, columns=("layer", "copies", *names), rows=tuple(rows))


def _values(cost: LayerCost) -> tuple[int, ...]:
    held = cost.parameter_bytes, cost.gradient_bytes, cost.optimizer_state_bytes
    return (*held, cost.saved_activation_bytes, cost.flops)


def _cost_row(name: str, count: int, values: Sequence[int], kind: RowKind = "plain") -> Row:
    texts = (*map(bytes_text, values[:4]), flops_text(values[4]))
    cells = (
        name,
        f"x{count}" if count else "",
        *(text if value else "-" for text, value in zip(texts, values, strict=True)),
    )
    return Row(cells=cells, kind=kind)


# --- what all layers of a kind hold ---------------------------------------------------------------

_HELD: Mapping[Category, str] = {
    "parameters": "parameter_bytes",
    "gradients": "gradient_bytes",
    "optimizer_states": "optimizer_state_bytes",
    "activations": "saved_activation_bytes",
}
_MOST_HELD = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldByLayers:
    """Bytes of all `count` layers of one name, but for the numbers in it; `count` is 0 for layers
    of several names, and for what belongs to none."""

    name: str
    count: int
    bytes: Mapping[Category, int]
    """Weights (with adapters and quantization constants), gradients, optimizer states, and
    activations saved for backward."""


def held_by_layers(prediction: Prediction) -> list[HeldByLayers]:
    """What layers hold, those of one name together, the largest first; after `_MOST_HELD` all
    others in one row, then what belongs to no layer. The rows add up to `held_bytes`."""
    kinds: dict[str, list[LayerCost]] = {}
    for cost in prediction.layers:
        kinds.setdefault(_INDEX.sub("*", cost.name), []).append(cost)
    rows = [
        HeldByLayers(
            name=_range_name([cost.name for cost in members]),
            count=len(members),
            bytes=_held_sum(members),
        )
        for members in kinds.values()
    ]
    rows = sorted((row for row in rows if any(row.bytes.values())), key=_held_size, reverse=True)
    first, others = rows[:_MOST_HELD], rows[_MOST_HELD:]
    if others:
        together = {c: sum(row.bytes[c] for row in others) for c in _HELD}
        first.append(HeldByLayers(name="all other layers", count=0, bytes=together))
    total, layers = held_bytes(prediction), _held_sum(prediction.layers)
    rest = {category: total[category] - layers[category] for category in _HELD}
    if any(rest.values()):
        first.append(HeldByLayers(name="outside the layers", count=0, bytes=rest))
    return first


def held_bytes(prediction: Prediction) -> dict[Category, int]:
    """What a step holds throughout and saves for backward, whether in a layer or not."""
    persistent = prediction.persistent_bytes
    saved = prediction.saved_activation_bytes
    weights: tuple[Category, ...] = ("parameters", "quantization_state", "adapters")
    return {
        "parameters": sum(persistent.get(category, 0) for category in weights),
        "gradients": persistent.get("gradients", 0),
        "optimizer_states": persistent.get("optimizer_states", 0),
        "activations": sum(c.saved_activation_bytes for c in prediction.layers)
        if saved is None
        else saved,
    }


def _held_sum(layers: Iterable[LayerCost]) -> dict[Category, int]:
    members = list(layers)
    return {name: sum(getattr(cost, of) for cost in members) for name, of in _HELD.items()}


def _held_size(row: HeldByLayers) -> int:
    return sum(row.bytes.values())


# --- the figure -----------------------------------------------------------------------------------

LayerQuantity = Literal[
    "num_trainable_parameters",
    "num_parameters",
    "parameter_bytes",
    "gradient_bytes",
    "optimizer_state_bytes",
    "saved_activation_bytes",
    "flops",
]
"""The columns of `LayerCost` that can be drawn."""

_ROW_PX = 28
_APART = 0.3
"""Between the marks of two methods in one row, so that equal ones are both seen."""
_EDGE = 1.0001
"""Just within a log axis."""
_FAR_APART = 50
"""Values that differ by more than this factor are drawn on a log scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """Layers that cost the same: their name with numbers as ranges, how many they are, and the
    value of one of them by method."""

    name: str
    count: int
    values: Mapping[str, int]
    """By the label of a method, as 'LoRA r16'."""
    methods: Mapping[str, Method]
    """What each label is."""


def layer_rows(
    predictions: Sequence[Prediction], quantity: LayerQuantity = "num_trainable_parameters"
) -> list[LayerRow]:
    """The rows of one model's predictions, one prediction a method, in the order of the model.

    Layers that hold nothing of `quantity` under any method are left out.
    """
    labels = [method_label(prediction) for prediction in predictions]
    methods = {name: p.workload.setup.method for name, p in zip(labels, predictions, strict=True)}
    groups = group_layers(
        [prediction.layers for prediction in predictions], parameters_only="parameters" in quantity
    )
    candidates = [
        LayerRow(
            name=group.name,
            count=group.count,
            values={
                name: getattr(cost, quantity)
                for name, cost in zip(labels, group.costs, strict=True)
            },
            methods=methods,
        )
        for group in groups
    ]
    return [row for row in candidates if any(row.values.values())]


def layer_bars(
    layers: Sequence[LayerRow], quantity: LayerQuantity = "num_trainable_parameters"
) -> Figure:
    """A line for each of `layers`, on it a mark for every method; on a log scale where values lie
    far apart.

    Hollow marks at the left end stand for nothing at all.
    """
    sizes = [value for row in layers for value in row.values.values() if value]
    smallest, largest = min(sizes, default=1), max(sizes, default=1)
    log = largest > _FAR_APART * smallest
    axis, size, zero = _axis(quantity, smallest, largest, log=log)
    positions = list(range(len(layers)))
    x: list[float | None] = []
    y: list[float | None] = []
    for at, row in enumerate(layers):  # from the least to the most of each
        ends = [value / size or zero for value in row.values.values()]
        x += [min(ends), max(ends), None]
        y += [at, at, None]
    most = [end for end in x[1::3] if end is not None]
    ratios = [_ratio(list(row.values.values())) for row in layers]
    counts = [f" x{count_text(row.count)}" if row.count > 1 else "" for row in layers]
    names = [f"{plot.label(row.name, 40)}{n}" for row, n in zip(layers, counts, strict=True)]
    return plot.figure(
        [
            plot.scatter("", x, y, mode="lines", line={"color": LINE.light, "width": 3}),
            *_marks(layers, size, zero, quantity),
            plot.at_the_end(most, positions, ratios, FAINT_INK),
        ],
        height=_ROW_PX * (len(layers) + 1),
        x=axis,
        y=plot.rows(names, positions),
    )


def _axis(
    quantity: LayerQuantity, smallest: int, largest: int, *, log: bool
) -> tuple[dict[str, Any], float, float]:
    """(axis, what values are divided by, where nothing is drawn)."""
    what = f"{LAYER_LABELS[quantity]} in each{', log scale' if log else ''}"
    if quantity.endswith("bytes"):
        if log:
            axis = plot.log_bytes_axis(smallest, 4 * largest, what)
            return axis, 1, _EDGE * 10 ** axis["range"][0]
        axis, size = plot.bytes_axis(round(1.1 * largest), what)
        return axis, size, 0
    if not log:
        end = 1.3 * largest
        return plot.values(what, range=[0, end], **plot.ticks(0, end, plot.short_count)), 1, 0

    def text(count: int) -> str:
        is_flops = quantity == "flops"
        return plot.without_zeros(flops_text(count)) if is_flops else plot.short_count(count)

    low, high = math.log10(smallest) - 0.35, math.log10(largest) + 0.75
    ticks = plot.powers_of_ten(10**low, 10**high, text)
    axis = plot.values(what, type="log", range=[low, high], **ticks)
    return axis, 1, _EDGE * 10**low


def layer_text(value: int, quantity: LayerQuantity) -> str:
    if quantity.endswith("bytes"):
        return bytes_text(value)
    return flops_text(value) if quantity == "flops" else count_text(value)


def _marks(
    layers: Sequence[LayerRow], size: float, zero: float, quantity: LayerQuantity
) -> Iterator[dict[str, Any]]:
    """Filled marks of each method, and hollow ones where it holds nothing."""
    methods = {name: method for row in layers for name, method in row.methods.items()}
    for number, (name, method) in enumerate(methods.items()):
        mark, shift = METHOD_MARKS[method], _APART * (number - (len(methods) - 1) / 2)
        held = [
            (at + shift, row.name, row.values[name])
            for at, row in enumerate(layers)
            if name in row.values
        ]
        for is_open, symbol in enumerate((mark.symbol, f"{mark.symbol}-open")):
            here = [(at, row, value) for at, row, value in held if bool(value) != is_open]
            words = [f"{plot.label(name)}: {layer_text(v, quantity)} in each" for *_, v in here]
            rows = [plot.label(row, 80) for _, row, _ in here]
            edge = {"width": 1, "color": PAPER.light}
            yield plot.scatter(
                plot.label(name),
                [value / size or zero for *_, value in here],
                [at for at, *_ in here],
                map(plot.lines, rows, words),
                showlegend=not is_open,
                marker=plot.marker(mark, 9) | {"symbol": symbol, "line": edge},
            )


def _ratio(held: Sequence[int]) -> str:
    """How the last method stands to the first."""
    first, last = held[0], held[-1]
    if len(held) < 2 or first == last or not first:
        return ""
    less = f"{percent_text(1 - last / first)} less"
    return less if last < first else f"{percent_text(last / first - 1)} more"
