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
_ARGUMENTS = (
    "loss_type", "label_smoothing_factor", "use_liger_kernel", "activation_offloading",
    "precompute_ref_log_probs", "sync_ref_model", "use_liger_loss",
)  # fmt: skip
"""Of a trainer's arguments those that say what its step computes or holds."""
_OVERRIDDEN = ("compute_loss", "training_step", "get_batch_samples")
_OPTIONS = ("foreach", "fused", "amsgrad", "momentum", "capturable")
_LIBRARIES = ("transformers", "trl", "peft")
_TRAINED = ("lora_A", "vera_lambda", "ia3_l", "oft_R")
"""In the names of parameters that PEFT makes."""


def training_summary(
    optimizers: list[torch.optim.Optimizer],
    model: torch.nn.Module | None = None,
    trainer: Any = None,
) -> dict[str, Any]:
    """Of `model` and `trainer`; without a model of the largest alive that an optimizer trains (a
    reference model or a teacher may be as large, or larger) and of the trainer that is alive."""
    named: dict[str, Any] = {"optimizers": [_optimizer(each) for each in optimizers]}
    if optimizers:
        group = optimizers[0].param_groups[0]
        named["optimizer_options"] = {name: group.get(name) for name in _OPTIONS}
    trainer = _alive_trainer() if model is None else trainer
    named |= {"trainer": None} if trainer is None else _trainer(trainer)
    named["versions"] = {
        name: str(module.__version__)
        for name in _LIBRARIES
        if (module := sys.modules.get(name)) is not None
    }
    named["scales_loss"] = any(
        issubclass(type(each), torch.amp.GradScaler) and each._enabled for each in gc.get_objects()
    )
    stepped = {id(p) for each in optimizers for group in each.param_groups for p in group["params"]}
    models = roots() if model is None else [model]
    models.sort(key=lambda each: stepped.isdisjoint(map(id, each.parameters())))
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
        "use_reentrant": any(map(_is_reentrant, modules)),
        "is_compiled": any(map(is_compiled, modules)),
        "converts_outputs": hasattr(model, "_original_forward"),
        "has_experts": any("expert" in type(each).__name__.lower() for each in modules),
        "base_parameters": sum(
            _numel(each) for name, each in model.named_parameters() if not _is_of_adapter(name)
        ),
        "other_parameters": sum(_numel(each) for m in models[1:] for each in m.parameters()),
    }
    configured = [each for each in modules if _is_configured(each)]
    if configured:
        config: Any = configured[0].config
        named["attention_implementation"] = getattr(config, "_attn_implementation", None)
        named["config"] = json.loads(json.dumps(config.to_dict(), default=str))
        named["name"] = getattr(config, "_name_or_path", "")
        own = [each for each in configured if not type(each).__module__.startswith("peft.")]
        named["architecture"] = type(own[0]).__name__ if own else None
        named["forward_of"] = type(own[0]).forward.__module__ if own else None
        named["end_dtypes"] = _end_dtypes(own[0]) if own else {}
    adapters = [c for each in modules if isinstance(c := getattr(each, "peft_config", None), dict)]
    if adapters:
        named["lora"] = _lora(next(iter(adapters[0].values())), model)
    states = [s for each in parameters if (s := getattr(each, "quant_state", None)) is not None]
    if states:
        named["quantisation"] = {
            "type": states[0].quant_type,
            "double": states[0].nested,
            "dtype": str(states[0].dtype).removeprefix("torch."),
            "compute_dtype": _compute_dtype(modules),
        }
    return named


def _is_of_adapter(name: str) -> bool:
    marks = ("lora_", "vera_", "ia3_", "oft_", "original_module")
    return any(part.startswith(marks) for part in name.split("."))  # mm_soft_emb_norm is none


def _is_reentrant(module: torch.nn.Module) -> bool:
    function = getattr(module, "_gradient_checkpointing_func", None)
    return bool(getattr(function, "keywords", {}).get("use_reentrant", False))


def is_compiled(module: torch.nn.Module) -> bool:
    by_call = getattr(module, "_compiled_call_impl", None) is not None
    return by_call or type(module).__name__ == "OptimizedModule"


def _is_configured(module: torch.nn.Module) -> bool:
    """As transformers' models are; others that have a config wrap one of these."""
    config = getattr(module, "config", None)
    return hasattr(config, "to_dict") and hasattr(module, "get_input_embeddings")


def _end_dtypes(model: torch.nn.Module) -> dict[str, str]:
    """Of the embedding and of a norm: what preparations of a quantised base differ in."""
    get_embedding: Any = model.get_input_embeddings
    try:
        embedding = getattr(get_embedding(), "weight", None)
    except NotImplementedError:  # a model without tokens
        embedding = None
    norms = (p for name, p in model.named_parameters() if "norm" in name.rpartition(".")[0])
    found = {"embedding": embedding, "norm": next(norms, None)}
    return {name: str(p.dtype).removeprefix("torch.") for name, p in found.items() if p is not None}


def _compute_dtype(modules: list[torch.nn.Module]) -> str | None:
    found = (getattr(each, "compute_dtype", None) for each in modules)
    dtype = next((each for each in found if each is not None), None)
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _optimizer(optimizer: torch.optim.Optimizer) -> str:
    """Module and class; one of bitsandbytes by the class that says its bits and whether it is
    paged, as `AdamW(optim_bits=8)` does not."""
    module, name = type(optimizer).__module__, type(optimizer).__qualname__
    bits = getattr(getattr(optimizer, "args", None), "optim_bits", None)
    if bits is not None and module.startswith("bitsandbytes."):
        kind = name.removeprefix("Paged").removesuffix("32bit").removesuffix("8bit")
        name = f"{'Paged' if optimizer.is_paged else ''}{kind}{bits}bit"  # type: ignore[attr-defined]
    return f"{module}.{name}"


def _alive_trainer() -> Any:
    """transformers' trainer that is alive, or TRL's, which are derived from it."""
    loaded = sys.modules.get("transformers.trainer")
    alive = [] if loaded is None else gc.get_objects()
    return next((each for each in alive if issubclass(type(each), loaded.Trainer)), None)  # type: ignore[union-attr]


def _trainer(trainer: Any) -> dict[str, Any]:
    """The class, of the script's own that which it is derived from; what of its step the script's
    own class has anew; and its arguments."""
    known = [k for k in type(trainer).__mro__ if k.__module__.startswith(_OF_TRAINERS)]
    own = [k for k in type(trainer).__mro__ if k not in known and k is not object]
    changed = [name for name in _OVERRIDDEN if any(name in vars(each) for each in own)]
    if getattr(trainer, "compute_loss_func", None) is not None:
        changed.append("compute_loss_func")
    args = getattr(trainer, "args", None)  # none where its own __init__ failed
    arguments = {name: getattr(args, name, None) for name in _ARGUMENTS}
    return {
        "trainer": known[0].__name__,
        "changed_in_trainer": changed,
        "arguments": json.loads(json.dumps(arguments, default=str)),
    }


def _dtype(parameter: torch.Tensor) -> str:
    kind = "trained " if parameter.requires_grad else ""
    return kind + str(parameter.dtype).removeprefix("torch.")


def _lora(config: Any, model: torch.nn.Module) -> dict[str, Any]:
    fields: dict[str, Any] = {"type": type(config).__name__}
    for name in _LORA:
        value = getattr(config, name, None)
        fields[name] = sorted(value) if isinstance(value, set | list | tuple) else value
    # of what DPO and the like have switched off, the layers have 0
    dropouts = [m.p for n, m in model.named_modules() if "lora_dropout." in n and hasattr(m, "p")]
    if "lora_dropout" in fields:
        fields["lora_dropout"] = max(dropouts, default=0.0)
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


def input_bytes(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Of tensors on the card of more than one value, each storage once: labels may be the ids."""
    given = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage() for t in given if t.is_cuda and t.dim()
    }
    return sum(storage.nbytes() for storage in storages.values())


def input_shapes(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, list[int]]:
    named = {str(i): value for i, value in enumerate(args)} | dict(kwargs)
    return {k: list(value.shape) for k, value in named.items() if isinstance(value, torch.Tensor)}
