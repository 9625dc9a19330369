"""What torchtune's LinearCrossEntropyLoss holds at once: `stand_in.py`, line by line.

Autograd keeps the log-probabilities of all parts, in float32. Backward takes the last part first:
of each it makes the gradient of the log-probabilities, then that of the logits.
"""

from lora_profiler._common.polynomial import TOKENS, ZERO, B, constant
from lora_profiler.features.losses._torchtune import CHUNKS, Parts
from lora_profiler.memory.analytic.ledger import ITEMSIZE, Ledger, Tensor
from lora_profiler.memory.analytic.losses import INDEX, SCALAR, LossPath, head_weights
from lora_profiler.question.model_spec import ModelSpec


def price(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """torchtune's LinearCrossEntropyLoss."""
    head = head_weights(op, model)
    weight, width, vocab = head.weight, head.width, head.vocab
    parts = _labelled(regime)
    size = ITEMSIZE[hidden.dtype]
    made = head.gradient_bytes
    of_hidden = width * size * hidden.requires_grad
    log_shares, narrow = 4 * vocab, vocab * size * (size != 4)
    taken = parts.tokens * (width * size)

    places = parts.tokens * (2 * INDEX)
    kept = places + parts.tokens * log_shares + CHUNKS * SCALAR
    kept = kept + (taken if weight.requires_grad else ZERO)
    ahead, back = [], []
    for number in range(CHUNKS):
        upto = parts.shares(log_shares, 0, number + 1)
        own = parts.share(log_shares, number)
        logits = own if size == 4 else own + parts.share(narrow, number)
        scalars = (number + 3) * SCALAR
        ahead.append(TOKENS * INDEX + taken + places + upto + logits + scalars)

        rest = kept - parts.shares(log_shares, number + 1) - SCALAR * (CHUNKS - number - 1)
        rest = rest + parts.shares(of_hidden, number + 1)
        before = made if number + 1 < CHUNKS else ZERO
        back.append(rest + before + own * 2 + 2 * SCALAR)
        back.append(rest + before + parts.share(narrow, number) + 2 * SCALAR)
        product = parts.share(narrow or log_shares, number) + parts.share(of_hidden, number)
        back.append(rest - own + before + made + product + 2 * SCALAR)
        if number + 2 == CHUNKS:  # the first two are views, and added to a third
            back.append(rest - own + made * 3 + parts.share(of_hidden, number) + 2 * SCALAR)
    of_taken = parts.tokens * of_hidden
    last = parts.tokens * INDEX + 2 * SCALAR
    back.append(last + made + of_taken * 3 - parts.share(of_hidden, CHUNKS - 1))
    back.append(last + made + of_taken + hidden.bytes * hidden.requires_grad)
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept,
        ahead=tuple(ahead),
        back=tuple(back),
        tokens=parts.tokens,
        products=CHUNKS,
        losses=CHUNKS,
    )


def _labelled(regime: int) -> Parts:
    """The tokens that have a label. `regime`: as in the folder's `__init__`."""
    if regime < 0:
        whole, rest = divmod(-regime - 1, CHUNKS)
        return Parts(constant(-regime - 1), rest, whole, constant(1))
    sequences, rest = divmod(regime, CHUNKS)
    return Parts(TOKENS - B * sequences, rest, None, constant(1))
