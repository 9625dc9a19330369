"""What a device launches for each node of the ledger going back: autograd's own formulas
(`derivatives.yaml`), kernel by kernel.

Where a layer's features were parted into heads, those of a gradient are joined again, which copies
one whose tokens stand between heads and features. A tensor that was used twice gets two gradients,
and a kernel that adds them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from lora_profiler.memory.analytic.kernels.forward import (
    ATTENTION_OP,
    SENT,
    add_attention,
    gemm_of,
    rotated,
    run_forward,
)
from lora_profiler.memory.analytic.kernels.launches import Launches, unpack
from lora_profiler.memory.analytic.ledger import ITEMSIZE, Node, Tensor
from lora_profiler.memory.kernels import Gemm

# --- gradients on their way back ------------------------------------------------------------------

# Gradients on their way back through the ledger: each is known by its bytes and by what comes first
# in memory after the batch: tokens, heads before tokens, or heads and their features before tokens.
# And what a device launches for those of matrix products, attention and kernels that a library
# fused: Liger-Kernel's, and torchtune's rotary embedding of neighbours.

First = Literal["tokens", "heads", "features"]


class Gradient(NamedTuple):
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


# --- kernels of each node -------------------------------------------------------------------------


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
        launches.scope = node.module
        for tensor, gradient in BACKWARD[node.op](node, arrived, launches):
            if not tensor.requires_grad:
                continue
            before = waiting.get(tensor)
            if tensor.storage.role == "parameter":
                if launches.accumulates:
                    launches.memory("add_", 2 * gradient.bytes, gradient.bytes)
            elif before is None:
                waiting[tensor] = gradient
            else:
                launches.memory("add", before.bytes + gradient.bytes, before.bytes)
                # torch rotates by halves after the product with cos, so that these arrive first
                if gradient.first == "heads":
                    waiting[tensor] = gradient


def _passed(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """No kernel: the gradient itself, or a view of it; of a sum it is expanded, and has no more
    bytes than before."""
    yield node.inputs[0], only(arrived)


def _view_heads(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    gradient = only(arrived)
    if gradient.first == "heads" and launches.at.seq > 1:
        launches.memory("clone", gradient.bytes, gradient.bytes)
    yield node.inputs[0], Gradient(gradient.bytes)


def _split(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """The parts' gradients concatenated; zeros are made for one that has none."""
    x = node.inputs[0]
    size = launches.bytes(x)
    for part, gradient in zip(node.outputs, arrived, strict=True):
        if gradient is None:
            launches.memory("zeros", 0, launches.bytes(part))
    launches.memory("cat", size, size)
    yield x, Gradient(size, "tokens" if x.merged else "heads")


def _slices(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """Zeros of the whole size with each part's gradient in them, added up."""
    x, halves = node.inputs[0], node.op == "halves"
    size, parts = launches.bytes(x), node.outputs * (1 + halves)
    for part in parts:
        own = launches.bytes(part)
        launches.memory("slice_backward", own, own + size)
    for _ in parts[1:]:
        launches.memory("add", 2 * size, size)
    yield x, Gradient(size, "tokens" if x.merged and not halves else "heads")


def _concatenate(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """Views of the gradient, for the first part: what else there is stands for a slice (`rotary`),
    whose node knows.

    A slice without any elements gets a gradient all the same: zeros, which are added.
    """
    gradient, first = only(arrived), node.inputs[0]
    size = launches.bytes(first)
    if size == gradient.bytes:
        launches.memory("slice_backward", 0, size)
        launches.memory("add", 2 * size, size)
    yield first, Gradient(size, gradient.first)


def _pad(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """Padded by less than nothing."""
    x, gradient = node.inputs[0], only(arrived)
    size = launches.bytes(x)
    launches.memory(node.op, gradient.bytes, size + gradient.bytes)
    yield x, Gradient(size, gradient.first)


def _expand(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    x, gradient = node.inputs[0], only(arrived)
    size = launches.bytes(x)
    launches.memory("sum", gradient.bytes, size)
    yield x, Gradient(size, "heads")


def _clone(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """A repetition is an expanded view that is copied."""
    if launches.size(node.outputs[0].elements) == launches.size(node.inputs[0].elements):
        return _passed(node, arrived, launches)
    return _expand(node, arrived, launches)


def _to_copy(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    x = node.inputs[0]
    yield x, converted(only(arrived), node.outputs[0].dtype, x, launches)


def _again(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """The same operator on the gradient: times a number, or negated."""
    gradient = only(arrived)
    beside = sum(launches.bytes(t) for t in node.side_inputs)
    launches.memory(node.op, gradient.bytes + beside, gradient.bytes)
    yield node.inputs[0], gradient


def _add(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    for tensor in node.inputs:
        if tensor.requires_grad:
            yield tensor, _summed(only(arrived), node.outputs[0].dtype, tensor, launches)


def _summed(gradient: Gradient, dtype: str, to: Tensor, launches: Launches) -> Gradient:
    """The gradient summed over the dimensions along which `to` was broadcast, in its dtype."""
    size = launches.bytes(to, dtype)
    if size != gradient.bytes:
        launches.memory("sum", gradient.bytes, size)
        gradient = Gradient(size, gradient.first)
    return converted(gradient, dtype, to, launches)


def _multiply(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    gradient = only(arrived)
    for tensor, other in (node.inputs, node.inputs[::-1]):
        if tensor.requires_grad:
            launches.memory("mul", gradient.bytes + launches.bytes(other), gradient.bytes)
            yield tensor, _summed(gradient, node.outputs[0].dtype, tensor, launches)


def _power(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """x to one power less, times that power, times the gradient."""
    gradient = only(arrived)
    size = gradient.bytes
    for op, read in (("pow", size), ("mul", size), ("mul", 2 * size)):
        launches.memory(op, read, size)
    yield node.inputs[0], gradient


def _of_input_or_output(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """One kernel that reads the gradient and what was kept."""
    gradient = only(arrived)
    launches.memory(f"{node.op}_backward", 2 * gradient.bytes, gradient.bytes)
    yield node.inputs[0], gradient


def _clamp(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """The gradient where what was clamped lay within both bounds: two masks, which become one."""
    gradient, x = only(arrived), node.inputs[0]
    size, mask = launches.bytes(x), launches.size(x.elements)
    for op, read, written in (
        ("ge", size, mask),
        ("le", size, mask),
        ("logical_and_", 2 * mask, mask),
        ("scalar_tensor", 0, ITEMSIZE[x.dtype]),
        ("where", mask + gradient.bytes, gradient.bytes),
    ):
        launches.memory(op, read, written)
    yield x, gradient


def _mean(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    x = node.inputs[0]
    size = launches.bytes(x)
    launches.memory("div", only(arrived).bytes, size)
    yield x, Gradient(size)


def _dropout(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    gradient = only(arrived)
    read = gradient.bytes + launches.bytes(node.side_inputs[0])
    launches.memory("native_dropout_backward", read, gradient.bytes)
    yield node.inputs[0], gradient


def _softmax(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """Gradient times output comes first, as a kernel of its own (see `Ledger.softmax`)."""
    x, gradient = node.inputs[0], only(arrived)
    launches.memory("mul", 2 * gradient.bytes, gradient.bytes)
    sent = Gradient(launches.bytes(x), "heads")
    launches.memory("_softmax_backward_data", 2 * gradient.bytes, sent.bytes)
    yield x, sent


def _layer_norm(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """x's gradient is one kernel; those of weight and bias are another, which reads everything
    again."""
    x, out, gradient = node.inputs[0], node.outputs[0], only(arrived)
    *weights, statistics = node.side_inputs
    trained = [w for w in weights if w.requires_grad]
    dtype = out.dtype
    read = gradient.bytes + launches.bytes(x) + launches.bytes(statistics)
    read += sum(launches.bytes(w, dtype) for w in weights)
    written = launches.bytes(x) * x.requires_grad + sum(launches.bytes(w, dtype) for w in trained)
    twice = len(trained) > 1 or (bool(trained) and x.requires_grad)
    launches.memory("native_layer_norm_backward", read * (1 + twice), written)
    for weight in trained:
        yield weight, converted(Gradient(launches.bytes(weight, dtype)), dtype, weight, launches)
    yield x, Gradient(launches.bytes(x))


def _embedding(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """Zeros of the table's size, into which the rows are added."""
    weight, gradient = node.inputs[0], only(arrived)
    size = launches.bytes(weight)
    read = gradient.bytes + launches.bytes(node.side_inputs[0])
    launches.memory("embedding_dense_backward", read, size + gradient.bytes)
    yield weight, Gradient(size)


def _rows(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """Zeros, into which the chosen elements are put, in either order of the rows. An expanded
    gradient is copied first."""
    x, index, gradient = node.inputs[0], node.side_inputs[0], only(arrived)
    size, whole = launches.bytes(node.outputs[0]), launches.bytes(x)
    if gradient.bytes < size:
        launches.memory("clone", gradient.bytes, size)
    launches.memory("new_zeros", 0, whole)
    put = "scatter_" if node.op == "topk" else "index_put_"
    launches.memory(put, launches.bytes(index) + 2 * size, size)
    yield x, Gradient(whole)


def _normalize(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """y = x / t: dx = dy / t, dt the sum of -dy (x / t) / t."""
    x, total = node.inputs
    size, row = launches.bytes(x), launches.bytes(total)
    divided = ("div", size + row)
    for op, read in (divided, divided, ("neg", size), ("mul", 2 * size), divided):
        launches.memory(op, read, size)
    launches.memory("sum", size, row)
    yield x, only(arrived)
    yield total, Gradient(row)


def _program(node: Node, arrived: Arrived, launches: Launches) -> Sent:
    """What the function itself runs; gradients of what it was given in another dtype are
    converted."""
    run_forward(node.behind, launches)
    launches.scope, dtype = node.module, node.outputs[0].dtype
    for tensor in node.inputs:
        made = Gradient(launches.bytes(tensor, dtype))
        yield tensor, converted(made, dtype, tensor, launches)


_ACTIVATIONS = ("silu", "swish", "gelu", "gelu_pytorch_tanh", "relu", "tanh", "sigmoid")
BACKWARD: dict[str, Backward] = {
    **dict.fromkeys(("view", "turn", "shift", "round", "sum", *SENT), _passed),
    **dict.fromkeys(("scale", "neg"), _again),
    **dict.fromkeys(("_to_copy", "mask"), _to_copy),
    **dict.fromkeys(_ACTIVATIONS, _of_input_or_output),
    **dict.fromkeys(("pow", "rsqrt"), _power),
    **dict.fromkeys(("slices", "halves"), _slices),
    **dict.fromkeys(("linear", "Conv1D", "_grouped_mm"), product),
    **dict.fromkeys(("bmm", "bmm_transposed"), batched),
    **dict.fromkeys(ATTENTION_OP, attention),
    **dict.fromkeys(("_softmax", "_safe_softmax"), _softmax),
    **dict.fromkeys(("index", "topk"), _rows),
    "view_heads": _view_heads,
    "split": _split,
    "cat": _concatenate,
    **dict.fromkeys(("constant_pad_nd", "index_copy"), _pad),
    "lora_kernels": _program,
    "expand": _expand,
    "clone": _clone,
    "add": _add,
    "clamp": _clamp,
    "mul": _multiply,
    "mean": _mean,
    "native_dropout": _dropout,
    "native_layer_norm": _layer_norm,
    "embedding": _embedding,
    "normalize": _normalize,
    "fused_norm": fused_norm,
    "fused_swiglu": fused_swiglu,
    "fused_rotary": fused_rotary,
    "rotate_pairs": rotate_pairs,
    "packed": packed,
}
