"""What a device launches for each node of the ledger going back: autograd's own formulas
(`derivatives.yaml`), kernel by kernel.

Where a layer's features were parted into heads, those of a gradient are joined again, which copies
one whose tokens stand between heads and features. A tensor that was used twice gets two gradients,
and a kernel that adds them.
"""

from collections.abc import Sequence

from lora_profiler.memory.analytic.kernels import gradients
from lora_profiler.memory.analytic.kernels.forward import ATTENTION_OP, SENT, run_forward
from lora_profiler.memory.analytic.kernels.gradients import (
    Arrived,
    Backward,
    Gradient,
    Sent,
    converted,
    only,
)
from lora_profiler.memory.analytic.kernels.launches import Launches
from lora_profiler.memory.analytic.tensors import ITEMSIZE, Node, Tensor


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
    **dict.fromkeys(("linear", "Conv1D", "_grouped_mm"), gradients.product),
    **dict.fromkeys(("bmm", "bmm_transposed"), gradients.batched),
    **dict.fromkeys(ATTENTION_OP, gradients.attention),
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
    "fused_norm": gradients.fused_norm,
    "fused_swiglu": gradients.fused_swiglu,
    "fused_rotary": gradients.fused_rotary,
    "rotate_pairs": gradients.rotate_pairs,
    "packed": gradients.packed,
}
