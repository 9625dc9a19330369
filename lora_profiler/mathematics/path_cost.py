"""What an adapter adds to one layer: FLOPs and bytes kept for backward, predicted and measured, and
time."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn

from lora_profiler.mathematics.adapters import ADAPTER, exact_weight, lora_layers, without_numbers


def path_costs(wrapped: nn.Module, tokens: int, calls: int, seed: int) -> list[dict[str, Any]]:
    """One row for each kind of adapted layer, on random inputs of `tokens` tokens, without dropout.

    predicted_flops: 2 tokens r (d + k). predicted_bytes: the cast input for A's gradient and A's
    output for B's, tokens (k + r) in the adapter's dtype; a frozen layer alone keeps nothing.
    Seconds are medians of `calls` forward passes each, taken in turn.
    """
    kinds: dict[str, list[Any]] = {}
    for name, layer in lora_layers(wrapped).items():
        kinds.setdefault(without_numbers(name), []).append(layer)
    draw = torch.Generator().manual_seed(seed)
    return [
        {"name": name, "copies": len(layers), **_cost(layers[0], tokens, calls, draw)}
        for name, layers in kinds.items()
    ]


def _cost(layer: Any, tokens: int, calls: int, draw: torch.Generator) -> dict[str, Any]:
    base, a = layer.get_base_layer(), layer.lora_A[ADAPTER].weight
    (d, k), r = exact_weight(layer).shape, a.shape[0]
    x = torch.randn(1, tokens, k, generator=draw, dtype=base.weight.dtype).requires_grad_()
    base_flops = _flops(base, x)
    base_seconds, adapted_seconds = _seconds_in_turn(lambda: base(x), lambda: layer(x), calls)
    return {
        "out_features": d,
        "in_features": k,
        "base_flops": base_flops,
        "predicted_flops": 2 * tokens * r * (d + k),
        "measured_flops": _flops(layer, x) - base_flops,
        "predicted_bytes": tokens * (k + r) * a.element_size(),
        "measured_bytes": _saved_bytes(layer, x) - _saved_bytes(base, x),
        "base_seconds": base_seconds,
        "adapted_seconds": adapted_seconds,
    }


def model_seconds(model: Any, wrapped: Any, ids: torch.Tensor, calls: int) -> dict[str, float]:
    """Median seconds of a forward pass over `ids` of the whole model, and of its adapted copy,
    taken in turn."""
    base, adapted = _seconds_in_turn(
        lambda: model(input_ids=ids, use_cache=False),
        lambda: wrapped(input_ids=ids, use_cache=False),
        calls,
    )
    return {"base_seconds": base, "adapted_seconds": adapted}


def added_share(costs: list[dict[str, Any]], what: str, base: str) -> float:
    """`what` summed over every adapted layer, as a share of `base` summed likewise."""
    added, whole = (sum(cost["copies"] * cost[name] for cost in costs) for name in (what, base))
    return float(added / whole)


def _flops(module: nn.Module, x: torch.Tensor) -> int:
    """FLOPs of one forward pass, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        module(x)
    return int(counter.get_total_flops())


def _saved_bytes(module: nn.Module, x: torch.Tensor) -> int:
    """Bytes of the storages that autograd keeps for backward of one forward pass, each once,
    parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(x)
    del output
    return sum(kept.values())


@torch.no_grad()
def _seconds_in_turn(
    a: Callable[[], object], b: Callable[[], object], calls: int
) -> tuple[float, float]:
    found: tuple[list[float], list[float]] = [], []
    for _ in range(calls + 1):  # the first call of each warms up
        for seconds, call in zip(found, (a, b), strict=True):
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
    return median(found[0][1:]), median(found[1][1:])
