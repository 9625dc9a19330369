"""What a built model holds: base and adapter parameters, the tensors beside a 4-bit weight, and the
output head."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrize import ParametrizationList


def adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that PEFT added: low-rank factors and the copies of `modules_to_save`. None
    without PEFT."""
    found: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name in getattr(module, "adapter_layer_names", ()):
            layer = getattr(module, name, None)
            if isinstance(layer, nn.Module):
                found |= {id(p): p for p in layer.parameters()}
    return list(found.values())


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(the base model's parameters, parameters that receive a gradient), each once; a 4-bit weight
    counts what it stands for.

    Adapters are in the second number only. Ties count once, buffers not.
    """
    adapters = {id(p) for p in adapter_parameters(model)}
    parameters = list(model.parameters())
    base = sum(_numel(p) for p in parameters if id(p) not in adapters)
    for module in model.modules():
        if isinstance(module, ParametrizationList):  # packed experts in 4 bit
            state = getattr(module[0], "quant_state", None)
            base += 0 if state is None else int(state.shape.numel()) - module.original.numel()
    return base, sum(_numel(p) for p in parameters if p.requires_grad)


def _numel(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())


def quantization_tensors(holder: torch.Tensor | nn.Module) -> list[torch.Tensor]:
    """The tensors beside the packed weight of a 4-bit parameter, or its module's: scales, code
    book, offset, the nested ones; those of an 8-bit one: its scales, which the module takes over in
    its first forward pass; else none."""
    owners = (holder, getattr(holder, "weight", None), getattr(holder, "state", None))
    scales = [s for owner in owners if isinstance(s := getattr(owner, "SCB", None), torch.Tensor)]
    if scales:
        return scales[:1]
    found, states = [], [getattr(holder, "quant_state", None)]
    while states:
        state = states.pop()
        if state is not None:
            found += [t for t in vars(state).values() if isinstance(t, torch.Tensor)]
            states.append(getattr(state, "state2", None))
    return found


def state_tensors(state: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors that an optimizer keeps for one parameter; of torchao's quantised ones, codes,
    scales and code book."""
    found: list[torch.Tensor] = []
    for value in state.values():
        if isinstance(value, torch.Tensor):
            parts = getattr(
                value, "tensor_attrs", ()
            )  # torchao's name for what a tensor is made of
            found += [getattr(value, part) for part in parts] or [value]
    return found


def code_books(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """What bitsandbytes' 8-bit optimizers share among their tensors; it comes with the optimizer,
    and moves to where the first 8-bit state is."""
    return list(getattr(optimizer, "name2qmap", {}).values())


def within(model: Any) -> tuple[Any, str]:
    """The transformers model without what DDP and PEFT wrap around it, and what to call it."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    base = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    config = getattr(base, "config", None)  # which a module of one's own has not
    return base, getattr(config, "name_or_path", "") or type(base).__name__


def output_head(model: Any) -> nn.Module | None:
    """The module whose output is the logits, in PEFT's wrapping where it has one; None if the class
    names none."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
    return head if isinstance(head, nn.Module) else None
