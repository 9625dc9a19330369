"""Weights of any transformers model, read off the real class built on the meta device: no weight is
allocated.

For a config.json whose family is neither declared in `architectures` nor bundled. Needs torch and
transformers; both are imported inside the functions, so that the catalogue stays light. Remote code
is never run.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from lora_profiler.errors import ModelNotFoundError, UnsupportedModelError, did_you_mean
from lora_profiler.question.model_spec import HEADLESS, LayerStack, Module, Weight

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

MAX_LAYERS = 1000
"""Layers of any one kind: a hundred are built in about a second, so that a mistyped count does not
hang the command."""
MAX_EXPERTS = 4096
INSTALL = "Install what can build it: pip install 'lora-profiler[measure]'."

_INSTEAD: ContextVar[str | None] = ContextVar("instead", default=None)


@contextmanager
def builds_refused(instead: str) -> Iterator[None]:
    """Inside, `build` raises UnsupportedModelError and says `instead`: for a process that must not
    load torch."""
    token = _INSTEAD.set(instead)
    try:
        yield
    finally:
        _INSTEAD.reset(token)


def build(raw: Mapping[str, Any], source: str) -> "PreTrainedModel":
    """The model of a config.json on the meta device, of the class that it names, else of the
    language model that its type has.

    Raises UnsupportedModelError without torch and transformers, or for a type that transformers
    does not know; ModelNotFoundError where transformers refuses the config.
    """
    model_type, instead = str(raw["model_type"]), _INSTEAD.get()
    if instead is not None:
        raise UnsupportedModelError(
            f"{source}: the weights of a {model_type} model are not known here. {instead}"
        )
    try:
        import torch
        import transformers
    except ImportError:
        raise UnsupportedModelError(
            f"{source}: the weights of a {model_type} model are not known here. {INSTALL}"
        ) from None
    if model_type not in transformers.CONFIG_MAPPING:
        remote = (
            " It brings its own code (auto_map), which is never run here."
            if raw.get("auto_map")
            else ""
        )
        raise UnsupportedModelError(
            f"{source}: model_type {model_type!r} is unknown to transformers"
            f" {transformers.__version__}.{remote}"
            f"{did_you_mean(model_type, transformers.CONFIG_MAPPING)}"
        )
    _check_counts(raw, source)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(50)  # what it logs it also raises, or it is about token ids
    try:
        # it writes into nested ones
        config = transformers.CONFIG_MAPPING[model_type].from_dict(deepcopy(dict(raw)))
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: PreTrainedModel = _model_class(raw, config)(config)
            untie_head(model, raw)
            return model
    # third-party constructors on any input: whatever they raise says that the config does not fit
    except Exception as e:
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:200]
        raise ModelNotFoundError(
            f"{source}: transformers cannot build this {model_type} model: {reason}"
        ) from e
    finally:
        transformers.logging.set_verbosity(verbosity)


def _model_class(raw: Mapping[str, Any], config: Any) -> Any:
    import transformers

    for name in raw.get("architectures") or ():
        if name == HEADLESS:
            return transformers.AutoModel._model_mapping[type(config)]
        model_class = getattr(transformers, name, None) if isinstance(name, str) else None
        if isinstance(model_class, type) and issubclass(model_class, transformers.PreTrainedModel):
            return model_class
    kinds = (  # an encoder's type may have a causal language model too, and a decoder alone
        *((transformers.AutoModelForSeq2SeqLM,) if config.is_encoder_decoder else ()),
        transformers.AutoModelForMaskedLM,
        transformers.AutoModelForCausalLM,
        transformers.AutoModel,
    )
    return next(k._model_mapping[type(config)] for k in kinds if type(config) in k._model_mapping)


def untie_head(model: Any, raw: Mapping[str, Any]) -> None:
    """Gives the output layer a weight of its own where config.json says so and the class ties it
    all the same, as T5's does from transformers 5 on: such a checkpoint holds both weights, and
    from_pretrained leaves them apart (PreTrainedModel.tie_weights)."""
    from torch import nn

    if raw.get("tie_word_embeddings") is not False or model.get_output_embeddings() is None:
        return
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is embedding.weight:
        head.weight = nn.Parameter(embedding.weight.detach().clone())


def _check_counts(raw: Mapping[str, Any], source: str) -> None:
    """Counts of things that are built one by one, at the root and in nested configs."""
    for name, value in raw.items():
        if isinstance(value, dict):
            _check_counts(value, source)
        elif isinstance(value, int) and not name.endswith(("_size", "_per_layer_input")):
            limit = (
                MAX_EXPERTS
                if "expert" in name
                else MAX_LAYERS
                if "layer" in name or name == "depth"
                else None
            )
            if limit is not None and value > limit:
                raise ModelNotFoundError(
                    f"{source}: {name} is {value}; models of up to {limit} are built here."
                )


def describe(
    model: "PreTrainedModel",
) -> tuple[tuple[Module | LayerStack, ...], str | None, tuple[str, ...]]:
    """(parts, output embedding, weightless modules) of a built model, as `ModelSpec` holds them."""
    stacks = _stacks(model)
    first_names: dict[int, str] = {}
    parts: list[Module | LayerStack] = []
    layers: dict[str, dict[int, list[Module]]] = {name: {} for name in stacks}
    weightless: dict[str, None] = {}
    for name, module in model.named_modules():
        stack, index, rest = _place(name, stacks)
        if not any(True for _ in module.parameters()):
            if name:
                weightless[f"{stack}.*.{rest}" if stack else name] = None
            continue
        if name in stacks:
            parts.append(LayerStack(name=name, kinds=(), order=()))
            layers[name] = {i: [] for i in range(len(list(module.children())))}
        weights = tuple(_weights(name, module, first_names))
        if weights:
            described = Module(name=rest if stack else name, kind=_kind(module), weights=weights)
            if stack:
                layers[stack][index].append(described)
            else:
                parts.append(described)
    filled = tuple(
        _fold(part.name, layers[part.name]) if isinstance(part, LayerStack) else part
        for part in parts
    )
    return filled, _output_embedding(model), tuple(weightless)


def _stacks(model: "nn.Module") -> set[str]:
    """Names of the outermost lists of layers, a layer being a module that holds others."""
    from torch import nn

    stacks: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and not any(
            name.startswith(f"{outer}.") for outer in stacks
        ):
            children = list(module.named_children())
            plain = all(not list(child.parameters(recurse=False)) for _, child in children)
            if (
                children
                and plain
                and [key for key, _ in children] == [str(i) for i in range(len(children))]
            ):
                stacks.add(name)
    return stacks


def _place(name: str, stacks: set[str]) -> tuple[str, int, str]:
    """(stack, layer, name within the layer) of a module; ("", 0, "") outside the stacks and for a
    layer itself."""
    for stack in stacks:
        if name.startswith(f"{stack}."):
            index, _, rest = name.removeprefix(f"{stack}.").partition(".")
            return (stack, int(index), rest) if rest else ("", 0, "")
    return "", 0, ""


def _weights(name: str, module: "nn.Module", first_names: dict[int, str]) -> Iterator[Weight]:
    for local, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
        full = f"{name}.{local}" if name else local
        first = first_names.setdefault(id(parameter), full)
        yield Weight(
            name=local, shape=tuple(parameter.shape), tied_to=None if first == full else first
        )


def _kind(module: "nn.Module") -> str:
    """The class by which PEFT takes a module, else the module's own class name."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    for cls in (
        nn.Linear,
        Conv1D,
        nn.Embedding,
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.MultiheadAttention,
    ):
        if isinstance(module, cls):
            return cls.__name__
    return type(module).__name__


def _fold(name: str, layers: dict[int, list[Module]]) -> LayerStack:
    kinds: dict[tuple[Module, ...], int] = {}
    order = tuple(
        kinds.setdefault(tuple(modules), len(kinds)) for _, modules in sorted(layers.items())
    )
    return LayerStack(name=name, kinds=tuple(kinds), order=order)


def _output_embedding(model: "PreTrainedModel") -> str | None:
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return next((name for name, module in model.named_modules() if module is head), None)
