"""What an adapted layer puts out: captured from a real forward pass, and computed independently
with the limit of rounding: a priori bounds, so that no tolerance has to be guessed.

u is the unit roundoff of a dtype, half the distance from 1 to the next number. An inner product of
n terms lies within gamma(n) = n u / (1 - n u) of the exact one, relative to the sum of the terms'
absolute values, in whichever order it is summed. Source: Higham, Accuracy and Stability of
Numerical Algorithms, 2nd ed., section 3.1.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lora_profiler.mathematics.adapters import ADAPTER, AdapterFactors, exact_weight, lora_layers

ACCUMULATOR = torch.float32
"""What CPU kernels add products of 16-bit and of float32 numbers up in."""


def unit_roundoff(dtype: torch.dtype) -> float:
    """2**-24 of float32, 2**-8 of bfloat16."""
    return torch.finfo(dtype).eps / 2


def gamma(terms: int, dtype: torch.dtype = ACCUMULATOR) -> float:
    """The relative error that adding up `terms` products in `dtype` can make."""
    total = terms * unit_roundoff(dtype)
    assert total < 1, f"{terms} terms are too many for a bound in {dtype}"
    return total / (1 - total)


def share_of_limit(error: torch.Tensor, limit: torch.Tensor) -> float:
    """The largest |error| as a share of its own limit; up to 1 is rounding. 0 / 0 counts as 0, what
    is no number as infinite."""
    shares = torch.where(error == 0, torch.zeros_like(error), error.abs() / limit)
    if shares.numel():
        return torch.nan_to_num(shares, nan=torch.inf, posinf=torch.inf).max().item()
    return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Input x (n x k) and output (n x d) of one layer in one forward pass, in their own dtypes."""

    x: torch.Tensor
    output: torch.Tensor


@torch.no_grad()
def layer_calls(wrapped: nn.Module, ids: torch.Tensor) -> tuple[dict[str, Call], torch.Tensor]:
    """Every adapted layer's call, by name, and the logits of a forward pass over `ids`."""
    calls: dict[str, Call] = {}

    def keep(name: str) -> Any:
        return lambda _module, args, output: calls.update(
            {name: Call(x=_rows(args[0]), output=_rows(output))}
        )

    handles = [
        layer.register_forward_hook(keep(name)) for name, layer in lora_layers(wrapped).items()
    ]
    try:
        logits = wrapped(input_ids=ids, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return calls, logits


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1, tensor.shape[-1]).clone()


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The exact outputs (n x d, float64) and how far rounding may take a computed one from each."""

    output: torch.Tensor
    limit: torch.Tensor


def two_paths(layer: Any, x: torch.Tensor, f: AdapterFactors) -> Expected:
    """W x + scaling B (A x) in float64.

    The limit is that of a kernel that adds products up in float32 and rounds after each of the
    operations that PEFT's layer does: W x; A x; B of it; times scaling; the sum; the cast back to
    the dtype of the base.
    """
    base, adapter = unit_roundoff(x.dtype), unit_roundoff(layer.lora_A[ADAPTER].weight.dtype)
    weight, bias, x64 = exact_weight(layer), _bias(layer), x.double()
    output = x64 @ weight.T + bias + f.scaling * ((x64 @ f.a.T) @ f.b.T)
    size = x64.abs() @ weight.abs().T + bias.abs()
    path_size = abs(f.scaling) * ((x64.abs() @ f.a.abs().T) @ f.b.abs().T)
    k, r = weight.shape[1], f.a.shape[0]
    limit = (gamma(k) + 3 * base) * size + (
        gamma(k) + gamma(r) + 4 * adapter + 3 * base
    ) * path_size
    return Expected(output=output, limit=limit)


def one_path(
    layer: Any, x: torch.Tensor, weight: torch.Tensor, weight_limit: torch.Tensor
) -> Expected:
    """W' x in float64, of a layer whose weight in use may lie `weight_limit` from `weight` (both d
    x k, float64)."""
    base, bias, x64 = unit_roundoff(x.dtype), _bias(layer), x.double()
    size = x64.abs() @ (weight.abs() + weight_limit).T + bias.abs()
    limit = (gamma(weight.shape[1]) + 2 * base) * size + x64.abs() @ weight_limit.T
    return Expected(output=x64 @ weight.T + bias, limit=limit)


def merged_weight(
    layer: Any, f: AdapterFactors, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """W + scaling B A of an unmerged layer (d x k, float64), and how far the weight that PEFT
    merges in `dtype` may lie from it: the update is computed in the adapter's dtype and cast, and
    the sum rounded.
    """
    base, adapter = unit_roundoff(dtype), unit_roundoff(layer.lora_A[ADAPTER].weight.dtype)
    weight, update = exact_weight(layer), f.update
    product = abs(f.scaling) * (f.b.abs() @ f.a.abs())
    limit = (
        base * (weight.abs() + 2 * update.abs())
        + (1 + base) * (gamma(f.a.shape[0]) + 2 * adapter) * product
    )
    return weight + update, limit * (1 + base)


def _bias(layer: Any) -> torch.Tensor:
    bias = layer.get_base_layer().bias
    return torch.zeros((), dtype=torch.float64) if bias is None else bias.detach().double()
