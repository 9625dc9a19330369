"""Which tensor lies where: parameters, gradients, optimizer states, buffers, quantisation
constants, by address."""

import gc
from collections.abc import Iterator
from typing import Any

import torch

Owner = tuple[str, str]
"""(category, name)"""


def owners(optimizers: list[torch.optim.Optimizer]) -> dict[int, Owner]:
    """Address of each storage on the card that has an owner now -> its owner."""
    by_address: dict[int, Owner] = {}
    for address, owner in _owned(optimizers):
        by_address.setdefault(address, owner)
    return by_address


def roots() -> list[torch.nn.Module]:
    """Modules that no other module holds, the largest first."""
    modules = [each for each in gc.get_objects() if issubclass(type(each), torch.nn.Module)]
    held = {id(child) for module in modules for child in module._modules.values()}
    return sorted(
        (each for each in modules if id(each) not in held),
        key=lambda root: -sum(1 for _ in root.modules()),
    )


def _owned(optimizers: list[torch.optim.Optimizer]) -> Iterator[tuple[int, Owner]]:
    names: dict[int, str] = {}
    for root in roots():
        for name, parameter in root.named_parameters():
            names.setdefault(id(parameter), name)
            yield from _parts("parameters", name, parameter)
            yield from _parts("gradients", name, parameter.grad)
            yield from _quantisation(name, parameter)
        for name, buffer in root.named_buffers():
            yield from _parts("buffers", name, buffer)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for trained in group["params"]:
                name = names.get(id(trained), "")
                yield from _parts("parameters", name, trained)
                yield from _parts("gradients", name, trained.grad)
        for trained, state in optimizer.state.items():
            name = names.get(id(trained), "")
            for kind, value in state.items() if isinstance(state, dict) else ():
                yield from _parts("optimizer states", f"{name} {kind}", value)


def _quantisation(name: str, parameter: torch.Tensor) -> Iterator[tuple[int, Owner]]:
    """bitsandbytes' constants of a quantised weight, the nested ones of double quantisation too."""
    state = getattr(parameter, "quant_state", None)
    while state is not None:
        for part in ("absmax", "code", "offset"):
            yield from _parts(
                "quantisation constants", f"{name} {part}", getattr(state, part, None)
            )
        state = getattr(state, "state2", None)


def _parts(category: str, name: str, value: Any) -> Iterator[tuple[int, Owner]]:
    if not isinstance(value, torch.Tensor):
        return
    local = getattr(value, "_local_tensor", value)  # a DTensor's own part
    if local.is_cuda and local.layout == torch.strided:
        address = local.untyped_storage().data_ptr()
        if address:
            yield address, (category, name)
