"""What the kernel holds at once: `stand_in.py`, line by line."""

from lora_profiler._common.polynomial import TOKENS, ZERO, B, Polynomial, S
from lora_profiler.features.losses._all_logits import Logits, all_logits
from lora_profiler.memory.analytic.ledger import Ledger, Tensor
from lora_profiler.memory.analytic.losses import INDEX, SCALAR, LossPath
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.support.generations import casts_in_head, shifts_logits


def price(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """The logits, and a float32 copy of those in 16 bit, which the gradient takes over; of versions
    of transformers that shift them a copy more."""
    logits, one_row = all_logits(op, hidden, model), op.rules.one_row
    made, before, turned, end = logits.made, *logits.tail
    back = (before, turned, logits.converting, end)
    if shifts_logits(op.rules.transformers):
        return _overwritten_copy(logits, one_row, casts_in_head(op.rules.transformers), back)
    padded = ZERO if one_row else TOKENS * INDEX + B * (S + 1) * INDEX
    return LossPath(
        hidden=hidden,
        head=logits.head,
        kept=logits.wide + logits.kept_copy,
        ahead=(made + TOKENS * (INDEX + 5) + SCALAR + INDEX * one_row, made + padded),
        back=back,
        output=logits.narrow if logits.narrow != ZERO else logits.wide,
        is_overwritten=logits.narrow == ZERO,
    )


def _overwritten_copy(
    logits: Logits, one_row: bool, casts: bool, back: tuple[Polynomial, ...]
) -> LossPath:
    """Where the kernel keeps the shifted logits, a view of one row, with two numbers a row, and
    writes their gradient over them. `casts`: the head itself, which leaves nothing of 16 bit."""
    rows, whole = logits.tokens, logits.wide
    copied, labels = (ZERO, ZERO) if one_row else (logits.part, rows * INDEX)
    left = ZERO if casts else logits.narrow
    kept = (whole if one_row else copied) + logits.kept_copy
    statistics = copied + labels + rows * (2 * SCALAR + 1) + 3 * SCALAR
    return LossPath(
        hidden=logits.hidden,
        head=logits.head,
        kept=kept + labels + rows * SCALAR + INDEX,
        ahead=(logits.made, logits.copies + left + whole + statistics),
        back=(kept + whole + 2 * SCALAR, *back),
        output=left if left != ZERO else whole,
    )
