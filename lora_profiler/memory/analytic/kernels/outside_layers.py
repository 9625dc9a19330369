"""Kernels around the layers, which no program of a family lists: position ids, rotary tables,
attention masks, and the loss.

transformers `masking_utils.py`, `modeling_rope_utils.py`, `loss/loss_utils.py` (ForCausalLMLoss).
"""

from collections.abc import Iterable

from lora_profiler.memory.analytic.kernels.launches import Launches
from lora_profiler.memory.analytic.ledger import ITEMSIZE, Tensor

_INDEX_BYTES = 8


def count_up(launches: Launches) -> None:
    """0, 1, 2 ... plus how many tokens came before, which are none."""
    ids = _INDEX_BYTES * launches.at.seq
    launches.memory("arange", 0, ids)
    launches.memory("add", ids, ids)


def count_ones(launches: Launches) -> None:
    """Positions out of a mask of ones, as OPT makes them: summed up in float32, one less, as
    indices, two more. A mask that comes with the batch holds indices already."""
    ids = _INDEX_BYTES * launches.tokens
    wide = ids if launches.padded else ids // 2
    if not launches.padded:
        launches.memory("ones", 0, wide)
    for op, read in (("cumsum", wide), ("mul", 2 * wide), ("sub", wide)):
        launches.memory(op, read, wide)
    if not launches.padded:
        launches.memory("_to_copy", wide, ids)
    launches.memory("add", ids, ids)


def find_sequences(launches: Launches) -> None:
    """The number of each token's sequence in its row: where a position is not the one before it and
    one, another begins."""
    row, ids = _INDEX_BYTES * launches.rows, _INDEX_BYTES * launches.tokens
    launches.memory("sub", row, row)
    launches.memory("cat", row + ids, row + ids)
    launches.memory("sub", 2 * ids, ids)
    launches.memory("ne", ids, launches.tokens)
    launches.memory("cumsum", launches.tokens, ids)


def rotary_tables(features: int, dtype: str, launches: Launches) -> None:
    """cos and sin, (1, s, features), of packed rows (b, s, features), of positions times
    frequencies: computed in float32, each angle for two features."""
    positions = launches.tokens if launches.packed else launches.at.seq
    narrow, table = 4 * positions * (features // 2), 4 * positions * features
    launches.memory("_to_copy", _INDEX_BYTES * positions, 4 * positions)
    launches.memory("mul", 4 * positions + 4 * (features // 2), narrow)
    launches.memory("cat", narrow, table)
    for function in ("cos", "sin"):
        launches.memory(function, table, table)
        launches.memory("mul", table, table)  # by the scaling of attention, 1 as a rule
        if dtype != "float32":
            launches.memory("_to_copy", table, positions * features * ITEMSIZE[dtype])


def mask(window: int | None, additive: str | None, launches: Launches) -> None:
    """Who may look at whom, (1, 1, s, s): earlier tokens, with a `window` only near ones, of packed
    rows those of the same sequence, of padded ones no padding, (b, 1, s, s). Eager attention takes
    it as zeros and minus infinity in the dtype `additive`, one for each sample.
    """
    batch, seq = launches.at.batch, launches.at.seq
    rows = launches.rows if launches.packed else 1
    ids, pairs = _INDEX_BYTES * seq * rows, seq * seq * rows
    if launches.padded:
        launches.memory("_to_copy", _INDEX_BYTES * launches.tokens, launches.tokens)
    launches.memory("arange", 0, _INDEX_BYTES * batch)
    launches.memory("arange", 0, _INDEX_BYTES)
    for _ in range(2):
        count_up(launches)
    if launches.packed:
        launches.memory("new_ones", 0, 1)
        launches.memory("bitwise_and", 1 + pairs, pairs)
        launches.memory("eq", 2 * ids, pairs)
        launches.memory("bitwise_and", 2 * pairs, pairs)
        for _ in range(
            4
        ):  # positions, and numbers of sequences, of those who look and of those who are looked at
            launches.memory("index", ids + _INDEX_BYTES * (batch + seq), ids)
    if window is not None:
        launches.memory("new_ones", 0, 1)
        launches.memory("sub", ids, ids)
        launches.memory("gt", 2 * ids, pairs)
        launches.memory("bitwise_and", 1 + pairs, pairs)
    launches.memory("le", 2 * ids, pairs)
    if window is not None:
        launches.memory("bitwise_and", 2 * pairs, pairs)
    if launches.padded:
        launches.memory("new_ones", 0, 1)
        launches.memory("bitwise_and", 1 + pairs, pairs)
        of_batch = _INDEX_BYTES * (batch + seq) + launches.tokens
        launches.memory("index", of_batch, launches.tokens)
        launches.memory("bitwise_and", pairs + launches.tokens, batch * pairs)
        pairs = batch * pairs
    if additive is not None:
        one = ITEMSIZE[additive]
        launches.memory("zeros", 0, one)
        launches.memory("scalar_tensor", 0, one)
        launches.memory("where", pairs + 2 * one, one * batch * seq * seq)


def shifted_labels(launches: Launches) -> None:
    """Labels shifted by one: padded, and without the first, which is a copy where there are several
    samples."""
    labels = _INDEX_BYTES * launches.tokens
    padded = labels + _INDEX_BYTES * launches.rows
    launches.memory("constant_pad_nd", labels, padded + labels)
    if launches.rows > 1:
        launches.memory("clone", labels, labels)


def loss_forward(logits: Tensor, launches: Launches) -> None:
    """Logits in float32, labels shifted by one, log-softmax, and one log-probability a token."""
    tokens = launches.tokens
    size, labels = launches.bytes(logits, "float32"), _INDEX_BYTES * tokens
    if logits.dtype != "float32":
        launches.memory("_to_copy", launches.bytes(logits), size)
    shifted_labels(launches)
    launches.memory("_log_softmax", size, size)
    launches.memory("nll_loss_forward", labels + 4 * tokens, 8)
    if launches.accumulates:
        launches.memory("div", 4, 4)


def loss_backward(logits: Tensor, launches: Launches) -> None:
    tokens = launches.tokens
    size, labels = launches.bytes(logits, "float32"), _INDEX_BYTES * tokens
    if launches.accumulates:
        launches.memory("div", 4, 4)
    launches.memory("nll_loss_backward", 4 + labels, size + 4 * tokens)
    launches.memory("_log_softmax_backward_data", 2 * size, size)
    if logits.dtype != "float32":
        launches.memory("_to_copy", size, launches.bytes(logits))


def windows_with_masks(windows: Iterable[int | None], always: bool, seq: int) -> list[int | None]:
    """Those for which a mask is made: all for eager attention, packed rows and padding (`always`),
    else only a window that is filled."""
    return [
        w
        for w in sorted(set(windows), key=lambda w: w or 0)
        if always or (w is not None and seq >= w)
    ]
