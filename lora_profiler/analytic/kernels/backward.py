"""What a device launches for each node of the ledger going back: autograd's own formulas
(`derivatives.yaml`), kernel by kernel.

A gradient is known by its bytes and by what comes first in memory after the batch: tokens, heads
before tokens, or heads and their features before tokens. Where a layer's features were parted into
heads, those of a gradient are joined again, which copies one whose tokens stand between heads and
features. A tensor that was used twice gets two gradients, and a kernel that adds them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_profiler.analytic.kernels.forward import ATTENTION_OP, attention_flops, gemm_of, rotated
from lora_profiler.analytic.kernels.launches import Launches
from lora_profiler.analytic.kernels.packed import unpack
from lora_profiler.analytic.tensors import Node, Tensor
from lora_profiler.kernels import Gemm

First = Literal["tokens", "heads", "features"]


@dataclass(frozen=True, slots=True)
class Gradient:
    """Of a tensor with those `bytes`; `first` in memory."""

    bytes: int
    first: First = "tokens"


Sent = Iterator[tuple[Tensor, Gradient]]
Backward = Callable[[Node, Sequence[Gradient | None], Launches], Sent]
"""Adds the kernels of one node, given its outputs' gradients, and yields those of its inputs."""


def run_backward(nodes: Sequence[Node], output: Tensor, launches: Launches) -> None:
    """Adds the kernels of the backward pass of `nodes`, whose last `output` gets its gradient from
    elsewhere."""
    waiting: dict[Tensor, Gradient] = {}
    if output.requires_grad:
        waiting[output] = Gradient(launches.bytes(output))
    for node in reversed(nodes):
        arrived = [waiting.pop(tensor, None) for tensor in node.outputs]
        if not any(arrived):
            continue
        for tensor, gradient in BACKWARD[node.op](node, arrived, launches):
            if not tensor.requires_grad:
                continue
            before = waiting.get(tensor)
            if tensor.storage.role == "parameter":
                if launches.accumulates:
                    launches.memory(node.module, "add_", 2 * gradient.bytes, gradient.bytes)
            elif before is None:
                waiting[tensor] = gradient
            else:
                launches.memory(node.module, "add", before.bytes + gradient.bytes, before.bytes)
                if (
                    gradient.first == "heads"
                ):  # torch rotates by halves after the product with cos, so that these arrive first
                    waiting[tensor] = gradient


def _only(arrived: Sequence[Gradient | None]) -> Gradient:
    gradient = arrived[0]
    assert gradient is not None
    return gradient


def _passed(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """No kernel: the gradient itself, or a view of it."""
    yield node.inputs[0], _only(arrived)


def _view_heads(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    gradient = _only(arrived)
    if gradient.first == "heads" and launches.at.seq > 1:
        launches.memory(node.module, "clone", gradient.bytes, gradient.bytes)
    yield node.inputs[0], Gradient(gradient.bytes)


def _split(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """The parts' gradients concatenated; zeros are made for one that has none."""
    x = node.inputs[0]
    size = launches.bytes(x)
    for part, gradient in zip(node.outputs, arrived, strict=True):
        if gradient is None:
            launches.memory(node.module, "zeros", 0, launches.bytes(part))
    launches.memory(node.module, "cat", size, size)
    yield x, Gradient(size, "tokens" if x.merged else "heads")


def _slices(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """Zeros of the whole size with each part's gradient in them, added up."""
    x = node.inputs[0]
    size = launches.bytes(x)
    for part in node.outputs:
        own = launches.bytes(part)
        launches.memory(node.module, "slice_backward", own, own + size)
    for _ in node.outputs[1:]:
        launches.memory(node.module, "add", 2 * size, size)
    yield x, Gradient(size, "tokens" if x.merged else "heads")


def _halves(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    x = node.inputs[0]
    size, half = launches.bytes(x), launches.bytes(node.outputs[0])
    for _ in range(2):
        launches.memory(node.module, "slice_backward", half, half + size)
    launches.memory(node.module, "add", 2 * size, size)
    yield x, Gradient(size, "heads")


def _concatenate(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """Views of the gradient, for the first part: what else there is stands for a slice (`rotary`),
    whose node knows.

    A slice without any elements gets a gradient all the same: zeros, which are added.
    """
    gradient, first = _only(arrived), node.inputs[0]
    size = launches.bytes(first)
    if size == gradient.bytes:
        launches.memory(node.module, "slice_backward", 0, size)
        launches.memory(node.module, "add", 2 * size, size)
    yield first, Gradient(size, gradient.first)


def _pad(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """Padded by less than nothing."""
    x, gradient = node.inputs[0], _only(arrived)
    size = launches.bytes(x)
    launches.memory(node.module, node.op, gradient.bytes, size + gradient.bytes)
    yield x, Gradient(size, gradient.first)


def _expand(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    x, gradient = node.inputs[0], _only(arrived)
    size = launches.bytes(x)
    launches.memory(node.module, "sum", gradient.bytes, size)
    yield x, Gradient(size, "heads")


def _clone(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """A repetition is an expanded view that is copied."""
    if launches.size(node.outputs[0].elements) == launches.size(node.inputs[0].elements):
        return _passed(node, arrived, launches)
    return _expand(node, arrived, launches)


def _converted(gradient: Gradient, of: str, to: Tensor, scope: str, launches: Launches) -> Gradient:
    """The gradient in the dtype of the tensor that it is for."""
    if of == to.dtype:
        return gradient
    size = launches.bytes(to)
    launches.memory(scope, "_to_copy", gradient.bytes, size)
    return Gradient(size, gradient.first)


def _to_copy(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    x = node.inputs[0]
    yield x, _converted(_only(arrived), node.outputs[0].dtype, x, node.module, launches)


def _again(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """The same operator on the gradient: times a number, or negated."""
    gradient = _only(arrived)
    beside = sum(launches.bytes(t) for t in node.beside)
    launches.memory(node.module, node.op, gradient.bytes + beside, gradient.bytes)
    yield node.inputs[0], gradient


def _add(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    gradient, out = _only(arrived), node.outputs[0]
    for tensor in node.inputs:
        if tensor.requires_grad:
            yield (
                tensor,
                _converted(
                    _summed(gradient, out.dtype, tensor, node, launches),
                    out.dtype,
                    tensor,
                    node.module,
                    launches,
                ),
            )


def _summed(gradient: Gradient, dtype: str, to: Tensor, node: Node, launches: Launches) -> Gradient:
    """The gradient summed over the dimensions along which `to` was broadcast."""
    size = launches.bytes(to, dtype)
    if size == gradient.bytes:
        return gradient
    launches.memory(node.module, "sum", gradient.bytes, size)
    return Gradient(size, gradient.first)


def _multiply(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    gradient, out = _only(arrived), node.outputs[0]
    for tensor, other in (node.inputs, node.inputs[::-1]):
        if tensor.requires_grad:
            launches.memory(
                node.module, "mul", gradient.bytes + launches.bytes(other), gradient.bytes
            )
            summed = _summed(gradient, out.dtype, tensor, node, launches)
            yield tensor, _converted(summed, out.dtype, tensor, node.module, launches)


def _power(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """x to one power less, times that power, times the gradient."""
    gradient = _only(arrived)
    size = gradient.bytes
    for op, read in (("pow", size), ("mul", size), ("mul", 2 * size)):
        launches.memory(node.module, op, read, size)
    yield node.inputs[0], gradient


def _of_input_or_output(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """One kernel that reads the gradient and what was kept."""
    gradient = _only(arrived)
    launches.memory(node.module, f"{node.op}_backward", 2 * gradient.bytes, gradient.bytes)
    yield node.inputs[0], gradient


def _mean(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    x = node.inputs[0]
    size = launches.bytes(x)
    launches.memory(node.module, "div", _only(arrived).bytes, size)
    yield x, Gradient(size)


def _dropout(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    gradient = _only(arrived)
    read = gradient.bytes + launches.bytes(node.beside[0])
    launches.memory(node.module, "native_dropout_backward", read, gradient.bytes)
    yield node.inputs[0], gradient


def _softmax(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """Gradient times output comes first, as a kernel of its own (see `Ledger.softmax`)."""
    x, out, gradient = node.inputs[0], node.outputs[0], _only(arrived)
    launches.memory(node.module, "mul", 2 * gradient.bytes, gradient.bytes)
    launches.memory(node.module, "_softmax_backward_data", 2 * gradient.bytes, gradient.bytes)
    yield x, _converted(Gradient(gradient.bytes, "heads"), out.dtype, x, node.module, launches)


def _layer_norm(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """x's gradient is one kernel; those of weight and bias are another, which reads everything
    again."""
    x, out, gradient = node.inputs[0], node.outputs[0], _only(arrived)
    *weights, statistics = node.beside
    trained = [w for w in weights if w.requires_grad]
    read = (
        gradient.bytes
        + launches.bytes(x)
        + launches.bytes(statistics)
        + sum(launches.bytes(w, out.dtype) for w in weights)
    )
    written = launches.bytes(x) * x.requires_grad + sum(
        launches.bytes(w, out.dtype) for w in trained
    )
    both = bool(trained) and x.requires_grad
    launches.memory(
        node.module,
        "native_layer_norm_backward",
        read * (2 if both or len(trained) > 1 else 1),
        written,
    )
    for weight in trained:
        yield (
            weight,
            _converted(
                Gradient(launches.bytes(weight, out.dtype)),
                out.dtype,
                weight,
                node.module,
                launches,
            ),
        )
    yield x, Gradient(launches.bytes(x))


def _embedding(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """Zeros of the table's size, into which the rows are added."""
    weight, gradient = node.inputs[0], _only(arrived)
    size = launches.bytes(weight)
    launches.memory(
        node.module,
        "embedding_dense_backward",
        gradient.bytes + launches.bytes(node.beside[0]),
        size + gradient.bytes,
    )
    yield weight, Gradient(size)


def _sum(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """No kernel: the gradient is expanded, and has no more bytes than before."""
    yield node.inputs[0], _only(arrived)


def _rows(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """Zeros, into which the chosen elements are put, in either order of the rows. An expanded
    gradient is copied first."""
    x, index, gradient = node.inputs[0], node.beside[0], _only(arrived)
    size, whole = launches.bytes(node.outputs[0]), launches.bytes(x)
    if gradient.bytes < size:
        launches.memory(node.module, "clone", gradient.bytes, size)
    launches.memory(node.module, "new_zeros", 0, whole)
    put = "scatter_" if node.op == "topk" else "index_put_"
    launches.memory(node.module, put, launches.bytes(index) + 2 * size, size)
    yield x, Gradient(whole)


def _normalize(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """y = x / t: dx = dy / t, dt the sum of -dy (x / t) / t."""
    x, total = node.inputs
    size, row = launches.bytes(x), launches.bytes(total)
    for op, read in (
        ("div", size + row),
        ("div", size + row),
        ("neg", size),
        ("mul", 2 * size),
        ("div", size + row),
    ):
        launches.memory(node.module, op, read, size)
    launches.memory(node.module, "sum", size, row)
    yield x, _only(arrived)
    yield total, Gradient(row)


def _grouped(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    x, weight = node.inputs
    gradient, dtype, forward = _only(arrived), node.outputs[0].dtype, gemm_of(node, launches)
    offsets, size, own = launches.bytes(node.beside[0]), launches.bytes(weight), launches.bytes(x)
    if weight.requires_grad:
        gemm = Gemm(m=forward.n, n=forward.k, k=forward.m)
        launches.product(node.module, node.op, gemm, dtype, gradient.bytes + own + offsets, size)
        yield weight, Gradient(size)
    if x.requires_grad:
        gemm = Gemm(m=forward.m, n=forward.k, k=forward.n)
        launches.product(node.module, node.op, gemm, dtype, gradient.bytes + size + offsets, own)
        yield x, Gradient(own)


def _product(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """y = x W^T: dW = dy^T x, a sum for the bias, dx = dy W."""
    x, weight = node.inputs
    gradient, dtype, forward = _only(arrived), node.outputs[0].dtype, gemm_of(node, launches)
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
            yield bias, _converted(Gradient(own), dtype, bias, node.module, launches)
    if x.requires_grad:
        own = launches.bytes(x)
        launches.product(
            node.module, "mm", Gemm(m=rows, n=inner, k=outer), dtype, gradient.bytes + size, own
        )
        yield x, Gradient(own)


def _packed(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """The weight unpacked once more; it has no gradient."""
    x, weight = node.inputs
    if not x.requires_grad:
        return
    gradient, out, dtype, forward = (
        _only(arrived),
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
    yield x, _converted(Gradient(own), dtype, x, node.module, launches)


def _batched(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """z = x y: dx = dz y^T, dy = x^T dz. One gradient with its tokens first is no batch of
    matrices, and copied."""
    x, y = node.inputs
    gradient, dtype, forward = _only(arrived), node.outputs[0].dtype, gemm_of(node, launches)
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


def _attention(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """Five products: the scores again, and the gradients of v, of the weights, of q and of k."""
    out, gradient = node.outputs[0], _only(arrived)
    read = gradient.bytes + sum(launches.there(t) for t in (*node.inputs, out, *node.beside))
    launches.attention(
        node.module,
        ATTENTION_OP[node.op][1],
        "attention_backward",
        attention_flops(node, launches, 5),
        out.dtype,
        read,
        sum(launches.bytes(t) for t in node.inputs),
    )
    for tensor in node.inputs:
        as_given = node.op in ("flash", "cudnn", "cudnn_masked") and tensor.merged
        yield tensor, Gradient(launches.bytes(tensor), "heads" if as_given else "tokens")


def _liger_norm(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """x's gradient over that of the result; the weight's is computed whether it trains or not."""
    (x, weight), gradient = node.inputs, _only(arrived)
    own = launches.bytes(weight)
    read = gradient.bytes + launches.bytes(x) + own + launches.bytes(node.beside[0])
    launches.memory(node.module, "rms_norm_backward", read, own + gradient.bytes)
    yield weight, Gradient(own)
    yield x, Gradient(gradient.bytes)


def _liger_swiglu(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    sizes = [launches.bytes(t) for t in node.inputs]
    launches.memory(node.module, "swiglu_backward", _only(arrived).bytes + sum(sizes), sum(sizes))
    for tensor, size in zip(node.inputs, sizes, strict=True):
        yield tensor, Gradient(size)


def _liger_rotary(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """Rotated back where it lies, after a copy where heads come before tokens."""
    for tensor, gradient in zip(node.inputs, arrived, strict=True):
        assert gradient is not None
        if gradient.first != "tokens" and launches.at.seq > 1:
            launches.memory(node.module, "clone", gradient.bytes, gradient.bytes)
        rotated(node, gradient.bytes, launches)
        yield tensor, Gradient(gradient.bytes)


BACKWARD: dict[str, Backward] = {
    **dict.fromkeys(("view", "turn", "shift"), _passed),
    **dict.fromkeys(("scale", "neg"), _again),
    **dict.fromkeys(("_to_copy", "mask"), _to_copy),
    **dict.fromkeys(
        ("silu", "swish", "gelu", "gelu_pytorch_tanh", "relu", "tanh", "sigmoid"),
        _of_input_or_output,
    ),
    **dict.fromkeys(("pow", "rsqrt"), _power),
    **dict.fromkeys(("linear", "Conv1D"), _product),
    **dict.fromkeys(ATTENTION_OP, _attention),
    "view_heads": _view_heads,
    "split": _split,
    "slices": _slices,
    "halves": _halves,
    "cat": _concatenate,
    "constant_pad_nd": _pad,
    "expand": _expand,
    "clone": _clone,
    "add": _add,
    "mul": _multiply,
    "mean": _mean,
    "native_dropout": _dropout,
    **dict.fromkeys(("_softmax", "_safe_softmax"), _softmax),
    "native_layer_norm": _layer_norm,
    "embedding": _embedding,
    **dict.fromkeys(("index", "topk"), _rows),
    "sum": _sum,
    "normalize": _normalize,
    "_grouped_mm": _grouped,
    "liger_norm": _liger_norm,
    "liger_swiglu": _liger_swiglu,
    "liger_rotary": _liger_rotary,
    "packed": _packed,
    **dict.fromkeys(("bmm", "bmm_transposed"), _batched),
}
