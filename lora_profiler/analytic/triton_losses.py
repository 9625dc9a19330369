"""What the losses of Triton's kernels hold at once: `modeling/triton_losses.py`, line by line."""

from lora_profiler.algebra.polynomial import TOKENS, ZERO, B, S, total
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.loss_paths import LossPath, head_weights
from lora_profiler.analytic.tensors import ITEMSIZE, Tensor
from lora_profiler.model_spec import ModelSpec

_SCALAR = 4
_INDEX = 8


def cut_cross_entropy(op: Ledger, hidden: Tensor, model: ModelSpec, fact: int) -> LossPath:
    """No logits: sums of each token, the mean logit of each word and, in backward, the words'
    order. `fact`: sequences of a row."""
    head = head_weights(op, model)
    weight, bias, vocab = head.weight, head.bias, head.vocab
    tokens = TOKENS - B * fact
    made = total(t.bytes for t in head.trained)
    read = hidden
    if hidden.dtype == "float32":
        read = op.fresh(hidden.elements, weight.dtype, hidden.requires_grad)
    kept = tokens * (_INDEX + _SCALAR) + vocab * 4
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
        ahead=(kept + tokens * _SCALAR + _SCALAR,),
        back=(
            back + 3 * _SCALAR,
            kept + vocab * 12 + 3 * _SCALAR,
            made + read.bytes + widened + 2 * _SCALAR,
        ),
        tokens=tokens,
        again=True,
        keeps_labels=True,
    )


def overwritten_logits(op: Ledger, hidden: Tensor, model: ModelSpec, fact: int) -> LossPath:
    """The logits, and a float32 copy of those in 16 bit, which the gradient takes over."""
    head = head_weights(op, model)
    weight, vocab = head.weight, head.vocab
    compute = op.rules.autocast or hidden.dtype
    size = ITEMSIZE[compute]
    logits, wide = TOKENS * (vocab * size), TOKENS * (vocab * 4)
    narrow, turned = (logits, logits) if size != 4 else (ZERO, wide)
    made = total(t.bytes for t in head.trained)
    made_low = total(t.elements * size for t in head.trained)

    read = op.lowered(hidden)
    copies = total(t.elements * size for t in head.tensors if t.dtype != compute)
    if weight.requires_grad:
        op.saved.setdefault(read.storage, op.scope)
    of_read = read.bytes * hidden.requires_grad
    widened = hidden.bytes * (hidden.requires_grad and read is not hidden)
    kept_copy = weight.elements * (size * (weight.dtype != compute and hidden.requires_grad))
    kept = wide + kept_copy
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept,
        ahead=(
            copies + narrow + wide + TOKENS * (_INDEX + 5) + _SCALAR + _INDEX * op.rules.one_row,
            copies
            + narrow
            + wide
            + (ZERO if op.rules.one_row else TOKENS * _INDEX + B * (S + 1) * _INDEX),
        ),
        back=(
            kept + narrow + 2 * _SCALAR,
            turned + kept_copy + made_low + of_read + 2 * _SCALAR,
            made_low + (made if made_low != made else ZERO) + of_read + 2 * _SCALAR,
            made + of_read + widened + 2 * _SCALAR,
        ),
        tokens=TOKENS,
        again=False,
        output=logits,
        is_overwritten=size == 4,
    )
