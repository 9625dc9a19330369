"""An embedding, and what tensor parallelism puts before and after layers that ranks have a part of:
`tensor_parallel.py` says which they are. Alone, a rank has the whole."""

from lora_profiler.algebra.polynomial import ZERO, constant
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.tensors import ITEMSIZE, Tensor
from lora_profiler.support.tensor_parallel import BY_COLUMNS, BY_ROWS


def replicated(op: Ledger, x: Tensor) -> Tensor:
    """`x`, whole on every rank, as a column-wise layer takes it: each makes a part of its
    gradient."""
    if not _is_cut(op, BY_COLUMNS):
        return x
    out = Tensor(x.elements, x.dtype, x.requires_grad, x.storage, x.merged)
    op.record("replicate", (x,), (out,))
    return out


def summed(op: Ledger, x: Tensor) -> Tensor:
    """`x` of all ranks together, of which a row-wise layer has made a part on each."""
    if not _is_cut(op, BY_ROWS):
        return x
    out = op.fresh(x.elements, x.dtype, x.requires_grad, x.merged)
    op.record("all_reduce", (x,), (out,), aliases=True)
    return out


def gathered(op: Ledger, logits: Tensor) -> Tensor:
    """The logits of all words on every rank, of which each has made a part: brought one
    after the other, and then put side by side."""
    if op.rules.spread is None or op.scope != op.rules.head:
        return logits
    words, ranks = op.rules.spread
    parts = op.fresh(logits.elements * ranks, logits.dtype, logits.requires_grad)
    op.record("all_gather", (logits,), (parts,))
    rows = parts.elements // op.modules[op.scope].weight("weight").shape[0] // ranks
    out = op.fresh(rows * words, logits.dtype, logits.requires_grad)
    op.record("cat", (parts,), (out,), aliases=True)
    return out


def embedding(op: Ledger, name: str, ids: Tensor, features: int) -> Tensor:
    """Keeps the ids if its weight trains, whose gradient is that of all words, whoever has
    which."""
    op.scope = name
    weight, spread = op.weight(name), op.rules.spread
    gradients = ZERO
    if weight.requires_grad:
        whole = ITEMSIZE[weight.dtype] * features
        gradients = weight.bytes if spread is None else constant(spread.words * whole)
    out = op.fresh(ids.elements * features, weight.dtype, weight.requires_grad)
    op.record("embedding", (weight,), (out,), (ids,), gradients=gradients, side_inputs=(ids,))
    return summed(op, out)


def _is_cut(op: Ledger, names: tuple[str, ...]) -> bool:
    return op.rules.spread is not None and op.scope.rpartition(".")[2] in names
