"""Equal layers as one row: tables with the textbook comparison of trained weights and the sums that
check it, and what layers hold by category, all copies together."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lora_profiler.memory.prediction import Category, LayerCost, Prediction
from lora_profiler.report.blocks import Block, Row, RowKind, Table
from lora_profiler.report.labels import method_label
from lora_profiler.units import bytes_text, count_text, flops_text, percent_text, shape_text

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
        rows=tuple(row._replace(cells=row.cells[:length]) for row in rows),
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
    rows = [row for row in rows if any(row.bytes.values())]
    rows.sort(key=lambda row: -sum(row.bytes.values()))
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
    persistent, saved = prediction.persistent_bytes, prediction.saved_activation_bytes
    weights: tuple[Category, ...] = ("parameters", "quantization_state", "adapters")
    if saved is None:
        saved = sum(cost.saved_activation_bytes for cost in prediction.layers)
    return {
        "parameters": sum(persistent.get(category, 0) for category in weights),
        "gradients": persistent.get("gradients", 0),
        "optimizer_states": persistent.get("optimizer_states", 0),
        "activations": saved,
    }


def _held_sum(layers: Iterable[LayerCost]) -> dict[Category, int]:
    members = list(layers)
    return {name: sum(getattr(cost, of) for cost in members) for name, of in _HELD.items()}
