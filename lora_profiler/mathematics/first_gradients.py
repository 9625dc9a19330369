"""Of claim 4: the gradients of A and B at the start and after one step, beside what the chain rule
says they are.

With G the gradient of the loss by the layer's output (n x d), the gradient of B is s G^T (x A^T),
that of A is s (G B)^T x. While B is zero, so is the second, whatever the data; the first is not.
After one step B is not zero, and A begins to learn.
"""

from dataclasses import dataclass
from typing import Any

import torch

from lora_profiler.mathematics.adapters import ADAPTER, Factors, factors, lora_layers
from lora_profiler.mathematics.rounding import gamma, share_of_limit, unit_roundoff
from lora_profiler.mathematics.training import loss_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """Over all adapted layers: the largest entry of A's gradients, the smallest norm of B's, and
    how far either is from the chain rule, as a share of what rounding can make.
    """

    largest_of_a: float
    smallest_norm_of_b: float
    error_of_limit: float


def gradients(wrapped: Any, batch: torch.Tensor, scaling: float) -> Gradients:
    """Of one backward pass over `batch`. The gradients are left in place for an optimizer."""
    layers = lora_layers(wrapped)
    inputs: dict[str, torch.Tensor] = {}
    upstream: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, args: Any, output: torch.Tensor) -> None:
            inputs[name] = _rows(args[0])
            output.register_hook(lambda gradient: upstream.update({name: _rows(gradient)}))  # type: ignore[no-untyped-call]

        return hook

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        loss_of(wrapped, batch).backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()
    errors = [
        _error_of_limit(layer, inputs[name], upstream[name], factors(layer, scaling))
        for name, layer in layers.items()
    ]
    return Gradients(
        largest_of_a=max(_gradient(layer.lora_A).abs().max().item() for layer in layers.values()),
        smallest_norm_of_b=min(_gradient(layer.lora_B).norm().item() for layer in layers.values()),
        error_of_limit=max(errors),
    )


def _gradient(factor: Any) -> torch.Tensor:
    found: torch.Tensor = factor[ADAPTER].weight.grad
    return found


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1, tensor.shape[-1]).double()


def _error_of_limit(layer: Any, x: torch.Tensor, g: torch.Tensor, f: Factors) -> float:
    """Of both gradients of one layer. x: n x k, g: n x d."""
    n, (d, k), r = x.shape[0], (g.shape[1], x.shape[1]), f.a.shape[0]
    u = unit_roundoff(layer.lora_A[ADAPTER].weight.dtype)
    s = abs(f.scaling)
    of_b = f.scaling * g.T @ (x @ f.a.T)
    limit_of_b = (gamma(n) + gamma(k) + 4 * u) * s * g.abs().T @ (x.abs() @ f.a.abs().T)
    of_a = f.scaling * (g @ f.b).T @ x
    limit_of_a = (gamma(n) + gamma(d) + 4 * u) * s * (g.abs() @ f.b.abs()).T @ x.abs()
    assert of_a.shape == (r, k)
    return max(
        share_of_limit(_gradient(layer.lora_B).double() - of_b, limit_of_b),
        share_of_limit(_gradient(layer.lora_A).double() - of_a, limit_of_a),
    )
