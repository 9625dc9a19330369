"""What a device runs for one operator: a kernel with its bytes and its products, read off the
tensors that the operator was given and gave back.

One operator is one `Kernel`, with the bytes of all that it launches. It reads its inputs and writes
its outputs once; where an operator takes a tensor of which it touches some elements alone, a table
says which. Sources: torch `aten/src/ATen/native/` (`NLLLoss.cu`, `Embedding.cu`, `Indexing.cu`,
`TensorShape.cpp`), bitsandbytes `backends/cuda/ops.py`.

It needs torch and this package's vocabulary alone: a rehearsal reads a script's operators with it,
in the script's own process, where tensors are a card's.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lora_profiler.memory.kernels import FILLS_FIRST, Gemm, Kernel, Kind, Phase, launches_of
from lora_profiler.question.workload import Dtype

_DTYPES: dict[torch.dtype, Dtype] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_ON_DEVICE = ("meta", "cuda")
_NOTHING_RUNS = frozenset(
    {
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "lift_fresh",
        "_local_scalar_dense",
        "resize_",
    }
)
_WRITES_ONLY = frozenset(
    {
        "zeros",
        "zeros_like",
        "new_zeros",
        "ones",
        "ones_like",
        "new_ones",
        "full",
        "full_like",
        "new_full",
        "fill_",
        "zero_",
        "arange",
        "scalar_tensor",
        "rand_like",
        "randn_like",
    }
)
_GATHERS = frozenset({"embedding", "index", "index_select", "gather"})
"""Of the first tensor they read as many elements as they write."""
_ADDS_ROWS = frozenset(
    {"index_add_", "index_put_", "_index_put_impl_", "scatter_add_", "index_copy_", "scatter_"}
)
"""Of the tensor that they change they touch as many elements as they are given."""
_COPIES_FIRST = frozenset({"index_add", "index_put", "scatter_add", "index_copy", "scatter"})
_FUSED_UPDATES = frozenset({"_fused_adam_", "_fused_adamw_", "_fused_sgd_"})
_DEQUANTISE = frozenset({"dequantize_4bit", "dequantize_blockwise"})
_PRODUCTS = frozenset(
    {"mm", "addmm", "addmm_", "bmm", "baddbmm", "linear", "_grouped_mm", "gemm_4bit"}
)
_ATTENTION = re.compile(
    r"_(scaled_dot_product|efficient|flash|cudnn)_?(flash|efficient|cudnn)?_attention(_for_cpu)?(_forward|_backward)?$"
)


def kernel_of(
    func: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    result: Any,
    phase: Phase,
    module: str,
) -> Kernel | None:
    """The kernel that one operator launches, None where nothing runs: views, tensors without
    contents, numbers on the host."""
    op = func._overloadpacket.__name__
    outs = {argument.name for argument in func._schema.arguments if argument.is_out}
    given = _tensors((args, {k: value for k, value in kwargs.items() if k not in outs}))
    returned = _tensors(result)
    changed = _changed(func, args, kwargs)
    old = {tensor.untyped_storage()._cdata for tensor in (*given, *changed)}
    new = [tensor for tensor in returned if tensor.untyped_storage()._cdata not in old]
    if op in _NOTHING_RUNS or not (new or changed):
        return None
    read, written = _traffic(op, args, given, new, changed)
    kernel = Kernel(
        kind=_kind(op),
        op=op,
        phase=phase,
        module=module,
        read_bytes=read,
        written_bytes=written,
        launches=launches_of(op),
    )
    if kernel.kind == "gemm":
        gemm, dtype = _product(op, args)
        return kernel._replace(gemm=gemm, flops=gemm.flops, dtype=dtype)
    if kernel.kind.startswith("attention"):
        return kernel._replace(
            flops=_attention_flops(func, args, kwargs, kernel.kind),
            dtype=_DTYPES[given[0].dtype],
            launches=launches_of(op, is_grouped=_is_grouped(func, args, kwargs)),
        )
    if op == "dequantize_4bit":
        return kernel._replace(parameters=new[0].numel())
    return kernel


def _kind(op: str) -> Kind:
    if op in _PRODUCTS:
        return "gemm"
    if op in _DEQUANTISE:
        return "dequantise"
    if _ATTENTION.match(op):
        return "attention_backward" if op.endswith("_backward") else "attention_forward"
    return "memory"


def _tensors(nested: Any) -> list[Tensor]:
    """The tensors of a card in it, or those that stand for such without data, each once."""
    tensors: dict[tuple[Any, ...], Tensor] = {}
    for leaf in tree_leaves(nested):
        if isinstance(leaf, Tensor) and leaf.device.type in _ON_DEVICE and leaf.numel():
            key = (
                leaf.untyped_storage()._cdata,
                leaf.storage_offset(),
                tuple(leaf.shape),
                leaf.stride(),
                leaf.dtype,
            )
            tensors.setdefault(key, leaf)
    return list(tensors.values())


def _changed(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """What the operator writes into."""
    names = [
        a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write
    ]
    return _tensors([_argument(func, args, kwargs, name) for name in names])


def _argument(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str) -> Any:
    """An argument by its name in the schema, its default where it was not given."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[place] if place < len(args) else kwargs.get(name, argument.default_value)
    raise KeyError(name)


def _bytes(tensor: Tensor) -> int:
    """Of the elements that are there: an expanded dimension is there once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return min(count * tensor.element_size(), tensor.untyped_storage().nbytes())


def _sum(tensors: list[Tensor]) -> int:
    return sum(_bytes(tensor) for tensor in tensors)


def _traffic(
    op: str, args: tuple[Any, ...], given: list[Tensor], new: list[Tensor], changed: list[Tensor]
) -> tuple[int, int]:
    """Bytes read and written."""
    written = _sum(new) + _sum(changed)
    if op in _WRITES_ONLY:
        return 0, written
    if op in _FUSED_UPDATES:  # gradients are written where a scaler's factor is taken off them
        return _sum(given), written - _sum(_tensors(args[1]))
    if op == "copy_":
        return _sum([t for t in given if t is not changed[0]]), written
    if op in _GATHERS:
        return _sum(new) + _sum([t for t in given if t is not args[0]]), written
    if op == "nll_loss_forward":
        target = args[1]
        return _bytes(target) + target.numel() * args[0].element_size(), written
    if op == "nll_loss_backward":
        target = args[2]
        touched = target.numel() * args[1].element_size()
        return _bytes(args[0]) + _bytes(target), written + touched
    if (
        op == "native_layer_norm_backward"
    ):  # x's gradient is one kernel, those of weight and bias another that reads both again
        return _sum(given) * (2 if len(new) > 1 else 1), written
    if op in FILLS_FIRST:
        return _sum(given), written + (_bytes(args[0]) if isinstance(args[0], Tensor) else 0)
    if op in _ADDS_ROWS or op in _COPIES_FIRST:
        rest = [t for t in given if t is not args[0]]
        rows = max((_bytes(t) for t in rest if t.dtype == args[0].dtype), default=0)
        if op in _COPIES_FIRST:
            return _sum(given) + rows, written + rows
        return _sum(rest) + rows, rows
    return _sum(given), written


def _product(op: str, args: tuple[Any, ...]) -> tuple[Gemm, Dtype]:
    first, second = args[1:3] if op in ("addmm", "addmm_", "baddbmm") else args[:2]
    dtype = _DTYPES[first.dtype]
    if op == "gemm_4bit":  # bitsandbytes' own kernel, which unpacks as it multiplies
        n, k = args[2]
        return Gemm(m=first.numel() // k, n=n, k=k), dtype
    if op == "linear":
        return Gemm(m=first.numel() // first.shape[-1], n=second.shape[0], k=first.shape[-1]), dtype
    if (
        op == "_grouped_mm" and first.ndim == 2 and second.ndim == 2
    ):  # gradients of weights: each group sums over its own rows
        return Gemm(m=first.shape[0], n=second.shape[1], k=first.shape[1]), dtype
    if op == "_grouped_mm":
        return Gemm(m=first.shape[0], n=second.shape[-1], k=first.shape[1]), dtype
    batches = first.shape[0] if first.ndim == 3 else 1
    return Gemm(batches=batches, m=first.shape[-2], n=second.shape[-1], k=first.shape[-1]), dtype


def _is_grouped(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether heads share keys and values; heads come second of four dimensions, and of three."""
    query, key = (_argument(func, args, kwargs, name) for name in ("query", "key"))
    return bool(query.shape[1] != key.shape[1])


def _attention_flops(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], kind: Kind
) -> int:
    """Two products forward, five backward, where a fused kernel makes the scores again; half of
    each where causal."""
    query, key, value = (_argument(func, args, kwargs, name) for name in ("query", "key", "value"))
    if query.ndim == 3:  # (tokens, heads, width): sequences of their own in one row
        lengths = _argument(func, args, kwargs, "cum_seq_q").diff().tolist()
        # a rehearsed card has no lengths: the longest that it was told of fills the row
        longest = _argument(func, args, kwargs, "max_q")
        squares = sum(length**2 for length in lengths) or query.shape[0] * longest
        pairs = query.shape[1] * squares
    else:
        pairs = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    width, value_width = query.shape[-1], value.shape[-1]
    widths = width + value_width if kind == "attention_forward" else 3 * width + 2 * value_width
    flops = 2 * pairs * widths
    return int(flops // 2 if _argument(func, args, kwargs, "is_causal") else flops)
