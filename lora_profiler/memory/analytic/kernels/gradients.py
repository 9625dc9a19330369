"""Gradients on their way back through the ledger: each is known by its bytes and by what comes
first in memory after the batch: tokens, heads before tokens, or heads and their features before
tokens. And what a device launches for those of matrix products, attention and kernels that a
library fused: Liger-Kernel's, and torchtune's rotary embedding of neighbours."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_profiler.memory.analytic.kernels.forward import add_attention, gemm_of, rotated
from lora_profiler.memory.analytic.kernels.launches import Launches, unpack
from lora_profiler.memory.analytic.tensors import Node, Tensor
from lora_profiler.memory.kernels import Gemm

First = Literal["tokens", "heads", "features"]


@dataclass(frozen=True, slots=True)
class Gradient:
    """Of a tensor with those `bytes`; `first` in memory."""

    bytes: int
    first: First = "tokens"


Arrived = Sequence[Gradient | None]
"""Of each output of a node, None where nothing asks for it."""
Sent = Iterator[tuple[Tensor, Gradient]]
Backward = Callable[[Node, Arrived, Launches], Sent]
"""Adds the kernels of one node, given its outputs' gradients, and yields those of its inputs."""


def only(arrived: Arrived) -> Gradient:
    gradient = arrived[0]
    assert gradient is not None
    return gradient


def converted(gradient: Gradient, of: str, to: Tensor, launches: Launches) -> Gradient:
    """The gradient in the dtype of the tensor that it is for."""
    if of == to.dtype:
        return gradient
    size = launches.bytes(to)
    launches.memory("_to_copy", gradient.bytes, size)
    return Gradient(size, gradient.first)


def product(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """y = x W^T: dW = dy^T x, a sum for the bias, dx = dy W; of grouped products all experts'."""
    x, weight = node.inputs
    gradient, dtype, forward = only(arrived), node.outputs[0].dtype, gemm_of(node, launches)
    own, size = launches.bytes(x), launches.bytes(weight, dtype)
    is_grouped = node.op == "_grouped_mm"
    op = node.op if is_grouped else "mm"
    coming = gradient.bytes + (launches.bytes(node.side_inputs[0]) if is_grouped else 0)
    if weight.requires_grad:
        m, n = (forward.k, forward.n) if node.op == "Conv1D" else (forward.n, forward.k)
        launches.product(op, Gemm(m=m, n=n, k=forward.m), dtype, coming + own, size)
        yield weight, Gradient(size)
    for bias in node.side_inputs:
        if bias.requires_grad:
            summed = launches.bytes(bias, dtype)
            launches.memory("sum", gradient.bytes, summed)
            yield bias, converted(Gradient(summed), dtype, bias, launches)
    if x.requires_grad:
        gemm = Gemm(m=forward.m, n=forward.k, k=forward.n)
        launches.product(op, gemm, dtype, coming + size, own)
        yield x, Gradient(own)


def packed(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """The weight unpacked once more; it has no gradient."""
    x, weight = node.inputs
    if not x.requires_grad:
        return
    gradient, out, forward = only(arrived), node.outputs[0], gemm_of(node, launches)
    dtype = launches.compute
    own, coming = launches.bytes(x, dtype), launches.bytes(out, dtype)
    if out.dtype != dtype:
        launches.memory("_to_copy", gradient.bytes, coming)
    unpack(weight, launches)
    gemm = Gemm(m=forward.m, n=forward.k, k=forward.n)
    launches.product("mm", gemm, dtype, coming + launches.bytes(weight, dtype), own)
    yield x, converted(Gradient(own), dtype, x, launches)


def batched(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """z = x y: dx = dz y^T, dy = x^T dz. One gradient with its tokens first is no batch of
    matrices, and copied."""
    x, y = node.inputs
    gradient, dtype, forward = only(arrived), node.outputs[0].dtype, gemm_of(node, launches)
    if gradient.first == "tokens" and launches.at.batch > 1 and launches.at.seq > 1:
        launches.memory("clone", gradient.bytes, gradient.bytes)
    for tensor, other, m, n, k in (
        (y, x, forward.k, forward.n, forward.m),
        (x, y, forward.m, forward.k, forward.n),
    ):
        if tensor.requires_grad:
            own, read = launches.bytes(tensor), gradient.bytes + launches.bytes(other)
            gemm = Gemm(batches=forward.batches, m=m, n=n, k=k)
            launches.product("bmm", gemm, dtype, read, own)
            is_turned = tensor is y and node.op == "bmm_transposed"
            yield tensor, Gradient(own, "features" if is_turned else "heads")


def attention(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """Five products: the scores again, and the gradients of v, of the weights, of q and of k."""
    out, gradient = node.outputs[0], only(arrived)
    read = gradient.bytes + sum(
        launches.stored_bytes(t) for t in (*node.inputs, out, *node.side_inputs)
    )
    written = sum(launches.bytes(t) for t in node.inputs)
    add_attention(node, read, written, launches, going_back=True)
    for tensor in node.inputs:
        as_given = node.op in ("flash", "cudnn", "cudnn_masked") and tensor.merged
        yield tensor, Gradient(launches.bytes(tensor), "heads" if as_given else "tokens")


def fused_norm(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """x's gradient over that of the result; the weight's is computed whether it trains or not."""
    (x, weight), gradient = node.inputs, only(arrived)
    own = launches.bytes(weight)
    read = gradient.bytes + launches.bytes(x) + own + launches.bytes(node.side_inputs[0])
    launches.memory("rms_norm_backward", read, own + gradient.bytes)
    yield weight, Gradient(own)
    yield x, Gradient(gradient.bytes)


def fused_swiglu(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    sizes = [launches.bytes(t) for t in node.inputs]
    launches.memory("swiglu_backward", only(arrived).bytes + sum(sizes), sum(sizes))
    for tensor, size in zip(node.inputs, sizes, strict=True):
        yield tensor, Gradient(size)


def fused_rotary(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """Rotated back where it lies, after a copy where heads come before tokens."""
    for tensor, gradient in zip(node.inputs, arrived, strict=True):
        assert gradient is not None
        if gradient.first != "tokens" and launches.at.seq > 1:
            launches.memory("clone", gradient.bytes, gradient.bytes)
        rotated(node, gradient.bytes, launches)
        yield tensor, Gradient(gradient.bytes)


def rotate_pairs(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """Each neighbour was used twice, and taken out of the whole: its gradients are put into zeros
    and added."""
    x, table = node.inputs[0], launches.bytes(node.side_inputs[0], "float32") // 2
    size, wide = only(arrived).bytes, launches.bytes(x, "float32")
    if size != wide:
        launches.memory("_to_copy", size, wide)
    launches.memory("neg", wide // 2, wide // 2)
    for _ in range(4):
        launches.memory("mul", wide // 2 + table, wide // 2)
        launches.memory("select_backward", wide // 2, wide // 2 + wide)
    for _ in range(3):
        launches.memory("add", 2 * wide, wide)
    if size != wide:
        launches.memory("_to_copy", wide, size)
    yield x, Gradient(size)
