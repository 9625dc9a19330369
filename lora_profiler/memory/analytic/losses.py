"""What losses hold at once, forward and backward: a head that multiplies a chunk of tokens at a
time, which mirrors `modeling/losses.py`; the terms in which a trainer's own loss is priced
(`features/losses/*/law.py`); and transformers' LabelSmoother and shifted logits.

Everything is counted from that code; of all chunks the first is the largest, and what lives besides
is the same for each.
"""

from typing import NamedTuple

from lora_profiler._common.polynomial import TOKENS, ZERO, B, Polynomial, S, constant, total
from lora_profiler.memory.analytic.ledger import ITEMSIZE, Ledger, Tensor
from lora_profiler.question.loss import CORE
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.support.generations import casts_in_head, shifts_logits
from lora_profiler.question.support.losses import chunk_rows, head_of, loss_regime
from lora_profiler.question.workload import Transformers, Workload

SCALAR, INDEX = 4, 8
_ROW_BYTES = 28
"""A row's numbers beside its logits, where most of them live: five in float32, and the label as an
index."""


class ChunkedHead(NamedTuple):
    """The head under a loss path without all logits.

    `hidden` and `parameters`, the weight first, are as the products read them: lowered under
    autocast, from the `weights`. `rows`: tokens of the largest chunk, of all `tokens`,
    whose hidden states `is_copied` says are a copy, as of versions that shift them, not labels.
    """

    fused: bool
    hidden: Tensor
    weights: tuple[Tensor, ...]
    parameters: tuple[Tensor, ...]
    rows: Polynomial
    width: int
    vocab: int
    tokens: Polynomial = TOKENS
    is_copied: bool = False

    @property
    def lowered(self) -> bool:
        return self.parameters != self.weights

    @property
    def copied(self) -> Polynomial:
        """Bytes of the lowered parameters."""
        return total(t.bytes for t in self.parameters) if self.lowered else ZERO

    @property
    def trained(self) -> Polynomial:
        """Bytes of the gradients of weight and bias that the chunks add up to."""
        return total(t.bytes for t in self.parameters if t.requires_grad)

    @property
    def parameter_gradients(self) -> Polynomial:
        """The same as the parameters have them in the end."""
        return total(t.bytes for t in self.weights if t.requires_grad)

    @property
    def made(self) -> Polynomial:
        """Bytes of the gradient of the hidden state."""
        return self.shifted if self.hidden.requires_grad else ZERO

    @property
    def shifted(self) -> Polynomial:
        """Bytes of the hidden states of the tokens that are multiplied."""
        return self.tokens * (self.width * ITEMSIZE[self.hidden.dtype])

    @property
    def product_flops(self) -> Polynomial:
        """Of the head's product, for all tokens."""
        return self.tokens * (2 * self.width * self.vocab)

    @property
    def num_gradients(self) -> int:
        """Products that backward needs."""
        return self.hidden.requires_grad + self.parameters[0].requires_grad

    @property
    def forward_flops(self) -> Polynomial:
        return self.product_flops * (1 + self.num_gradients * self.fused)

    @property
    def backward_flops(self) -> Polynomial:
        return self.product_flops * ((1 + self.num_gradients) * (not self.fused))

    def losses(self) -> Polynomial:
        """Most bytes of a chunk whose losses alone are summed up: its logits, their float32 copy,
        numbers of each row."""
        return self.rows * (self._logits + self._wide + _ROW_BYTES)

    def gradients(self) -> tuple[Polynomial, Polynomial]:
        """Bytes of a chunk while its logits become their gradient, and while that is multiplied."""
        turning = self.losses() + SCALAR
        multiplying = self.rows * (
            self._logits + self.width * ITEMSIZE[self.hidden.dtype] * self.hidden.requires_grad
        )
        return turning, multiplying

    @property
    def _logits(self) -> int:
        return self.vocab * ITEMSIZE[self.hidden.dtype]

    @property
    def _wide(self) -> int:
        return 0 if self.hidden.dtype == "float32" else self.vocab * ITEMSIZE["float32"]


def chunk_regime(workload: Workload) -> int | None:
    """Tokens of a chunk where they do not follow from batch and sequence as they are; None for all
    logits, 0 for all tokens. Of a trainer's own loss what flips its rules."""
    setup, head = workload.setup, head_of(workload.model)
    if setup.loss == "plain" or head is None or not head.is_linear:
        return None
    if setup.loss not in CORE:
        return int(loss_regime(workload, head, setup.batch_size, setup.seq_len))
    assert head.in_features is not None and head.out_features is not None
    if head.out_features <= head.in_features:
        return 0
    return chunk_rows(setup.batch_size * setup.seq_len, head.out_features, head.in_features)


def chunked_head(
    op: Ledger, hidden: Tensor, model: ModelSpec, *, fused: bool, rows: int
) -> ChunkedHead:
    """The head of `model` on the last hidden state, `rows` tokens at a time (0: all). Notes what it
    keeps for backward."""
    head = head_of(model)
    assert head is not None and head.in_features is not None and head.out_features is not None
    name, op.scope = model.output_embedding or "", ""
    shifts = fused and shifts_logits(op.rules.transformers)
    hidden = op.lowered(hidden)
    weights = tuple(
        op.weight(name, weight) for weight in sorted((w.name for w in head.weights), reverse=True)
    )
    parameters = weights
    if op.rules.autocast and weights[0].dtype != hidden.dtype:
        parameters = tuple(op.fresh(t.elements, hidden.dtype, t.requires_grad) for t in weights)
    if not fused:
        for tensor in (hidden, *parameters):
            if tensor.storage.role != "parameter":
                op.saved.setdefault(tensor.storage, name)
    return ChunkedHead(
        fused=fused,
        hidden=hidden,
        weights=weights,
        parameters=parameters,
        rows=constant(rows) if rows else TOKENS,
        width=head.in_features,
        vocab=head.out_features,
        tokens=TOKENS - (constant(1) if op.rules.one_row else B) if shifts else TOKENS,
        is_copied=shifts and not op.rules.one_row,
    )


# --- loss paths -----------------------------------------------------------------------------------


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
