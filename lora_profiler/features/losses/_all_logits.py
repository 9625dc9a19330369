"""What losses hold at once that a loop makes of all logits in float32, as accelerate hands them on:
they have a name until the metrics are made. A reference model runs beside them and beside what
autograd kept of the policy. LLaMA-Factory 0.9.6: `train/dpo/trainer.py` (concatenated_forward,
get_batch_loss_metrics), `train/trainer_utils.py` (get_batch_logps).
"""

from typing import NamedTuple

from lora_profiler._common.polynomial import TOKENS, ZERO, B, Polynomial
from lora_profiler.memory.analytic.ledger import Ledger, Tensor
from lora_profiler.memory.analytic.losses import (
    INDEX,
    SCALAR,
    Head,
    LossPath,
    Product,
    head_weights,
    labelled,
)
from lora_profiler.question.model_spec import ModelSpec

_COLUMNS = 3
"""Ids, mask and labels, which each pass of LLaMA-Factory has copies of (`nested_detach`)."""


class Logits(NamedTuple):
    """Bytes of all logits of a micro-batch: `narrow` as the head makes them where that is not in
    float32, `wide` in float32 and `part` of them without each row's last, of `tokens`. `copies` are
    autocast's of the head, `kept_copy` what stays of them, `lasting` what lives on until backward
    is over. `tail` are the last instants of that, before whose last the head's gradients are
    `converting`."""

    hidden: Tensor
    head: Head
    tokens: Polynomial
    narrow: Polynomial
    wide: Polynomial
    part: Polynomial
    copies: Polynomial
    kept_copy: Polynomial
    lasting: Polynomial
    tail: tuple[Polynomial, ...]
    converting: Polynomial

    @property
    def made(self) -> Polynomial:
        """While they are made."""
        return self.copies + self.narrow + self.wide

    @property
    def placed(self) -> Polynomial:
        """In backward, while the gradient of a part is laid into that of all."""
        return self.kept_copy + self.lasting + self.wide + self.part

    @property
    def places(self) -> Polynomial:
        """Labels as places, and which there are."""
        return self.tokens * (INDEX + 1)

    def path(self, kept: Polynomial, ahead: tuple[Polynomial, ...], *back: Polynomial) -> LossPath:
        """A loss of the loop's own; `back` are the instants of backward before the last ones."""
        return LossPath(
            hidden=self.hidden,
            head=self.head,
            kept=kept,
            ahead=ahead,
            back=(*(size + 2 * SCALAR for size in back), *self.tail),
            is_apart=True,
        )


def all_logits(op: Ledger, hidden: Tensor, model: ModelSpec, lasting: Polynomial = ZERO) -> Logits:
    """Notes what the head keeps."""
    head = head_weights(op, model)
    weight, vocab = head.weight, head.vocab
    product = Product.of(op, hidden, head)
    size, made_low = product.size, product.made
    tokens = labelled(one_row=op.rules.one_row)
    wide = TOKENS * (vocab * 4)
    narrow = TOKENS * (vocab * size) if size != 4 else ZERO
    read = op.lowered(hidden)
    if weight.requires_grad:
        op.saved.setdefault(read.storage, op.scope)
    of_read = read.bytes * hidden.requires_grad
    widened = hidden.bytes * (hidden.requires_grad and read is not hidden)
    is_copied = weight.dtype != (op.rules.autocast or hidden.dtype)
    kept_copy = weight.elements * (size * (is_copied and hidden.requires_grad))
    ends = lasting + 2 * SCALAR
    converted = product.returned if made_low != product.returned else ZERO
    return Logits(
        hidden=hidden,
        head=head,
        tokens=tokens,
        narrow=narrow,
        wide=wide,
        part=tokens * (vocab * 4),
        copies=product.copies,
        kept_copy=kept_copy,
        lasting=lasting,
        tail=(
            kept_copy + wide + narrow + ends,
            kept_copy + (narrow if size != 4 else wide) + made_low + of_read + ends,
            product.returned + of_read + widened + ends,
        ),
        converting=made_low + converted + of_read + ends,
    )


def log_probabilities(logits: Logits) -> LossPath:
    """Log-softmax of all but a row's last logits, which are copied for it."""
    rows = B * INDEX  # how many of a row there are
    kept = logits.part + logits.places + rows + logits.kept_copy + logits.lasting
    made = logits.kept_copy + logits.wide + logits.part * 2 + logits.places
    return logits.path(kept, (logits.made, made), kept + logits.part * 2, logits.placed)


def with_reference(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """The same, and then of the reference."""
    embeds = any(m.kind == "Embedding" and name in op.trainable for name, m in model.modules())
    ids = TOKENS * (INDEX * embeds)  # a copy, which a trained embedding keeps
    logits = all_logits(op, hidden, model, ids)
    path = log_probabilities(logits)
    inputs = TOKENS * (_COLUMNS * INDEX)
    means = B * SCALAR + B * (SCALAR // 2)  # sums of rows, and the mean of each pair's chosen one
    before = path.kept + logits.wide + means
    others = (
        before + logits.narrow + logits.wide,
        before + logits.wide + logits.part * 2 + logits.places,
    )
    return path._replace(ahead=tuple(size + inputs for size in (*path.ahead, *others)))


def weighted(logits: Logits, more: Polynomial) -> LossPath:
    """Log-softmax of all logits, and what the loss has of each token while they are there: labels
    with one more a row, losses, and `more`."""
    token_bytes = TOKENS * (INDEX + SCALAR) + B * INDEX + logits.tokens * SCALAR + more
    # labels as places, which count, and their weights
    weights = TOKENS * (INDEX + 1) + logits.tokens * SCALAR + SCALAR
    kept = logits.wide + weights + logits.kept_copy
    ahead = (logits.made, logits.wide + kept + token_bytes)
    return logits.path(kept, ahead, logits.wide * 3 + logits.kept_copy, kept + logits.wide)
