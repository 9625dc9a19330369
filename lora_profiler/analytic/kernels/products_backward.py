"""What a device launches for matrix products and attention going back: the products that make each
gradient, and what is copied, converted or unpacked for them."""

from collections.abc import Sequence

from lora_profiler.analytic.kernels.forward import (
    ATTENTION_OP,
    attention_flops,
    gemm_of,
    is_grouped,
)
from lora_profiler.analytic.kernels.gradients import Gradient, Sent, converted, only
from lora_profiler.analytic.kernels.launches import Launches, unpack
from lora_profiler.analytic.tensors import Node
from lora_profiler.kernels import Gemm


def grouped(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    x, weight = node.inputs
    gradient, dtype, forward = only(arrived), node.outputs[0].dtype, gemm_of(node, launches)
    offsets, size, own = launches.bytes(node.beside[0]), launches.bytes(weight), launches.bytes(x)
    if weight.requires_grad:
        gemm = Gemm(m=forward.n, n=forward.k, k=forward.m)
        launches.product(node.module, node.op, gemm, dtype, gradient.bytes + own + offsets, size)
        yield weight, Gradient(size)
    if x.requires_grad:
        gemm = Gemm(m=forward.m, n=forward.k, k=forward.n)
        launches.product(node.module, node.op, gemm, dtype, gradient.bytes + size + offsets, own)
        yield x, Gradient(own)


def product(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """y = x W^T: dW = dy^T x, a sum for the bias, dx = dy W."""
    x, weight = node.inputs
    gradient, dtype, forward = only(arrived), node.outputs[0].dtype, gemm_of(node, launches)
    size = launches.bytes(weight, dtype)
    rows, outer, inner = forward.m, forward.n, forward.k
    if weight.requires_grad:
        m, n = (inner, outer) if node.op == "Conv1D" else (outer, inner)
        launches.product(
            node.module,
            "mm",
            Gemm(m=m, n=n, k=rows),
            dtype,
            gradient.bytes + launches.bytes(x),
            size,
        )
        yield weight, Gradient(size)
    for bias in node.beside:
        if bias.requires_grad:
            own = launches.bytes(bias, dtype)
            launches.memory(node.module, "sum", gradient.bytes, own)
            yield bias, converted(Gradient(own), dtype, bias, node.module, launches)
    if x.requires_grad:
        own = launches.bytes(x)
        launches.product(
            node.module, "mm", Gemm(m=rows, n=inner, k=outer), dtype, gradient.bytes + size, own
        )
        yield x, Gradient(own)


def packed(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """The weight unpacked once more; it has no gradient."""
    x, weight = node.inputs
    if not x.requires_grad:
        return
    gradient, out, dtype, forward = (
        only(arrived),
        node.outputs[0],
        launches.compute,
        gemm_of(node, launches),
    )
    own = launches.bytes(x, dtype)
    coming = launches.bytes(out, dtype)
    if out.dtype != dtype:
        launches.memory(node.module, "_to_copy", gradient.bytes, coming)
    unpack(weight, node.module, launches)
    gemm = Gemm(m=forward.m, n=forward.k, k=forward.n)
    launches.product(node.module, "mm", gemm, dtype, coming + launches.bytes(weight, dtype), own)
    yield x, converted(Gradient(own), dtype, x, node.module, launches)


def batched(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """z = x y: dx = dz y^T, dy = x^T dz. One gradient with its tokens first is no batch of
    matrices, and copied."""
    x, y = node.inputs
    gradient, dtype, forward = only(arrived), node.outputs[0].dtype, gemm_of(node, launches)
    if gradient.first == "tokens" and launches.at.batch > 1 and launches.at.seq > 1:
        launches.memory(node.module, "clone", gradient.bytes, gradient.bytes)
    for tensor, other, m, n, k in (
        (y, x, forward.k, forward.n, forward.m),
        (x, y, forward.m, forward.k, forward.n),
    ):
        if tensor.requires_grad:
            own = launches.bytes(tensor)
            gemm = Gemm(batches=forward.batches, m=m, n=n, k=k)
            launches.product(
                node.module, "bmm", gemm, dtype, gradient.bytes + launches.bytes(other), own
            )
            yield (
                tensor,
                Gradient(
                    own, "features" if tensor is y and node.op == "bmm_transposed" else "heads"
                ),
            )


def attention(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """Five products: the scores again, and the gradients of v, of the weights, of q and of k."""
    out, gradient = node.outputs[0], only(arrived)
    read = gradient.bytes + sum(launches.there(t) for t in (*node.inputs, out, *node.beside))
    launches.attention(
        node.module,
        ATTENTION_OP[node.op][1],
        "attention_backward",
        attention_flops(node, launches, 5),
        out.dtype,
        read,
        sum(launches.bytes(t) for t in node.inputs),
        is_grouped=is_grouped(node, launches),
    )
    for tensor in node.inputs:
        as_given = node.op in ("flash", "cudnn", "cudnn_masked") and tensor.merged
        yield tensor, Gradient(launches.bytes(tensor), "heads" if as_given else "tokens")
