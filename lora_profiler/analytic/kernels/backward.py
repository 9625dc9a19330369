"""What a device launches for each node of the ledger going back: autograd's own formulas
(`derivatives.yaml`), kernel by kernel.

Where a layer's features were parted into heads, those of a gradient are joined again, which copies
one whose tokens stand between heads and features. A tensor that was used twice gets two gradients,
and a kernel that adds them.
"""

from collections.abc import Sequence

from lora_profiler.analytic.kernels import fused_backward as fused
from lora_profiler.analytic.kernels import products_backward as products
from lora_profiler.analytic.kernels.forward import ATTENTION_OP, SENT, run_forward, softmax_converts
from lora_profiler.analytic.kernels.gradients import Backward, Gradient, Sent, converted, only
from lora_profiler.analytic.kernels.launches import Launches
from lora_profiler.analytic.tensors import ITEMSIZE, Node, Tensor


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


def _passed(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """No kernel: the gradient itself, or a view of it."""
    yield node.inputs[0], only(arrived)


def _view_heads(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    gradient = only(arrived)
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
    gradient, first = only(arrived), node.inputs[0]
    size = launches.bytes(first)
    if size == gradient.bytes:
        launches.memory(node.module, "slice_backward", 0, size)
        launches.memory(node.module, "add", 2 * size, size)
    yield first, Gradient(size, gradient.first)


def _pad(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """Padded by less than nothing."""
    x, gradient = node.inputs[0], only(arrived)
    size = launches.bytes(x)
    launches.memory(node.module, node.op, gradient.bytes, size + gradient.bytes)
    yield x, Gradient(size, gradient.first)


def _expand(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    x, gradient = node.inputs[0], only(arrived)
    size = launches.bytes(x)
    launches.memory(node.module, "sum", gradient.bytes, size)
    yield x, Gradient(size, "heads")


def _clone(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """A repetition is an expanded view that is copied."""
    if launches.size(node.outputs[0].elements) == launches.size(node.inputs[0].elements):
        return _passed(node, arrived, launches)
    return _expand(node, arrived, launches)


def _to_copy(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    x = node.inputs[0]
    yield x, converted(only(arrived), node.outputs[0].dtype, x, node.module, launches)


def _again(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """The same operator on the gradient: times a number, or negated."""
    gradient = only(arrived)
    beside = sum(launches.bytes(t) for t in node.beside)
    launches.memory(node.module, node.op, gradient.bytes + beside, gradient.bytes)
    yield node.inputs[0], gradient


def _add(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    gradient, out = only(arrived), node.outputs[0]
    for tensor in node.inputs:
        if tensor.requires_grad:
            yield (
                tensor,
                converted(
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
    gradient, out = only(arrived), node.outputs[0]
    for tensor, other in (node.inputs, node.inputs[::-1]):
        if tensor.requires_grad:
            launches.memory(
                node.module, "mul", gradient.bytes + launches.bytes(other), gradient.bytes
            )
            summed = _summed(gradient, out.dtype, tensor, node, launches)
            yield tensor, converted(summed, out.dtype, tensor, node.module, launches)


def _power(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """x to one power less, times that power, times the gradient."""
    gradient = only(arrived)
    size = gradient.bytes
    for op, read in (("pow", size), ("mul", size), ("mul", 2 * size)):
        launches.memory(node.module, op, read, size)
    yield node.inputs[0], gradient


def _of_input_or_output(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """One kernel that reads the gradient and what was kept."""
    gradient = only(arrived)
    launches.memory(node.module, f"{node.op}_backward", 2 * gradient.bytes, gradient.bytes)
    yield node.inputs[0], gradient


def _clamp(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
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
        launches.memory(node.module, op, read, written)
    yield x, gradient


def _mean(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    x = node.inputs[0]
    size = launches.bytes(x)
    launches.memory(node.module, "div", only(arrived).bytes, size)
    yield x, Gradient(size)


def _dropout(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    gradient = only(arrived)
    read = gradient.bytes + launches.bytes(node.beside[0])
    launches.memory(node.module, "native_dropout_backward", read, gradient.bytes)
    yield node.inputs[0], gradient


def _softmax(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """Gradient times output comes first, as a kernel of its own (see `Ledger.softmax`)."""
    x, out, gradient = node.inputs[0], node.outputs[0], only(arrived)
    launches.memory(node.module, "mul", 2 * gradient.bytes, gradient.bytes)
    made = x if softmax_converts(x, out) else out
    sent = Gradient(launches.bytes(made), "heads")
    launches.memory(node.module, "_softmax_backward_data", 2 * gradient.bytes, sent.bytes)
    yield x, converted(sent, made.dtype, x, node.module, launches)


def _layer_norm(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """x's gradient is one kernel; those of weight and bias are another, which reads everything
    again."""
    x, out, gradient = node.inputs[0], node.outputs[0], only(arrived)
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
            converted(
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
    weight, gradient = node.inputs[0], only(arrived)
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
    yield node.inputs[0], only(arrived)


def _rows(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """Zeros, into which the chosen elements are put, in either order of the rows. An expanded
    gradient is copied first."""
    x, index, gradient = node.inputs[0], node.beside[0], only(arrived)
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
    yield x, only(arrived)
    yield total, Gradient(row)


def _program(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """What the function itself runs; gradients of what it was given in another dtype are
    converted."""
    run_forward(node.behind, launches)
    dtype = node.outputs[0].dtype
    for tensor in node.inputs:
        made = Gradient(launches.bytes(tensor, dtype))
        yield tensor, converted(made, dtype, tensor, node.module, launches)


BACKWARD: dict[str, Backward] = {
    **dict.fromkeys(("view", "turn", "shift", "round", *SENT), _passed),
    **dict.fromkeys(("scale", "neg"), _again),
    **dict.fromkeys(("_to_copy", "mask"), _to_copy),
    **dict.fromkeys(
        ("silu", "swish", "gelu", "gelu_pytorch_tanh", "relu", "tanh", "sigmoid"),
        _of_input_or_output,
    ),
    **dict.fromkeys(("pow", "rsqrt"), _power),
    **dict.fromkeys(("linear", "Conv1D"), products.product),
    **dict.fromkeys(ATTENTION_OP, products.attention),
    "view_heads": _view_heads,
    "split": _split,
    "slices": _slices,
    "halves": _halves,
    "cat": _concatenate,
    "constant_pad_nd": _pad,
    "lora_kernels": _program,
    "expand": _expand,
    "clone": _clone,
    "add": _add,
    "clamp": _clamp,
    "mul": _multiply,
    "mean": _mean,
    "native_dropout": _dropout,
    **dict.fromkeys(("_softmax", "_safe_softmax"), _softmax),
    "native_layer_norm": _layer_norm,
    "embedding": _embedding,
    **dict.fromkeys(("index", "topk"), _rows),
    "sum": _sum,
    "normalize": _normalize,
    "_grouped_mm": products.grouped,
    "liger_norm": fused.liger_norm,
    "liger_swiglu": fused.liger_swiglu,
    "liger_rotary": fused.liger_rotary,
    "rotate_pairs": fused.rotate_pairs,
    "packed": products.packed,
    **dict.fromkeys(("bmm", "bmm_transposed"), products.batched),
}
