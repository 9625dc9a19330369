"""Gradients on their way back through the ledger: each is known by its bytes and by what comes
first in memory after the batch: tokens, heads before tokens, or heads and their features before
tokens."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_profiler.analytic.kernels.launches import Launches
from lora_profiler.analytic.tensors import Node, Tensor

First = Literal["tokens", "heads", "features"]


@dataclass(frozen=True, slots=True)
class Gradient:
    """Of a tensor with those `bytes`; `first` in memory."""

    bytes: int
    first: First = "tokens"


Sent = Iterator[tuple[Tensor, Gradient]]
Backward = Callable[[Node, Sequence[Gradient | None], Launches], Sent]
"""Adds the kernels of one node, given its outputs' gradients, and yields those of its inputs."""


def only(arrived: Sequence[Gradient | None]) -> Gradient:
    gradient = arrived[0]
    assert gradient is not None
    return gradient


def converted(gradient: Gradient, of: str, to: Tensor, scope: str, launches: Launches) -> Gradient:
    """The gradient in the dtype of the tensor that it is for."""
    if of == to.dtype:
        return gradient
    size = launches.bytes(to)
    launches.memory(scope, "_to_copy", gradient.bytes, size)
    return Gradient(size, gradient.first)
