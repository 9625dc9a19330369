"""What the losses of Triton's kernels hold at once: `modeling/triton_losses.py`, line by line."""

from lora_profiler.algebra.polynomial import TOKENS, ZERO, B, Polynomial, S
from lora_profiler.analytic.all_logits import Logits, all_logits
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.loss_paths import INDEX, SCALAR, LossPath, head_weights
from lora_profiler.analytic.tensors import Tensor
from lora_profiler.model_spec import ModelSpec
from lora_profiler.support.generations import casts_in_head, shifts_logits


def cut_cross_entropy(op: Ledger, hidden: Tensor, model: ModelSpec, fact: int) -> LossPath:
    """No logits: sums of each token, the mean logit of each word and, in backward, the words'
    order. `fact`: sequences of a row."""
    head = head_weights(op, model)
    weight, bias, vocab = head.weight, head.bias, head.vocab
    tokens = TOKENS - B * fact
    made = head.gradient_bytes
    read = hidden
    if hidden.dtype == "float32":
        read = op.fresh(hidden.elements, weight.dtype, hidden.requires_grad)
    kept = tokens * (INDEX + SCALAR) + vocab * 4
    op.saved.setdefault(read.storage, op.scope)
    if bias is not None and bias.requires_grad:
        made = made + bias.elements * 4
    order = vocab * 4
    back = kept + order + made + read.bytes * hidden.requires_grad
    widened = hidden.bytes if read is not hidden else ZERO
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept,
        ahead=(kept + tokens * SCALAR + SCALAR,),
        back=(
            back + 3 * SCALAR,
            kept + vocab * 12 + 3 * SCALAR,
            made + read.bytes + widened + 2 * SCALAR,
        ),
        tokens=tokens,
        again=True,
        keeps_labels=True,
    )


def overwritten_logits(op: Ledger, hidden: Tensor, model: ModelSpec, fact: int) -> LossPath:
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
    told = copied + labels + rows * (2 * SCALAR + 1) + 3 * SCALAR
    return LossPath(
        hidden=logits.hidden,
        head=logits.head,
        kept=kept + labels + rows * SCALAR + INDEX,
        ahead=(logits.made, logits.copies + left + whole + told),
        back=(kept + whole + 2 * SCALAR, *back),
        output=left if left != ZERO else whole,
    )
