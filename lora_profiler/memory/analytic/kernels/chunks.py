"""Kernels of a head that multiplies a chunk of tokens at a time, and of the loss in it:
`modeling/losses.py`, line by line."""

from collections.abc import Iterator
from dataclasses import replace

from lora_profiler.memory.analytic.kernels.launches import Launches
from lora_profiler.memory.analytic.kernels.outside_layers import shifted_labels
from lora_profiler.memory.analytic.losses import SCALAR, ChunkedHead, LossPath
from lora_profiler.memory.analytic.tensors import ITEMSIZE
from lora_profiler.memory.kernels import Gemm

_WIDE, _INDEX = ITEMSIZE["float32"], ITEMSIZE["int64"]


def chunks_forward(head: ChunkedHead, launches: Launches) -> None:
    """Labels, the chunks, and the loss; with `head.fused` all gradients too."""
    tokens = launches.tokens
    if head.lowered:
        for given, lowered in zip(head.weights, head.parameters, strict=True):
            launches.memory("_to_copy", launches.bytes(given), launches.bytes(lowered))
    shifted_labels(launches)
    launches.memory("ne", _INDEX * tokens, tokens)
    launches.memory("sum", tokens, _INDEX)
    launches.memory("_to_copy", _INDEX, SCALAR)
    if head.fused:
        launches.memory("reciprocal_", SCALAR, SCALAR)
    launches.memory("zeros_like", 0, SCALAR)
    if head.fused:
        _zeros(head, launches)
    for rows, part in _chunks(head, launches):
        _losses(head, rows, part)
        if head.fused:
            _gradients(head, rows, part)
        part.memory("add_", 2 * SCALAR, SCALAR)
    launches.memory("mul_" if head.fused else "div_", 2 * SCALAR, SCALAR)
    if launches.accumulates:
        launches.memory("div", SCALAR, SCALAR)


def chunks_backward(head: ChunkedHead, launches: Launches) -> None:
    """The chunks again, or what forward has made scaled by the loss's own gradient."""
    if launches.accumulates:
        launches.memory("div", SCALAR, SCALAR)
    if head.fused:
        for tensor in (head.hidden, *head.parameters):
            if tensor.requires_grad:
                size = launches.bytes(tensor)
                launches.memory("mul_", size + SCALAR, size)
    else:
        launches.memory("div", 2 * SCALAR, SCALAR)
        _zeros(head, launches)
        for rows, part in _chunks(head, launches):
            _losses(head, rows, part)
            _gradients(head, rows, part)
    for given, lowered in zip(head.weights, head.parameters, strict=True):
        if given.requires_grad and head.lowered:
            launches.memory("_to_copy", launches.bytes(lowered), launches.bytes(given))
        if given.requires_grad and launches.accumulates:
            launches.memory("add_", 2 * launches.bytes(given), launches.bytes(given))


def path_forward(path: LossPath, launches: Launches) -> None:
    """A trainer's own loss: its products, and one pass over the logits by a kernel of its own, or
    torch's operators on float32 copies of its parts. Copies that shift logits or labels are left
    out, and gradients of parts that LitGPT lays together are added up as torchtune's are."""
    rows, product = _parts(path.products, path, launches)
    _logits(path, rows, product)
    if path.losses:
        rows, part = _parts(path.losses, path, launches)
        logits, wide = _logit_bytes(path, rows)
        if logits != wide:
            part.memory("_to_copy", logits, wide)
        part.memory("_log_softmax", wide, wide)
        part.memory("nll_loss_forward", (_INDEX + _WIDE) * rows, 2 * SCALAR)
        part.memory("add_", 2 * SCALAR, SCALAR)
    else:
        product.memory("_log_softmax", _logit_bytes(path, rows)[0], 0)
    if launches.accumulates:
        launches.memory("div", SCALAR, SCALAR)


def path_backward(path: LossPath, launches: Launches) -> None:
    """The product once more where the logits are made again, and those of the gradients, which
    several parts add up."""
    if path.losses:
        rows, part = _parts(path.losses, path, launches)
        logits, wide = _logit_bytes(path, rows)
        part.memory("nll_loss_backward", _INDEX * rows, wide + _WIDE * rows)
        part.memory("_log_softmax_backward_data", 2 * wide, wide)
        if logits != wide:
            part.memory("_to_copy", wide, logits)
    rows, product = _parts(path.products, path, launches)
    logits, _ = _logit_bytes(path, rows)
    if path.again:
        _logits(path, rows, product)
    if not path.losses:
        product.memory("_log_softmax_backward_data", logits, logits)
    head, dtype = path.head, path.hidden.dtype
    share, weight = launches.bytes(path.hidden) // path.products, launches.bytes(head.weight)
    further = replace(launches, count=path.products - 1)
    if path.hidden.requires_grad:
        back = Gemm(m=rows, n=head.width, k=head.vocab)
        product.product("mm", back, dtype, logits + weight, share)
        if path.products > 1:
            whole = launches.bytes(path.hidden)
            product.memory("slice_backward", share, share + whole)
            further.memory("add_", 2 * whole, whole)
    if head.weight.requires_grad:
        back = Gemm(m=head.vocab, n=head.width, k=rows)
        product.product("mm", back, dtype, logits + share, weight)
        if path.products > 1:
            further.memory("add_", 2 * weight, weight)


def _parts(count: int, path: LossPath, launches: Launches) -> tuple[int, Launches]:
    """(tokens of one, where the kernels of all go)."""
    return -(-launches.size(path.tokens) // max(count, 1)), replace(launches, count=max(count, 1))


def _logit_bytes(path: LossPath, rows: int) -> tuple[int, int]:
    """As the head makes them, and in float32."""
    numbers = rows * path.head.vocab
    return numbers * ITEMSIZE[path.hidden.dtype], numbers * _WIDE


def _logits(path: LossPath, rows: int, launches: Launches) -> None:
    gemm = Gemm(m=rows, n=path.head.vocab, k=path.head.width)
    dtype = path.hidden.dtype
    read = rows * path.head.width * ITEMSIZE[dtype] + launches.bytes(path.head.weight)
    launches.product("mm", gemm, dtype, read, _logit_bytes(path, rows)[0])


def _chunks(head: ChunkedHead, launches: Launches) -> Iterator[tuple[int, Launches]]:
    """(rows, where their kernels go) of the chunks that are full, and of the rest."""
    rows = launches.size(head.rows)
    full, rest = divmod(launches.tokens, rows)
    yield rows, replace(launches, count=full)
    if rest:
        yield rest, launches


def _zeros(head: ChunkedHead, launches: Launches) -> None:
    for tensor in head.parameters:
        if tensor.requires_grad:
            launches.memory("zeros_like", 0, launches.bytes(tensor))


def _losses(head: ChunkedHead, rows: int, launches: Launches) -> None:
    dtype = head.hidden.dtype
    hidden, logits, wide = (rows * n * size for n, size in _sizes(head))
    read = hidden + sum(launches.bytes(t) for t in head.parameters)
    gemm = Gemm(m=rows, n=head.vocab, k=head.width)
    launches.product("addmm" if len(head.parameters) > 1 else "mm", gemm, dtype, read, logits)
    if dtype != "float32":
        launches.memory("_to_copy", logits, wide)
    number, index = _WIDE * rows, _INDEX * rows
    for op, moved_in, moved_out in (
        ("ne", index, rows),
        ("_to_copy", rows, number),
        ("clamp", index, index),
        ("amax", wide, number),
        ("sub_", wide + number, wide),
        ("gather", index + number, number),
        ("exp_", wide, wide),
        ("sum", wide, number),
        ("log", number, number),
        ("sub", 2 * number, number),
        ("mul", 2 * number, number),
        ("sum", number, SCALAR),
    ):
        launches.memory(op, moved_in, moved_out)


def _gradients(head: ChunkedHead, rows: int, launches: Launches) -> None:
    dtype = head.hidden.dtype
    hidden, logits, wide = (rows * n * size for n, size in _sizes(head))
    number, index = _WIDE * rows, _INDEX * rows
    for op, moved_in, moved_out in (
        ("mul", number + SCALAR, number),
        ("div", 2 * number, number),
        ("mul_", wide + number, wide),
        ("neg", number, number),
        ("scatter_add_", index + 2 * number, number),
    ):
        launches.memory(op, moved_in, moved_out)
    if dtype != "float32":
        launches.memory("copy_", wide, logits)
    weight, *biases = head.parameters
    size = launches.bytes(weight)
    if head.hidden.requires_grad:
        gemm = Gemm(m=rows, n=head.width, k=head.vocab)
        launches.product("mm", gemm, dtype, logits + size, hidden)
        launches.memory("copy_", hidden, hidden)
    if weight.requires_grad:
        gemm = Gemm(m=head.vocab, n=head.width, k=rows)
        launches.product("addmm_", gemm, dtype, size + logits + hidden, size)
    for bias in biases:
        if bias.requires_grad:
            own = launches.bytes(bias)
            launches.memory("sum", logits, own)
            launches.memory("add_", 2 * own, own)


def _sizes(head: ChunkedHead) -> tuple[tuple[int, int], ...]:
    """(numbers, bytes of one) of a row of the hidden state, of the logits, and of their float32
    copy."""
    size = ITEMSIZE[head.hidden.dtype]
    return (head.width, size), (head.vocab, size), (head.vocab, _WIDE)
