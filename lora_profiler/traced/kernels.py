"""The kernels of one micro-batch: what a device launches for every operator of the traced step, its
bytes and its products.

One operator is one kernel, as it is on CUDA but for a few that launch two: those fill a tensor
first, which is counted with the bytes of both. A kernel reads its inputs and writes its outputs
once; where an operator takes a tensor of which the kernel touches some elements alone, a table says
which. Sources: torch `aten/src/ATen/native/` (`NLLLoss.cu`, `Embedding.cu`, `Indexing.cu`,
`TensorShape.cpp`), bitsandbytes `backends/cuda/ops.py`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lora_profiler.compiled.tape import LEAST_UNITS, Layout
from lora_profiler.errors import UnbuildableError
from lora_profiler.kernels import Gemm, Kernel, Kind, Phase, StepKernels, merged
from lora_profiler.modeling import build_model
from lora_profiler.traced.effort import Size
from lora_profiler.traced.layouts import at_depth, layout_of
from lora_profiler.traced.run import Traced, trace
from lora_profiler.traced.watch import watched
from lora_profiler.workload import Dtype, Workload

aten = torch.ops.aten
Build = Callable[[Workload], torch.nn.Module]
FEW_UNITS = (2, 3)
"""Depths, in units of layers, between whose kernels the line to every other depth is drawn; one
more proves it."""

_DTYPES: dict[torch.dtype, Dtype] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
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
_FILLS_FIRST = frozenset(
    {
        "slice_backward",
        "select_backward",
        "constant_pad_nd",
        "nll_loss_backward",
        "embedding_dense_backward",
    }
)
"""They fill their output with zeros, and then write the gradient's or input's elements into it."""
_ADDS_ROWS = frozenset(
    {"index_add_", "index_put_", "_index_put_impl_", "scatter_add_", "index_copy_", "scatter_"}
)
"""Of the tensor that they change they touch as many elements as they are given."""
_COPIES_FIRST = frozenset({"index_add", "index_put", "scatter_add", "index_copy", "scatter"})
_DEQUANTISE = frozenset({"dequantize_4bit", "dequantize_blockwise"})
_PRODUCTS = frozenset({"mm", "addmm", "addmm_", "bmm", "baddbmm", "linear", "_grouped_mm"})
_ATTENTION = re.compile(
    r"_(scaled_dot_product|efficient|flash|cudnn)_?(flash|efficient|cudnn)?_attention(_for_cpu)?(_forward|_backward)?$"
)


def step_kernels(workload: Workload, build: Build | None = None) -> StepKernels:
    """The kernels of the micro-batch of `workload` on the model that `build` makes, at its full
    depth.

    Where layers repeat, models of two and three units are traced, and one of four proves that every
    count is linear.

    Raises UnbuildableError where a count is not, and what building and tracing raise.
    """
    build = build or _on_meta
    layout = layout_of(workload.model)
    units = None if layout is None else layout.units_of(workload.model.num_layers)
    if layout is None or units is None:
        with watched(
            workload, [Size(workload.model.num_layers, workload.setup.seq_len)], kept=False
        ):
            return recorded(workload, build, None)
    sizes = [Size(layout.layers(u), workload.setup.seq_len) for u in (*FEW_UNITS, LEAST_UNITS)]
    with watched(workload, sizes, kept=False):
        few = [
            recorded(replace(workload, model=at_depth(workload.model, size.layers)), build, layout)
            for size in sizes
        ]
    _same(at_units(few[0], few[1], LEAST_UNITS), few[2], workload)
    return at_units(few[0], few[1], units)


def at_units(two: StepKernels, three: StepKernels, units: int) -> StepKernels:
    """The kernels of `units` units, on the line through those of two and of three."""
    first, second = (dict(_counted(step.kernels)) for step in (two, three))
    kernels = [
        replace(one, count=_on_line(first.get(one, 0), second.get(one, 0), units))
        for one in dict.fromkeys([*first, *second])
    ]
    return StepKernels(
        kernels=merged(kernels),
        tokens=two.tokens,
        trainable={
            size: _on_line(two.trainable.get(size, 0), three.trainable.get(size, 0), units)
            for size in {*two.trainable, *three.trainable}
        },
    )


def _on_line(two: int, three: int, units: int) -> int:
    return two + (three - two) * (units - 2)


def _counted(kernels: tuple[Kernel, ...]) -> list[tuple[Kernel, int]]:
    return [(replace(kernel, count=1), kernel.count) for kernel in merged(kernels)]


def _same(line: StepKernels, fresh: StepKernels, workload: Workload) -> None:
    mine, real = (dict(_counted(step.kernels)) for step in (line, fresh))
    wrong = [one for one in {*mine, *real} if mine.get(one, 0) != real.get(one, 0)]
    if wrong or line.trainable != fresh.trainable:
        what = f"{wrong[0].op} in {wrong[0].module or 'the model'}" if wrong else "what trains"
        raise UnbuildableError(
            f"the kernels of {workload.model.id} are not linear in its layers: {what} is the first"
            " that is not."
        )


def _on_meta(workload: Workload) -> torch.nn.Module:
    return build_model(workload, device="meta")


def recorded(
    workload: Workload, build: Build = _on_meta, layout: Layout | None = None
) -> StepKernels:
    """The kernels of `workload` at the depth that it has, in one trace; layers of the layout's
    stack under one name."""
    kernels: list[Kernel] = []
    numbers = re.compile(rf"^({re.escape(layout.stack)})\.\d+(?=\.|$)") if layout else None

    def listen(
        func: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any,
        phase: str,
        module: str,
    ) -> None:
        computed: Any = "forward" if phase == "loss" else phase
        kernel = kernel_of(func, args, kwargs, result, computed, module)
        if kernel is not None:
            kernels.append(
                kernel if numbers is None else replace(kernel, module=numbers.sub(r"\1.*", module))
            )

    trained: dict[int, int] = {}

    def building(asked: Workload) -> torch.nn.Module:
        model = build(asked)
        for parameter in model.parameters():
            if parameter.requires_grad:
                size = parameter.element_size()
                trained[size] = trained.get(size, 0) + parameter.numel()
        return model

    traced: Traced = trace(workload, building, listener=listen)
    assert sum(trained.values()) == sum(traced.trainable.values())
    setup = workload.setup
    return StepKernels(
        kernels=merged(kernels), tokens=setup.batch_size * setup.seq_len, trainable=trained
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
        kind=_kind(op), op=op, phase=phase, module=module, read_bytes=read, written_bytes=written
    )
    if kernel.kind == "gemm":
        gemm, dtype = _product(op, args)
        return replace(kernel, gemm=gemm, flops=gemm.flops, dtype=dtype)
    if kernel.kind.startswith("attention"):
        return replace(
            kernel,
            flops=_attention_flops(func, args, kwargs, kernel.kind),
            dtype=_DTYPES[given[0].dtype],
        )
    if op == "dequantize_4bit":
        return replace(kernel, parameters=new[0].numel())
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
    """The tensors without data in it, each once."""
    tensors: dict[tuple[Any, ...], Tensor] = {}
    for leaf in tree_leaves(nested):
        if isinstance(leaf, Tensor) and leaf.device.type == "meta" and leaf.numel():
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
    if op in _FILLS_FIRST:
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


def _attention_flops(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], kind: Kind
) -> int:
    """Two products forward, five backward, where a fused kernel makes the scores again; half of
    each where causal."""
    query, key, value = (_argument(func, args, kwargs, name) for name in ("query", "key", "value"))
    if query.ndim == 3:  # (tokens, heads, width): sequences of their own in one row
        lengths = _argument(func, args, kwargs, "cum_seq_q").diff().tolist()
        pairs = query.shape[1] * sum(length**2 for length in lengths)
    else:
        pairs = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    width, value_width = query.shape[-1], value.shape[-1]
    widths = width + value_width if kind == "attention_forward" else 3 * width + 2 * value_width
    flops = 2 * pairs * widths
    return int(flops // 2 if _argument(func, args, kwargs, "is_causal") else flops)
