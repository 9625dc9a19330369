"""What torchtune's CEWithChunkedOutputLoss holds at once: `stand_in.py`, line by line."""

from lora_profiler._common.polynomial import TOKENS, ZERO, B
from lora_profiler.features.losses._torchtune import CHUNKS, Parts
from lora_profiler.memory.analytic.ledger import ITEMSIZE, Ledger, Tensor
from lora_profiler.memory.analytic.losses import INDEX, SCALAR, LossPath, head_weights
from lora_profiler.question.model_spec import ModelSpec


def price(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """torchtune's CEWithChunkedOutputLoss: backward turns all parts before it multiplies one."""
    head = head_weights(op, model)
    weight, width, vocab = head.weight, head.width, head.vocab
    parts = _rows(regime)
    size = ITEMSIZE[hidden.dtype]
    made = head.gradient_bytes
    of_hidden = width * size * hidden.requires_grad
    log_shares, logits = 4 * vocab, vocab * size
    narrow = logits * (size != 4)

    if weight.requires_grad and op.rules.one_row:
        op.saved.setdefault(hidden.storage, op.scope)
    # parts of several rows are copied
    of_copy = width * size * (weight.requires_grad and not op.rules.one_row)
    copied = TOKENS * of_copy
    targets = TOKENS * INDEX
    shifted = ZERO if op.rules.one_row else targets
    kept = copied + targets + TOKENS * log_shares + CHUNKS * SCALAR + INDEX
    ahead, back = [], []
    for number in range(CHUNKS):
        last = number + 1 == CHUNKS
        own = parts.share(log_shares, number)
        all_logits = TOKENS * logits + parts.share(4 * vocab * (size != 4), number)
        upto = parts.shares(log_shares, 0, number + 1)
        ahead.append(
            copied
            + shifted
            + targets
            + all_logits
            + upto
            + INDEX
            + (number + 3 + (size == 4)) * SCALAR
        )

        others = targets if op.rules.one_row else parts.shares(INDEX, 0, number)
        turning = copied + others + upto + parts.shares(logits, number + 1)
        turning = turning + (number + 3) * SCALAR
        back.append(turning + own * 2)
        back.append(turning + own + parts.share(narrow, number))

        left = parts.shares(logits + of_copy, 0, number) + 2 * SCALAR
        left = left + parts.shares(of_hidden, number)
        one = parts.share(logits + of_copy, number)
        back.append(left + one + (made if last else made * 2))
        if number + 2 == CHUNKS:  # the first two are views, and added to a third
            back.append(left + made * 3)
    of_all = TOKENS * of_hidden
    back.append(made + of_all * 3 - parts.share(of_hidden, CHUNKS - 1) + 2 * SCALAR)
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept,
        ahead=tuple(ahead),
        back=tuple(back),
        products=CHUNKS,
        losses=CHUNKS,
    )


def _rows(regime: int) -> Parts:
    """The tokens of all rows, parted as one row is."""
    if regime < 0:
        whole, rest = divmod(-regime - 1, CHUNKS)
        return Parts(TOKENS, rest, whole, B)
    return Parts(TOKENS, regime - CHUNKS, None, B)
