"""The loss of transformers up to 4.48, which shifts logits by a copy: `modeling/generations.py`,
line by line.

4.45 casts in the head, so that nothing is left of the 16-bit logits; 4.46 to 4.48 cast in the loss,
beside them (`loss/loss_utils.py`, ForCausalLMLoss).
"""

from typing import NamedTuple

from lora_profiler.algebra.polynomial import TOKENS, ZERO, B, Polynomial, constant, total
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.loss_paths import LossPath, head_weights
from lora_profiler.analytic.tensors import ITEMSIZE, Tensor
from lora_profiler.model_spec import ModelSpec
from lora_profiler.support.generations import casts_in_head
from lora_profiler.workload import Transformers

_SCALAR = 4
_INDEX = 8


def labelled(one_row: bool) -> Polynomial:
    """Tokens of a micro-batch that the shift leaves."""
    return TOKENS - (constant(1) if one_row else B)


class ShiftedLogits(NamedTuple):
    """What autograd keeps of the loss, all its bytes at each instant of the forward pass and of
    backward that can be the largest, and those of the logits in the output."""

    kept: Polynomial
    ahead: tuple[Polynomial, ...]
    back: tuple[Polynomial, ...]
    output: Polynomial


def shifted_logits(logits: Tensor, version: Transformers, *, one_row: bool) -> ShiftedLogits:
    """Cross-entropy of `logits` by that version. Of one row the shifted ones are a view."""
    vocab = logits.elements.evaluate(1, 1, 1)
    rows = labelled(one_row)
    whole, part = logits.elements * 4, rows * (vocab * 4)
    narrow = ZERO if logits.dtype == "float32" else logits.bytes
    left = ZERO if casts_in_head(version) else narrow
    copied, labels = (ZERO, ZERO) if one_row else (part, rows * _INDEX)
    output = whole if casts_in_head(version) or logits.dtype == "float32" else narrow
    return ShiftedLogits(
        kept=part + labels + _SCALAR,
        ahead=(whole + narrow, whole + left + copied + part + labels + 2 * _SCALAR),
        back=(part * 2 + labels + 3 * _SCALAR, part * 3 + 2 * _SCALAR),
        output=output,
    )


def overwritten_shifted_logits(op: Ledger, hidden: Tensor, model: ModelSpec, fact: int) -> LossPath:
    """Head and loss where a kernel keeps the shifted logits, with two numbers a row, and writes
    their gradient over them."""
    head = head_weights(op, model)
    weight, vocab = head.weight, head.vocab
    compute = op.rules.autocast or hidden.dtype
    size = ITEMSIZE[compute]
    rows = labelled(op.rules.one_row)
    narrow = TOKENS * (vocab * size) if size != 4 else ZERO
    whole, part = TOKENS * (vocab * 4), rows * (vocab * 4)
    copied, labels = (ZERO, ZERO) if op.rules.one_row else (part, rows * _INDEX)
    left = ZERO if casts_in_head(op.rules.transformers) else narrow
    turned = narrow if size != 4 else whole

    read = op.lowered(hidden)
    copies = total(t.elements * size for t in head.tensors if t.dtype != compute)
    if weight.requires_grad:
        op.saved.setdefault(read.storage, op.scope)
    of_read = read.bytes * hidden.requires_grad
    widened = hidden.bytes * (hidden.requires_grad and read is not hidden)
    made = total(t.bytes for t in head.trained)
    made_low = total(t.elements * size for t in head.trained)
    kept_copy = weight.elements * (size * (weight.dtype != compute and hidden.requires_grad))
    kept_logits = copied if copied != ZERO else whole
    kept = kept_logits + labels + rows * _SCALAR + _INDEX + kept_copy
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept,
        ahead=(
            copies + narrow + whole,
            copies + left + whole + copied + labels + rows * (2 * _SCALAR + 1) + 3 * _SCALAR,
        ),
        back=(
            kept_logits + kept_copy + whole + 2 * _SCALAR,
            kept_copy + whole + narrow + 2 * _SCALAR,
            kept_copy + turned + made_low + of_read + 2 * _SCALAR,
            made_low + (made if made_low != made else ZERO) + of_read + 2 * _SCALAR,
            made + of_read + widened + 2 * _SCALAR,
        ),
        tokens=TOKENS,
        again=False,
        output=narrow if left != ZERO else whole,
    )
