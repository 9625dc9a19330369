"""How the layers of a model repeat, and the same model with fewer of them."""

from copy import deepcopy
from typing import Any

from lora_profiler.errors import ModelNotFoundError
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.memory.compiled.law import kinds_of, repeated, stack_of
from lora_profiler.memory.compiled.tape import Layout
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.trace.modeling.build import filled_config

_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def layout_of(model: ModelSpec) -> Layout | None:
    """The units of the one stack that makes the model's depth: the shortest period that repeats
    from some layer on. None where a full trace is due: several such stacks, too few layers, or
    layers that do not repeat. A guess from shapes and the config, as published and as transformers
    fills it in; the compiler checks it. Raises UnbuildableError as `filled_config` does.
    """
    stack = stack_of(model)
    found = None if stack is None else repeated(kinds_of(model, [filled_config(model)]))
    return None if stack is None or found is None else Layout(stack.name, *found)


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
