"""What ranks do around a layer that each has a part of: tensor parallelism's embedding and what
comes before and after (`tensor_parallel.py` says which layers), and context parallelism's
attention."""

from lora_profiler._common.polynomial import TOKENS, ZERO, Polynomial, S, constant
from lora_profiler.memory.analytic.ledger import ITEMSIZE, Ledger, Tensor
from lora_profiler.question.support.check import BY_COLUMNS, BY_ROWS
from lora_profiler.question.support.library_memory import batch_columns
from lora_profiler.question.workload import TrainSetup


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


# --- context parallel -----------------------------------------------------------------------------


_INDEX = 8
_KEPT_SEEDS = {"flash": 24, "cudnn": 16}
"""Bytes of seed and offset, as of one call alone."""


def ring_attention(
    op: Ledger, kernel: str, q: Tensor, k: Tensor, v: Tensor, query_heads: int, groups: int
) -> Tensor:
    """Causal attention of a rank's tokens over all, by `kernel` a rank's part at a time.

    Partial outputs and their log-sum-exps are merged in float32 (_SDPAMerger). What is kept is what
    one call keeps, but that the merged output lies by heads, so that transformers copies it.
    """
    ranks, of_keys = op.rules.ring, k.bytes + v.bytes
    wide, rows = q.elements * 4, TOKENS * query_heads * 4

    def passing(size: Polynomial) -> Tensor:
        return op.fresh(size, "uint8", False)

    gathered, own = passing(of_keys * ranks), passing(wide)
    # contiguous keys and values, and both end to end; its own part's output
    op.record("ring_own", (k, v), (gathered, own, passing(of_keys * 2 + q.bytes)))
    # of half its tokens the next output, in float32 and merged; all of them put together
    half = (q.bytes + wide * 2) // 2
    op.record("ring_merge", (gathered, own), (passing(half + wide + rows * 2),))

    out = op.fresh(q.elements, q.dtype, q.requires_grad or k.requires_grad or v.requires_grad)
    beside = (
        op.fresh(rows // 4, "float32", False),
        op.fresh(constant(_KEPT_SEEDS[kernel]), "uint8", False),
    )
    # (1 + 1/2 per other rank) of what one part takes by itself
    flops = TOKENS * S * (q.elements.evaluate(1, 1, 1) * 2 * (ranks + 1))
    op.record(
        f"ring_{kernel}",
        (q, k, v),
        (out,),
        (q, k, v, out, *beside),
        flops,
        flops // 2 * 5,
        workspace=_backward_bytes(kernel, q, of_keys, rows, ranks, groups),
        saves_output=True,
        side_inputs=beside,
    )
    return op.copy(out)


def _backward_bytes(
    kernel: str, q: Tensor, of_keys: Polynomial, rows: Polynomial, ranks: int, groups: int
) -> Polynomial:
    """The most in backward beside what it hands on, in the second call of the kernel: gradients so
    far in float32, those of keys also end to end, as sent and as received; keys and values end to
    end and gathered; gradients of the call before, and of this one, of half the tokens; what the
    kernel takes for these: a sum in float32, and as flash attention copies of two halves, and
    gradients of keys for each head of the query."""
    widened = 4 // ITEMSIZE[q.dtype]
    so_far = q.bytes * widened + of_keys * (3 * widened)
    calls = q.bytes + of_keys + q.bytes // 2 + of_keys
    taken = q.elements * 2 + rows
    if kernel == "flash":
        taken = taken + q.bytes + (q.bytes * 2 if groups > 1 else ZERO)
    handed_on = q.bytes + of_keys
    return so_far + of_keys * (1 + ranks) + calls + taken - handed_on


def has_long_positions(setup: TrainSetup) -> bool:
    """Whether a batch's position ids, one row for all sequences, are cut into more than they
    were."""
    return 1 < setup.context_parallel_size < setup.batch_size


def parted_bytes(setup: TrainSetup) -> Polynomial:
    """What is made of a micro-batch for its pass: shifted labels and position ids, whole
    (transformers 5.24 `trainer.py`, _prepare_context_parallel_inputs), and the rank's part of each
    tensor, which `context_parallel` has a name for, and of the last one twice. They were copied
    over the whole ones, whose storage stays."""
    ranks = setup.context_parallel_size
    if ranks == 1:
        return ZERO
    column = TOKENS * _INDEX
    of_one = 1 if setup.loop_state == "none" else setup.accumulation
    columns = batch_columns(setup) // of_one + 2
    positions = column if has_long_positions(setup) else S * (_INDEX * ranks)
    shifted = column * ranks + (_INDEX if setup.batch_size == 1 else 0)  # a view of one more
    return shifted + positions + column * (columns + 1)
