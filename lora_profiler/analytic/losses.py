"""A head that multiplies a chunk of tokens at a time: what `modeling/losses.py` holds at once,
forward and backward.

Everything is counted from that code; of all chunks the first is the largest, and what lives besides
is the same for each.
"""

from typing import NamedTuple

from lora_profiler.algebra.polynomial import TOKENS, ZERO, B, Polynomial, constant, total
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.tensors import ITEMSIZE, Tensor
from lora_profiler.loss import CORE
from lora_profiler.model_spec import ModelSpec
from lora_profiler.support.generations import shifts_logits
from lora_profiler.support.losses import chunk_rows, head_of, loss_regime
from lora_profiler.workload import Workload

SCALAR = 4
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
