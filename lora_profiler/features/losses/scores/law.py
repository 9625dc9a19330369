"""What the head and the pooled scores hold at once."""

from lora_profiler._common.polynomial import TOKENS, ZERO, B
from lora_profiler.memory.analytic.ledger import ITEMSIZE, Ledger, Tensor
from lora_profiler.memory.analytic.losses import SCALAR, LossPath, head_weights
from lora_profiler.question.model_spec import ModelSpec

_COUNT = 8
"""The place of a token."""


def price(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """The head of AutoModelForSequenceClassification on all tokens, of which each row's last one
    counts: `GenericForSequenceClassification` of transformers 5.24, `modeling_layers.py`, whose
    pooled price accelerate makes float32."""
    head = head_weights(op, model)
    compute = op.rules.autocast or hidden.dtype
    size = ITEMSIZE[compute]
    read = op.lowered(hidden)
    if head.weight.requires_grad:
        op.saved.setdefault(read.storage, op.scope)
    lowered = read.bytes if read is not hidden else ZERO
    copy = head.weight.elements * (size * (head.weight.dtype != compute))
    made = TOKENS * (head.vocab * size)
    places = B * (2 * _COUNT)  # rows, and of each the last token that is no padding
    kept = places + copy * hidden.requires_grad
    of_read = read.bytes * hidden.requires_grad
    narrow = head.weight.elements * (size * head.weight.requires_grad)
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept,
        ahead=(lowered + copy + made, lowered + kept + made + TOKENS * (_COUNT + SCALAR)),
        back=(
            kept + made + B * (head.vocab * (size + SCALAR)) + 2 * SCALAR,
            copy + made + of_read + narrow + 2 * SCALAR,
            head.gradient_bytes + of_read + hidden.bytes * hidden.requires_grad,
        ),
    )
