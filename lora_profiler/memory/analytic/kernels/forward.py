"""What a device launches for each node of the ledger going forward: bytes in, bytes out, and the
product if there is one.

A kernel reads its inputs and writes its outputs once. Views launch nothing. Sources: the operators
that torch's dispatcher is given for each call (`traced/kernels.py` lists them for a real model),
and the files that are named there.
"""

from collections.abc import Callable, Iterable, Sequence

from lora_profiler.memory.analytic.kernels.launches import Launches, unpack
from lora_profiler.memory.analytic.ledger import ITEMSIZE, Node
from lora_profiler.memory.kernels import Gemm

Forward = Callable[[Node, Launches], None]
_FLASH, _EFFICIENT = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
)
_CUDNN = "_scaled_dot_product_cudnn_attention"
ATTENTION_OP = {
    "flash": (_FLASH, f"{_FLASH}_backward"),
    "flash_varlen": ("_flash_attention_forward", "_flash_attention_backward"),
    **dict.fromkeys(("efficient", "efficient_masked"), (_EFFICIENT, f"{_EFFICIENT}_backward")),
    **dict.fromkeys(("cudnn", "cudnn_masked"), (_CUDNN, f"{_CUDNN}_backward")),
}
"""Node -> the fused operators that it is, forward and backward."""

INTEGERS = ("sort", "floor_divide", "_to_int", "histc", "cumsum", "arange", "index_put_")
"""Which expert gets which row; no gradient passes."""


def run_forward(nodes: Iterable[Node], launches: Launches) -> None:
    """Adds the kernels of `nodes`. Raises KeyError for an operator without a rule; `count.py` asks
    before."""
    for node in nodes:
        launches.scope = node.module
        FORWARD[node.op](node, launches)


def _view(node: Node, launches: Launches) -> None:
    """A view."""


def _plain(node: Node, launches: Launches) -> None:
    """Reads every input and what lies beside them, writes the output."""
    read = sum(launches.bytes(t) for t in (*node.inputs, *node.side_inputs))
    launches.memory(node.op, read, launches.bytes(node.outputs[0]))


def _with_statistics(node: Node, launches: Launches) -> None:
    """Writes what lies beside too: a mask of one byte an element, indices, a number a row."""
    read = sum(launches.bytes(t) for t in node.inputs)
    written = sum(launches.bytes(t) for t in (node.outputs[0], *node.side_inputs))
    launches.memory(node.op, read, written)


def _all_outputs(node: Node, launches: Launches) -> None:
    read = sum(launches.bytes(t) for t in node.inputs)
    launches.memory(node.op, read, sum(launches.bytes(t) for t in node.outputs))


def _clone(node: Node, launches: Launches) -> None:
    """Of an expanded tensor it reads what is there."""
    launches.memory(node.op, launches.stored_bytes(node.inputs[0]), launches.bytes(node.outputs[0]))


def _concatenate(node: Node, launches: Launches) -> None:
    size = launches.bytes(node.outputs[0])
    launches.memory("cat", size, size)


def _pad(node: Node, launches: Launches) -> None:
    """Zeros of the larger size, and the elements put among them."""
    own = launches.bytes(node.inputs[0])
    launches.memory(node.op, own, own + launches.bytes(node.outputs[0]))


def _softmax(node: Node, launches: Launches) -> None:
    launches.memory(node.op, launches.bytes(node.inputs[0]), launches.bytes(node.outputs[0]))


def _safe_softmax(node: Node, launches: Launches) -> None:
    """The math kernel's causal mask, which is added in place, its softmax, and zeros for rows that
    are masked as a whole.

    torch `transformers/attention.cpp` (`_scaled_dot_product_attention_math`, `_safe_softmax`).
    """
    out, returned = node.outputs[0], node.side_inputs[0]
    pairs = launches.at.seq**2
    size, elements = launches.bytes(out), launches.size(out.elements)
    rows = elements // launches.at.seq
    number = ITEMSIZE["float32"]
    for op, read, written in (
        ("ones", 0, pairs),
        ("tril", pairs, pairs),
        ("scalar_tensor", 0, number),
        ("scalar_tensor", 0, number),
        ("where", pairs + 2 * number, number * pairs),
        ("softmax", size, size),
        ("isneginf", size, elements),
        ("all", elements, rows),
        ("scalar_tensor", 0, number),
        ("where", rows + number + size, size),
    ):
        launches.memory(op, read, written)
    if returned.dtype != out.dtype:
        launches.memory("_to_copy", size, launches.bytes(returned))


def _layer_norm(node: Node, launches: Launches) -> None:
    x, out = node.inputs[0], node.outputs[0]
    *weights, statistics = node.side_inputs
    lower(node, launches)
    read = launches.bytes(x) + sum(launches.bytes(w, out.dtype) for w in weights)
    launches.memory(node.op, read, launches.bytes(out) + launches.bytes(statistics))


def _normalize(node: Node, launches: Launches) -> None:
    """Divided in place, so that the values from before are copied."""
    x, total = node.inputs
    size = launches.bytes(x)
    launches.memory("clone", size, size)
    launches.memory("div_", size + launches.bytes(total), size)


def _embedding(node: Node, launches: Launches) -> None:
    """Of the table it reads as many elements as it writes."""
    size = launches.bytes(node.outputs[0])
    launches.memory(node.op, size + launches.bytes(node.side_inputs[0]), size)


def lower(node: Node, launches: Launches) -> None:
    """The copies that autocast makes of the weights of a product or a layer norm, in the dtype in
    which it runs."""
    dtype = node.outputs[0].dtype
    weights = node.side_inputs[:-1] if node.op == "native_layer_norm" else node.side_inputs
    for weight in (*node.lowers, *weights):
        if weight.dtype != dtype:
            launches.memory("_to_copy", launches.bytes(weight), launches.bytes(weight, dtype))


def run_up_to(nodes: Sequence[Node], stop: int, launches: Launches) -> None:
    """Adds the kernels of the first `stop` of `nodes`, and what runs before the next one keeps its
    inputs."""
    run_forward(nodes[:stop], launches)
    if (
        stop < len(nodes)
        and nodes[stop].packs
        and nodes[stop].op in ("linear", "Conv1D", "native_layer_norm")
    ):
        launches.scope = nodes[stop].module
        lower(nodes[stop], launches)


def gemm_of(node: Node, launches: Launches) -> Gemm:
    batches, m, n, k = (launches.size(size) for size in node.sizes)
    return Gemm(batches=batches, m=m, n=n, k=k)


def _product(node: Node, launches: Launches) -> None:
    x, weight = node.inputs
    dtype = node.outputs[0].dtype
    lower(node, launches)
    read = launches.bytes(x) + sum(launches.bytes(w, dtype) for w in (weight, *node.side_inputs))
    _multiplied("addmm" if node.side_inputs else "mm", node, read, launches)


def _multiply(node: Node, launches: Launches) -> None:
    """A batch of products, one of all experts, each on its own rows, or one that is added where its
    sum lies, which comes last of the inputs."""
    read = sum(launches.bytes(t) for t in (*node.inputs, *node.side_inputs))
    _multiplied(node.op, node, read, launches)


def _multiplied(op: str, node: Node, read: int, launches: Launches) -> None:
    out = node.outputs[0]
    launches.product(op, gemm_of(node, launches), out.dtype, read, launches.bytes(out))


def _packed(node: Node, launches: Launches) -> None:
    """A 4-bit layer: the input in the compute dtype, the weight unpacked, one product, the result
    in the input's dtype.

    bitsandbytes `nn/modules.py` (`Linear4bit.forward`), `backends/cuda/ops.py`
    (`_dequant_linear_fallback`).
    """
    x, weight = node.inputs
    out, dtype = node.outputs[0], launches.compute
    if x.dtype != dtype:
        launches.memory("_to_copy", launches.bytes(x), launches.bytes(x, dtype))
    unpack(weight, launches)
    read = sum(launches.bytes(t, dtype) for t in (x, weight, *node.side_inputs))
    launches.product("linear", gemm_of(node, launches), dtype, read, launches.bytes(out, dtype))
    if out.dtype != dtype:
        launches.memory("_to_copy", launches.bytes(out, dtype), launches.bytes(out))


def add_attention(
    node: Node, read: int, written: int, launches: Launches, *, going_back: bool = False
) -> None:
    """Two products of scores' size, five going back: the causal half of them, unless a mask says
    which are needed. Several heads may share keys and values."""
    op = ATTENTION_OP[node.op][going_back]
    flops = (5 if going_back else 2) * launches.size(node.forward_flops) // 2
    query, key, *_ = node.inputs
    launches.attention(
        op,
        "attention_backward" if going_back else "attention_forward",
        flops if node.op.endswith("_masked") else flops // 2,
        node.outputs[0].dtype,
        read,
        written,
        is_grouped=launches.bytes(query) != launches.bytes(key),
    )


def _attention(node: Node, launches: Launches) -> None:
    """q k^T and its product with v. Written beside the output: the row-wise log-sum-exp and, where
    the kernel keeps it on the card, the generator's state. A mask comes last."""
    out = node.outputs[0]
    masks = int(node.op.endswith("_masked"))
    others = len(node.side_inputs) - masks
    kept, mask = node.side_inputs[:others], node.side_inputs[others:]
    read = sum(launches.stored_bytes(t) for t in (*node.inputs, *mask))
    # a boolean one, made into zeros and minus infinity (attention.cpp, convert_boolean_attn_mask)
    for additive in mask:
        number = ITEMSIZE[additive.dtype]
        for _ in range(2):
            launches.memory("scalar_tensor", 0, number)
        shared = launches.masks * launches.at.seq**2
        launches.memory("where", shared + 2 * number, launches.bytes(additive))
    add_attention(node, read, sum(launches.bytes(t) for t in (out, *kept)), launches)


def rotated(node: Node, size: int, launches: Launches) -> None:
    """A tensor of that many bytes written over, by cos and sin."""
    launches.memory("rotate", size + sum(launches.bytes(t) for t in node.side_inputs), size)


def _fused_rotary(node: Node, launches: Launches) -> None:
    for tensor in node.inputs:
        rotated(node, launches.bytes(tensor), launches)


def _rotate_pairs(node: Node, launches: Launches) -> None:
    """Neighbours a and b in float32: a cos - b sin and b cos + a sin, laid side by side."""
    x, table = node.inputs[0], launches.bytes(node.side_inputs[0], "float32") // 2
    size, wide = launches.bytes(x), launches.bytes(x, "float32")
    if size != wide:
        launches.memory("_to_copy", size, wide)
    for _ in range(4):
        launches.memory("mul", wide // 2 + table, wide // 2)
    for op in ("sub", "add"):
        launches.memory(op, wide, wide // 2)
    launches.memory("stack", wide, wide)
    if size != wide:
        launches.memory("_to_copy", wide, size)


SENT = ("replicate", "all_reduce", "all_gather")
"""What ranks send under tensor parallelism."""
_VIEWS = ("view", "view_heads", "turn", "split", "slices", "halves", "expand", "lora_kernels")
_ELEMENTWISE = (
    "_to_copy", "scale", "shift", "neg", "mask", "add", "mul", "pow", "mean", "sum", "rsqrt",
    "silu", "swish", "gelu", "gelu_pytorch_tanh", "relu", "tanh", "sigmoid", "amin", "amax",
    "minimum", "maximum", "div", "full_like", "clamp_scale", "sub", "rsub", "round", "reciprocal",
    "clamp", "add_", "glu", "zeros_like", "fused_swiglu",
)  # fmt: skip
FORWARD: dict[str, Forward] = {
    **dict.fromkeys((*_VIEWS, *SENT), _view),
    **dict.fromkeys(_ELEMENTWISE, _plain),
    **dict.fromkeys(("native_dropout", "topk", "fused_norm"), _with_statistics),
    **dict.fromkeys((*INTEGERS, "glu_backward"), _all_outputs),
    **dict.fromkeys(("linear", "Conv1D"), _product),
    **dict.fromkeys(("bmm", "bmm_transposed", "_grouped_mm", "addmm_"), _multiply),
    **dict.fromkeys(ATTENTION_OP, _attention),
    **dict.fromkeys(("embedding", "index"), _embedding),
    "packed": _packed,
    "clone": _clone,
    "cat": _concatenate,
    **dict.fromkeys(("constant_pad_nd", "index_copy"), _pad),
    "_softmax": _softmax,
    "_safe_softmax": _safe_softmax,
    "native_layer_norm": _layer_norm,
    "normalize": _normalize,
    "unpack": lambda node, launches: unpack(node.inputs[0], launches),
    "fused_rotary": _fused_rotary,
    "rotate_pairs": _rotate_pairs,
}
