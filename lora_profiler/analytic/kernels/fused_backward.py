"""What a device launches going back through kernels that a library fused: Liger-Kernel's, and
torchtune's rotary embedding of neighbours."""

from collections.abc import Sequence

from lora_profiler.analytic.kernels.forward import rotated
from lora_profiler.analytic.kernels.gradients import Gradient, Sent, only
from lora_profiler.analytic.kernels.launches import Launches
from lora_profiler.analytic.tensors import Node


def liger_norm(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """x's gradient over that of the result; the weight's is computed whether it trains or not."""
    (x, weight), gradient = node.inputs, only(arrived)
    own = launches.bytes(weight)
    read = gradient.bytes + launches.bytes(x) + own + launches.bytes(node.beside[0])
    launches.memory(node.module, "rms_norm_backward", read, own + gradient.bytes)
    yield weight, Gradient(own)
    yield x, Gradient(gradient.bytes)


def liger_swiglu(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    sizes = [launches.bytes(t) for t in node.inputs]
    launches.memory(node.module, "swiglu_backward", only(arrived).bytes + sum(sizes), sum(sizes))
    for tensor, size in zip(node.inputs, sizes, strict=True):
        yield tensor, Gradient(size)


def liger_rotary(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """Rotated back where it lies, after a copy where heads come before tokens."""
    for tensor, gradient in zip(node.inputs, arrived, strict=True):
        assert gradient is not None
        if gradient.first != "tokens" and launches.at.seq > 1:
            launches.memory(node.module, "clone", gradient.bytes, gradient.bytes)
        rotated(node, gradient.bytes, launches)
        yield tensor, Gradient(gradient.bytes)


def rotate_pairs(node: Node, arrived: Sequence[Gradient | None], launches: Launches) -> Sent:
    """Each neighbour was used twice, and taken out of the whole: its gradients are put into zeros
    and added."""
    x, table = node.inputs[0], launches.bytes(node.beside[0], "float32") // 2
    size, wide = only(arrived).bytes, launches.bytes(x, "float32")
    if size != wide:
        launches.memory(node.module, "_to_copy", size, wide)
    launches.memory(node.module, "neg", wide // 2, wide // 2)
    for _ in range(4):
        launches.memory(node.module, "mul", wide // 2 + table, wide // 2)
        launches.memory(node.module, "select_backward", wide // 2, wide // 2 + wide)
    for _ in range(3):
        launches.memory(node.module, "add", 2 * wide, wide)
    if size != wide:
        launches.memory(node.module, "_to_copy", wide, size)
    yield x, Gradient(size)
