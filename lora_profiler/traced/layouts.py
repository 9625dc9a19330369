"""How the layers of a model repeat, and the same model with fewer of them."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from lora_profiler.catalog import model_from_config
from lora_profiler.compiled.tape import LEAST_UNITS, Layout
from lora_profiler.errors import ModelNotFoundError
from lora_profiler.model_spec import ModelSpec, Stack
from lora_profiler.modeling.build import filled_config

_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
MOST_PERIOD = 8


def layout_of(model: ModelSpec) -> Layout | None:
    """The units of the one stack that makes the model's depth: the shortest period that repeats
    from some layer on. None where a full trace is due: several such stacks, too few layers, or
    layers that do not repeat. A guess from shapes and the config, as published and as transformers
    fills it in; the compiler checks it. Raises UnbuildableError as `filled_config` does.
    """
    stacks = [
        part
        for part in model.parts
        if isinstance(part, Stack) and len(part.order) == model.num_layers
    ]
    if len(stacks) != 1:
        return None
    kinds = _kinds(model, stacks[0])
    for period in range(1, MOST_PERIOD + 1):
        for prefix in range(MOST_PERIOD):
            body = kinds[prefix:]
            units, tail = divmod(len(body), period)
            if units >= LEAST_UNITS and all(
                kind == body[i % period] for i, kind in enumerate(body)
            ):
                return Layout(stacks[0].name, prefix, period, tail)
    return None


def _kinds(model: ModelSpec, stack: Stack) -> list[tuple[Any, ...]]:
    """What tells one layer of the stack from another: its weights, and what lists of the config
    with an entry a layer say."""
    depth = len(stack.order)
    lists = [
        *_lists(model.published, depth),
        *_lists(model.config, depth),
        *_lists(filled_config(model), depth),
    ]
    return [(kind, *(str(values[i]) for values in lists)) for i, kind in enumerate(stack.order)]


def _lists(config: Mapping[str, Any], length: int) -> list[Sequence[Any]]:
    nested = [
        lists
        for value in config.values()
        if isinstance(value, dict)
        for lists in _lists(value, length)
    ]
    own = [
        value
        for value in config.values()
        if isinstance(value, list | tuple) and len(value) == length
    ]
    return nested + [
        value for value in own if list(value) != list(range(length))
    ]  # that one names every layer


def at_depth(model: ModelSpec, layers: int) -> ModelSpec:
    """The same model with `layers` layers: its first ones, and where it has fewer, more that go on
    as the last ones do."""
    published = deepcopy(dict(model.published))
    published.pop(
        "quantization_config", None
    )  # of a checkpoint in NF4, whose list of names need not fit another depth
    published.setdefault("model_type", model.model_type)
    published.setdefault("architectures", [model.architecture])
    layout = layout_of(model)

    def cut(raw: dict[str, Any]) -> ModelSpec:
        _cut(raw, model.num_layers, layers, layout.period if layout else 1)
        return model_from_config(raw, id=f"{model.id} x {layers}", source="cut")

    try:
        return cut(deepcopy(published))
    except ModelNotFoundError:  # GPT-Neo's config.json may tell its layers in another way
        lists = {n: v for n, v in filled_config(model).items() if isinstance(v, list)}
        return cut(lists | published)


def _cut(config: dict[str, Any], depth: int, layers: int, period: int) -> None:
    for name, value in config.items():
        if isinstance(value, dict):
            _cut(value, depth, layers, period)
        elif name in _DEPTHS and value == depth:
            config[name] = layers
        elif isinstance(value, list) and len(value) == depth:
            more = [value[depth - period + i % period] for i in range(layers - depth)]
            config[name] = value[:layers] + more
