"""Operators of training that a CPU computes longer than it moves their bytes, and how each is
called to be timed.

The exponential functions of activations and softmax, roots and sines, random masks and
normalisations. All others (sums, products by elements, copies, reductions) go at the speed of the
memory or of the cache that they read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lora_profiler.modeling.operator_kernels import kernel_of

aten = torch.ops.aten
ROWS, COLUMNS = 512, 1024
"""2 MiB a tensor: more than a core's own caches hold, less than the last one."""


@dataclass(frozen=True, slots=True)
class Operator:
    """`make` gives the arguments on a device, tensors of ROWS x COLUMNS in float32."""

    func: Any
    make: Callable[[str], tuple[Any, ...]]

    def on(self, device: str) -> Callable[[], object]:
        """A call that can be repeated."""
        arguments = self.make(device)
        return lambda: self.func(*arguments)


def _tensor(device: str) -> Tensor:
    return (
        torch.empty(ROWS, COLUMNS, device=device) if device == "meta" else torch.rand(ROWS, COLUMNS)
    )


def _of(count: int, *rest: Any) -> Callable[[str], tuple[Any, ...]]:
    """`count` tensors, then the rest."""
    return lambda device: (*(_tensor(device) for _ in range(count)), *rest)


def _norm(device: str) -> tuple[Any, ...]:
    row = _tensor(device)[0]
    return _tensor(device), [COLUMNS], row, row, 1e-5


def _norm_backward(device: str) -> tuple[Any, ...]:
    row, column = _tensor(device)[0], _tensor(device)[:, :1].contiguous()
    return _tensor(device), _tensor(device), [COLUMNS], column, column, row, row, [True, True, True]


OPERATORS: Mapping[str, Operator] = {
    "silu": Operator(aten.silu.default, _of(1)),
    "silu_backward": Operator(aten.silu_backward.default, _of(2)),
    "gelu": Operator(aten.gelu.default, _of(1)),
    "gelu_backward": Operator(aten.gelu_backward.default, _of(2)),
    "tanh": Operator(aten.tanh.default, _of(1)),
    "sigmoid": Operator(aten.sigmoid.default, _of(1)),
    "exp": Operator(aten.exp.default, _of(1)),
    "cos": Operator(aten.cos.default, _of(1)),
    "sin": Operator(aten.sin.default, _of(1)),
    "_softmax": Operator(aten._softmax.default, _of(1, 1, False)),
    "_softmax_backward_data": Operator(
        aten._softmax_backward_data.default, _of(2, 1, torch.float32)
    ),
    "_log_softmax": Operator(aten._log_softmax.default, _of(1, 1, False)),
    "_log_softmax_backward_data": Operator(
        aten._log_softmax_backward_data.default, _of(2, 1, torch.float32)
    ),
    "native_layer_norm": Operator(aten.native_layer_norm.default, _norm),
    "native_layer_norm_backward": Operator(aten.native_layer_norm_backward.default, _norm_backward),
    "native_dropout": Operator(aten.native_dropout.default, _of(1, 0.1, True)),
    "bernoulli_": Operator(aten.bernoulli_.float, _of(1, 0.9)),
}


def moved_bytes(operator: Operator) -> int:
    """Of one call, as the tracer counts it."""
    arguments = operator.make("meta")
    kernel = kernel_of(operator.func, arguments, {}, operator.func(*arguments), "forward", "")
    assert kernel is not None
    return kernel.moved_bytes
