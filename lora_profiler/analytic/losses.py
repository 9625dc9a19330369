"""A head that multiplies a chunk of tokens at a time: what `modeling/losses.py` holds at once, forward and backward.

Everything is counted from that code; of all chunks the first is the largest, and what lives besides is the same for each.
"""

from dataclasses import dataclass

from lora_profiler.algebra.polynomial import TOKENS, ZERO, Polynomial, constant, total
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.tensors import ITEMSIZE, Tensor
from lora_profiler.loss_paths import chunk_rows, head_of
from lora_profiler.model_spec import ModelSpec
from lora_profiler.workload import Workload

SCALAR = 4
_ROW_BYTES = 28
"""A row's numbers beside its logits, where most of them live: five in float32, and the label as an index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkedHead:
    """The head under a loss path without all logits.

    `hidden` and `weight` are as the products read them; `copied` are the bytes of a weight that autocast lowered. `rows`: tokens
    of the largest chunk. `trained`: bytes of the gradients of weight and bias.
    """

    fused: bool
    hidden: Tensor
    weight: Tensor
    rows: Polynomial
    width: int
    vocab: int
    copied: Polynomial
    trained: Polynomial

    @property
    def made(self) -> Polynomial:
        """Bytes of the gradient of the hidden state."""
        return self.hidden.bytes if self.hidden.requires_grad else ZERO

    @property
    def product_flops(self) -> Polynomial:
        """Of the head's product, for all tokens."""
        return TOKENS * (2 * self.width * self.vocab)

    @property
    def num_gradients(self) -> int:
        """Products that backward needs."""
        return self.hidden.requires_grad + self.weight.requires_grad

    @property
    def forward_flops(self) -> Polynomial:
        return self.product_flops * (1 + self.num_gradients * self.fused)

    @property
    def backward_flops(self) -> Polynomial:
        return self.product_flops * ((1 + self.num_gradients) * (not self.fused))

    def losses(self) -> Polynomial:
        """Most bytes of a chunk whose losses alone are summed up: its logits, their float32 copy, numbers of each row."""
        return self.rows * (self._logits + self._wide + _ROW_BYTES)

    def gradients(self) -> tuple[Polynomial, Polynomial]:
        """Bytes of a chunk while its logits become their gradient, and while that is multiplied."""
        turning = self.losses() + SCALAR
        multiplying = self.rows * (self._logits + self.width * ITEMSIZE[self.hidden.dtype] * self.hidden.requires_grad)
        return turning, multiplying

    @property
    def _logits(self) -> int:
        return self.vocab * ITEMSIZE[self.hidden.dtype]

    @property
    def _wide(self) -> int:
        return 0 if self.hidden.dtype == "float32" else self.vocab * ITEMSIZE["float32"]


def chunk_fact(workload: Workload) -> int | None:
    """Tokens of a chunk where they do not follow from batch and sequence as they are; None for all logits, 0 for all tokens."""
    setup, head = workload.setup, head_of(workload.model)
    if setup.loss == "plain" or head is None or not head.is_linear:
        return None
    assert head.in_features is not None and head.out_features is not None
    if head.out_features <= head.in_features:
        return 0
    return chunk_rows(setup.batch_size * setup.seq_len, head.out_features, head.in_features)


def chunked_head(op: Ledger, hidden: Tensor, model: ModelSpec, *, fused: bool, rows: int) -> ChunkedHead:
    """The head of `model` on the last hidden state, `rows` tokens at a time (0: all). Notes what it keeps for backward."""
    head = head_of(model)
    assert head is not None and head.in_features is not None and head.out_features is not None
    weight = op.weight(model.output_embedding or "")
    hidden = op.lowered(hidden)
    lowered, _ = op.lowered_weight(weight)
    if not fused:
        op.saved.update({t.storage: "" for t in (hidden, lowered) if t.storage.role != "parameter" and t.storage not in op.saved})
    biases = [op.weight(model.output_embedding or "", w.name) for w in head.weights if w.name != "weight"]
    return ChunkedHead(
        fused=fused,
        hidden=hidden,
        weight=lowered,
        rows=constant(rows) if rows else TOKENS,
        width=head.in_features,
        vocab=head.out_features,
        copied=ZERO if lowered is weight or weight.requires_grad else lowered.bytes,
        trained=total(t.bytes for t in (lowered, *biases) if t.requires_grad),
    )
