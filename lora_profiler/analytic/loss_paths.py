"""What other losses than the plain one hold at once, forward and backward: the terms in which a
trainer's own loss is priced (`features/losses/*/law.py`), and transformers' LabelSmoother and
shifted logits.

A path is worked out whole: everything of the loss that lives beside the activations, at each
instant that can be the largest.
"""

from typing import NamedTuple

from lora_profiler.algebra.polynomial import TOKENS, ZERO, B, Polynomial, S, constant, total
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.tensors import ITEMSIZE, Tensor
from lora_profiler.model_spec import ModelSpec
from lora_profiler.support.generations import casts_in_head
from lora_profiler.support.losses import head_of
from lora_profiler.workload import Transformers

SCALAR, INDEX = 4, 8
_COUNT = 8
"""The number of labels that the loss is divided by."""


class Head(NamedTuple):
    """The weight and bias that make the logits, and their features in and out."""

    weight: Tensor
    bias: Tensor | None
    width: int
    vocab: int

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def trained(self) -> tuple[Tensor, ...]:
        return tuple(t for t in self.tensors if t.requires_grad)

    @property
    def gradient_bytes(self) -> Polynomial:
        return total(t.bytes for t in self.trained)


class LossPath(NamedTuple):
    """The head and the loss of a trainer, for `tokens` of a micro-batch.

    `hidden` is the last hidden state. `kept` is what autograd keeps of it; `ahead` and `back` all
    its bytes at each instant of the forward pass and of backward that can be the largest. `again`:
    backward makes the logits once more. `unturned`: tokens without a gradient. `keeps_labels`:
    autograd keeps those that came with the batch too. `output` are the logits that a loop which
    holds its output has a name for; `is_overwritten` where the loss's backward works in them, so
    that `back` has them already. `products` of the head, each of a part of the tokens, and parts
    that `losses` are made of by torch's own operators; 0 where a kernel of its own makes the loss.
    `is_apart`: its largest instant comes when nothing is left of the hidden state and of what
    autocast copied.
    """

    hidden: Tensor
    head: Head
    kept: Polynomial
    ahead: tuple[Polynomial, ...]
    back: tuple[Polynomial, ...]
    tokens: Polynomial = TOKENS
    again: bool = False
    unturned: Polynomial = ZERO
    keeps_labels: bool = False
    output: Polynomial = ZERO
    is_overwritten: bool = False
    products: int = 1
    losses: int = 0
    is_apart: bool = False

    @property
    def parameter_gradients(self) -> Polynomial:
        """Bytes of the gradients of weight and bias, as the parameters have them in the end."""
        return self.head.gradient_bytes

    @property
    def num_gradients(self) -> int:
        """Products that backward needs."""
        return self.hidden.requires_grad + self.head.weight.requires_grad

    @property
    def product_flops(self) -> Polynomial:
        return self.tokens * (2 * self.head.width * self.head.vocab)

    @property
    def forward_flops(self) -> Polynomial:
        return self.product_flops

    @property
    def backward_flops(self) -> Polynomial:
        turned = self.product_flops - self.unturned * (2 * self.head.width * self.head.vocab)
        return turned * (self.again + self.num_gradients)


class Product(NamedTuple):
    """The head's product as autocast runs it: bytes of a logit; of the gradients of weight and bias
    as the product makes them and as the parameters have them; of the copies of both; of a token's
    hidden state as it is read, and as it is given."""

    size: int
    made: Polynomial
    returned: Polynomial
    copies: Polynomial
    read: int
    own: int

    @classmethod
    def of(cls, op: Ledger, hidden: Tensor, head: Head) -> "Product":
        compute = op.rules.autocast or hidden.dtype
        size = ITEMSIZE[compute]
        return cls(
            size=size,
            made=total(t.elements * size for t in head.trained),
            returned=head.gradient_bytes,
            copies=total(t.elements * size for t in head.tensors if t.dtype != compute),
            read=head.width * size,
            own=head.width * ITEMSIZE[hidden.dtype],
        )


class LossOfLogits(NamedTuple):
    """A loss that transformers makes of all logits, in the terms of `LossPath`."""

    kept: Polynomial
    ahead: tuple[Polynomial, ...]
    back: tuple[Polynomial, ...]
    output: Polynomial
    keeps_labels: bool = False


def labelled(*, one_row: bool) -> Polynomial:
    """Tokens of a micro-batch that are left without each row's last."""
    return TOKENS - (constant(1) if one_row else B)


def smoothing(logits: Tensor, *, is_converted: bool, one_row: bool, on_cpu: bool) -> LossOfLogits:
    """`trainer_pt_utils.LabelSmoother` of transformers 5.24, line by line: logits shifted (a copy
    but of one row), their log-softmax and its negative, which are kept. `is_converted`: accelerate
    made the logits float32 before. A CPU copies 16-bit numbers to sum them up in float32."""
    dtype = "float32" if is_converted else logits.dtype
    size = ITEMSIZE[dtype]
    tokens = labelled(one_row=one_row)
    vocab = logits.elements.evaluate(1, 1, 1)
    whole, shifted = logits.elements * size, tokens * (vocab * size)
    copied = ZERO if one_row else shifted
    ahead = whole + copied + shifted * 2 + tokens * (1 + 8 + size + 4) + _COUNT
    ahead = ahead + (tokens * 2 if size == 2 else constant(_COUNT))
    narrow = logits.bytes if dtype != logits.dtype else ZERO
    # both gradients of the negative meet: the gather's zeros, and the sum's, expanded, or in 16 bit
    # a copy as large as all
    met = shifted + tokens * (8 + size) + (tokens * 4 if size == 4 else shifted)
    return LossOfLogits(
        kept=shifted * 2 + tokens * 9 + 2 * _COUNT,
        ahead=(
            ahead,
            whole + narrow,
            whole + copied + shifted * (4 if on_cpu and size == 2 else 2) + tokens * (13 + size),
        ),
        back=tuple(
            size + 2 * SCALAR for size in (shifted * 2 + met, whole + shifted, whole + narrow)
        ),
        output=whole,
    )


def cross_entropy(logits: Tensor, *, one_row: bool, is_shifted: bool = False) -> LossOfLogits:
    """transformers' own, of float32 logits and labels that are shifted by a copy, but of one row,
    or `is_shifted` already in the batch."""
    wide = logits.elements * 4
    labels = ZERO if is_shifted else TOKENS * INDEX + (INDEX if one_row else 0)
    padded = ZERO if one_row or is_shifted else B * (S + 1) * INDEX
    copy = wide if ITEMSIZE[logits.dtype] != 4 else ZERO
    return LossOfLogits(
        kept=wide + labels + SCALAR,
        ahead=(logits.bytes + copy + wide + labels + padded + 2 * SCALAR,),
        back=(wide * 3 + 2 * SCALAR,),
        output=logits.bytes,
    )


def shifted_logits(logits: Tensor, version: Transformers, *, one_row: bool) -> LossOfLogits:
    """Cross-entropy of `logits` by versions up to 4.48, which shift them by a copy, but of one row:
    `modeling/generations.py`, line by line. 4.45 casts in the head, so that nothing is left of the
    16-bit logits; 4.46 to 4.48 cast in the loss, beside them (`loss/loss_utils.py`,
    ForCausalLMLoss)."""
    vocab = logits.elements.evaluate(1, 1, 1)
    rows = labelled(one_row=one_row)
    whole, part = logits.elements * 4, rows * (vocab * 4)
    narrow = ZERO if logits.dtype == "float32" else logits.bytes
    left = ZERO if casts_in_head(version) else narrow
    copied, labels = (ZERO, ZERO) if one_row else (part, rows * INDEX)
    return LossOfLogits(
        kept=part + labels + SCALAR,
        ahead=(whole + narrow, whole + left + copied + part + labels + 2 * SCALAR),
        back=(part * 2 + labels + 3 * SCALAR, part * 3 + 2 * SCALAR),
        output=narrow if left != ZERO else whole,
        keeps_labels=one_row,
    )


def head_weights(op: Ledger, model: ModelSpec) -> Head:
    head = head_of(model)
    assert head is not None and head.in_features is not None and head.out_features is not None
    op.scope = model.output_embedding or ""
    bias = op.weight(op.scope, "bias") if op.has(op.scope, "bias") else None
    return Head(op.weight(op.scope), bias, head.in_features, head.out_features)
