"""What the script trains, so far as the largest model that is alive and its optimizers say it."""

import gc
import json
import math
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from .tensors import roots

_OF_TRAINERS = ("trl.", "transformers.")
_LORA = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "target_parameters", "modules_to_save",
    "use_rslora", "use_dora", "vera_dropout", "feedforward_modules", "oft_block_size",
    "module_dropout",
)  # fmt: skip
_TRAINED = ("lora_A", "vera_lambda", "ia3_l", "oft_R")
"""In the names of parameters that PEFT makes."""


def training_summary(optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    named: dict[str, Any] = {"optimizers": [_optimizer(each) for each in optimizers]}
    if optimizers:
        group = optimizers[0].param_groups[0]
        named["optimizer_options"] = {name: group.get(name) for name in ("foreach", "fused")}
    named["trainer"] = _trainer()
    models = roots()
    if not models:
        return named
    model, modules = models[0], list(models[0].modules())
    parameters = list(model.parameters())
    named |= {
        "model": type(model).__name__,
        "parameters": sum(map(_numel, parameters)),
        "trained_parameters": sum(_numel(each) for each in parameters if each.requires_grad),
        "dtypes": dict(Counter(map(_dtype, parameters))),
        "checkpointing": any(getattr(each, "gradient_checkpointing", False) for each in modules),
        "has_experts": any("expert" in type(each).__name__.lower() for each in modules),
    }
    configs: list[Any] = [getattr(each, "config", None) for each in modules]
    configs = [each for each in configs if hasattr(each, "to_dict")]
    if configs:
        named["attention_implementation"] = getattr(configs[0], "_attn_implementation", None)
        named["config"] = json.loads(json.dumps(configs[0].to_dict(), default=str))
        named["name"] = getattr(configs[0], "_name_or_path", "")
    adapters = [c for each in modules if isinstance(c := getattr(each, "peft_config", None), dict)]
    if adapters:
        named["lora"] = _lora(next(iter(adapters[0].values())), model)
    states = [s for each in parameters if (s := getattr(each, "quant_state", None)) is not None]
    if states:
        named["quantisation"] = {
            "type": states[0].quant_type,
            "double": states[0].nested,
            "dtype": str(states[0].dtype).removeprefix("torch."),
        }
    return named


def _optimizer(optimizer: torch.optim.Optimizer) -> str:
    """Module and class; one of bitsandbytes by the class that says its bits and whether it is
    paged, as `AdamW(optim_bits=8)` does not."""
    module, name = type(optimizer).__module__, type(optimizer).__qualname__
    bits = getattr(getattr(optimizer, "args", None), "optim_bits", None)
    if bits is not None and module.startswith("bitsandbytes."):
        kind = name.removeprefix("Paged").removesuffix("32bit").removesuffix("8bit")
        name = f"{'Paged' if optimizer.is_paged else ''}{kind}{bits}bit"  # type: ignore[attr-defined]
    return f"{module}.{name}"


def _trainer() -> str | None:
    """The class of transformers' trainer that is alive, or of TRL's, which are derived from it; of
    the script's own class that which it is derived from."""
    loaded = sys.modules.get("transformers.trainer")
    if loaded is None:
        return None
    kinds = {type(each) for each in gc.get_objects() if issubclass(type(each), loaded.Trainer)}
    known = [k for kind in kinds for k in kind.__mro__ if k.__module__.startswith(_OF_TRAINERS)]
    return known[0].__name__ if known else None


def _dtype(parameter: torch.Tensor) -> str:
    kind = "trained " if parameter.requires_grad else ""
    return kind + str(parameter.dtype).removeprefix("torch.")


def _lora(config: Any, model: torch.nn.Module) -> dict[str, Any]:
    fields: dict[str, Any] = {"type": type(config).__name__}
    for name in _LORA:
        value = getattr(config, name, None)
        fields[name] = sorted(value) if isinstance(value, set | list | tuple) else value
    parameters = list(model.named_parameters())
    weights = [p for name, p in parameters if any(mark in name for mark in _TRAINED)]
    fields["dtype"] = str(weights[0].dtype).removeprefix("torch.") if weights else None
    return fields


def _numel(parameter: torch.Tensor) -> int:
    """Of a weight that bitsandbytes has packed, as many as before."""
    shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
    return parameter.numel() if shape is None else math.prod(shape)


def output_layer() -> torch.nn.Module | None:
    """The layer that makes the logits, where the largest model says which it is."""
    models = roots()
    output_embeddings = getattr(models[0], "get_output_embeddings", None) if models else None
    layer = output_embeddings() if output_embeddings is not None else None
    return layer if isinstance(layer, torch.nn.Module) else None


def input_shapes(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, list[int]]:
    named = {str(i): value for i, value in enumerate(args)} | dict(kwargs)
    return {k: list(value.shape) for k, value in named.items() if isinstance(value, torch.Tensor)}
