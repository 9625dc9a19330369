"""What each kind of layer costs under every method, side by side."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lora_profiler.prediction import Prediction
from lora_profiler.report.answer.layers import group_layers
from lora_profiler.report.charts import plot
from lora_profiler.report.charts.plot import Figure
from lora_profiler.report.labels import LAYER_LABELS, method_label
from lora_profiler.report.palette import FAINT_INK, LINE, METHOD_MARKS, PAPER
from lora_profiler.units import bytes_text, count_text, flops_text, percent_text
from lora_profiler.workload import Method

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

_ROW_PX, _AROUND_PX = 28, 110
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
    ends = [max(row.values.values()) / size or zero for row in layers]
    ratios = [f"  {_ratio(list(row.values.values()))}" for row in layers]
    return plot.figure(
        [
            _lines(layers, positions, size, zero),
            *_marks(layers, positions, size, zero, quantity),
            plot.at_the_end(ends, positions, ratios, FAINT_INK),
        ],
        height=_AROUND_PX + _ROW_PX * len(layers),
        x=axis,
        y=plot.rows([_name(row) for row in layers], positions),
    )


def _name(row: LayerRow) -> str:
    return f"{plot.label(row.name, 40)}{f' x{count_text(row.count)}' if row.count > 1 else ''}"


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
        return (
            plot.values(
                what, range=[0, 1.3 * largest], **plot.ticks(0, 1.3 * largest, plot.short_count)
            ),
            1,
            0,
        )
    low, high = math.log10(smallest) - 0.35, math.log10(largest) + 0.75
    text = _short_flops if quantity == "flops" else plot.short_count
    return (
        plot.values(
            what, type="log", range=[low, high], **plot.powers_of_ten(10**low, 10**high, text)
        ),
        1,
        _EDGE * 10**low,
    )


def _short_flops(count: float) -> str:
    return plot.without_zeros(flops_text(round(count)))


def layer_text(value: int, quantity: LayerQuantity) -> str:
    if quantity.endswith("bytes"):
        return bytes_text(value)
    return flops_text(value) if quantity == "flops" else count_text(value)


def _lines(
    layers: Sequence[LayerRow], positions: Sequence[int], size: float, zero: float
) -> dict[str, Any]:
    """From the least to the most of each row."""
    x: list[float | None] = []
    y: list[float | None] = []
    for row, at in zip(layers, positions, strict=True):
        ends = [value / size or zero for value in row.values.values()]
        x += [min(ends), max(ends), None]
        y += [at, at, None]
    return plot.scatter("", x, y, mode="lines", line={"color": LINE.light, "width": 3})


def _marks(
    layers: Sequence[LayerRow],
    positions: Sequence[int],
    size: float,
    zero: float,
    quantity: LayerQuantity,
) -> Iterator[dict[str, Any]]:
    """Filled marks of each method, and hollow ones where it holds nothing."""
    methods = {name: method for row in layers for name, method in row.methods.items()}
    for number, (name, method) in enumerate(methods.items()):
        mark, shift = METHOD_MARKS[method], _APART * (number - (len(methods) - 1) / 2)
        held = [
            (row, at, row.values[name])
            for row, at in zip(layers, positions, strict=True)
            if name in row.values
        ]
        for symbol, here in (
            (mark.symbol, [h for h in held if h[2]]),
            (f"{mark.symbol}-open", [h for h in held if not h[2]]),
        ):
            words = [
                (row.name, f"{plot.label(name)}: {layer_text(value, quantity)} in each")
                for row, _, value in here
            ]
            edge = {"width": 1, "color": PAPER.light}
            yield plot.scatter(
                plot.label(name),
                [value / size or zero for _, _, value in here],
                [at + shift for _, at, _ in here],
                [plot.lines(plot.label(row_name, 80), text) for row_name, text in words],
                showlegend=symbol == mark.symbol,
                marker=plot.marker(mark, 9) | {"symbol": symbol, "line": edge},
            )


def _ratio(held: Sequence[int]) -> str:
    """How the last method stands to the first."""
    first, last = held[0], held[-1]
    if len(held) < 2 or first == last or not first:
        return ""
    return (
        f"{percent_text(1 - last / first)} less"
        if last < first
        else f"{percent_text(last / first - 1)} more"
    )
