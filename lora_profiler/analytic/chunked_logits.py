"""What the losses of torchtune and LitGPT hold at once, whose logits are made, or turned into
losses, a part of the tokens at a time: `modeling/chunked_logits.py`, line by line.

Autograd keeps the log-probabilities of all parts, in float32. Backward takes the last part first:
of each it makes the gradient of the log-probabilities, then that of the logits.
"""

from typing import NamedTuple

from lora_profiler.algebra.polynomial import TOKENS, ZERO, B, Polynomial, constant, total
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.loss_paths import INDEX, SCALAR, LossPath, Product, head_weights
from lora_profiler.analytic.matmuls import unpacked_bytes
from lora_profiler.analytic.tensors import ITEMSIZE, Tensor
from lora_profiler.model_spec import ModelSpec
from lora_profiler.support.losses import LITGPT_ROWS, TORCHTUNE_CHUNKS


class _Parts(NamedTuple):
    """`tokens` parted in eight: the first `rest` parts have one more than `whole`, None where that
    is no number; `unit` tokens of it are one row of each sequence."""

    tokens: Polynomial
    rest: int
    whole: int | None
    unit: Polynomial

    def share(self, size: int, number: int) -> Polynomial:
        """Bytes of part `number` at `size` bytes a token."""
        more = self.unit * (size * (number < self.rest))
        if self.whole is not None:
            return self.unit * (self.whole * size) + more
        return (self.tokens - self.unit * self.rest) * size // TORCHTUNE_CHUNKS + more

    def shares(self, size: int, first: int = 0, after: int = TORCHTUNE_CHUNKS) -> Polynomial:
        return total(self.share(size, number) for number in range(first, after))


def _labelled(regime: int) -> _Parts:
    """The tokens that have a label. `regime`: `support.losses.loss_regime`."""
    if regime < 0:
        whole, rest = divmod(-regime - 1, TORCHTUNE_CHUNKS)
        return _Parts(constant(-regime - 1), rest, whole, constant(1))
    sequences, rest = divmod(regime, TORCHTUNE_CHUNKS)
    return _Parts(TOKENS - B * sequences, rest, None, constant(1))


def _rows(regime: int) -> _Parts:
    """The tokens of all rows, parted as one row is."""
    if regime < 0:
        whole, rest = divmod(-regime - 1, TORCHTUNE_CHUNKS)
        return _Parts(TOKENS, rest, whole, B)
    return _Parts(TOKENS, regime - TORCHTUNE_CHUNKS, None, B)


def linear_cross_entropy(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
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
    kept = places + parts.tokens * log_shares + TORCHTUNE_CHUNKS * SCALAR
    kept = kept + (taken if weight.requires_grad else ZERO)
    ahead, back = [], []
    for number in range(TORCHTUNE_CHUNKS):
        upto = parts.shares(log_shares, 0, number + 1)
        own = parts.share(log_shares, number)
        logits = own if size == 4 else own + parts.share(narrow, number)
        scalars = (number + 3) * SCALAR
        ahead.append(TOKENS * INDEX + taken + places + upto + logits + scalars)

        rest = (
            kept - parts.shares(log_shares, number + 1) - SCALAR * (TORCHTUNE_CHUNKS - number - 1)
        )
        rest = rest + parts.shares(of_hidden, number + 1)
        before = made if number + 1 < TORCHTUNE_CHUNKS else ZERO
        back.append(rest + before + own * 2 + 2 * SCALAR)
        back.append(rest + before + parts.share(narrow, number) + 2 * SCALAR)
        product = parts.share(narrow or log_shares, number) + parts.share(of_hidden, number)
        back.append(rest - own + before + made + product + 2 * SCALAR)
        if number + 2 == TORCHTUNE_CHUNKS:  # the first two are views, and added to a third
            back.append(rest - own + made * 3 + parts.share(of_hidden, number) + 2 * SCALAR)
    of_taken = parts.tokens * of_hidden
    last = parts.tokens * INDEX + 2 * SCALAR
    back.append(last + made + of_taken * 3 - parts.share(of_hidden, TORCHTUNE_CHUNKS - 1))
    back.append(last + made + of_taken + hidden.bytes * hidden.requires_grad)
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept,
        ahead=tuple(ahead),
        back=tuple(back),
        tokens=parts.tokens,
        products=TORCHTUNE_CHUNKS,
        losses=TORCHTUNE_CHUNKS,
    )


def chunked_output_loss(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
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
    kept = copied + targets + TOKENS * log_shares + TORCHTUNE_CHUNKS * SCALAR + INDEX
    ahead, back = [], []
    for number in range(TORCHTUNE_CHUNKS):
        last = number + 1 == TORCHTUNE_CHUNKS
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
        if number + 2 == TORCHTUNE_CHUNKS:  # the first two are views, and added to a third
            back.append(left + made * 3)
    of_all = TOKENS * of_hidden
    back.append(made + of_all * 3 - parts.share(of_hidden, TORCHTUNE_CHUNKS - 1) + 2 * SCALAR)
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept,
        ahead=tuple(ahead),
        back=tuple(back),
        products=TORCHTUNE_CHUNKS,
        losses=TORCHTUNE_CHUNKS,
    )


def litgpt_loss(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """LitGPT's chunked_cross_entropy. `regime`: `support.losses.loss_regime`."""
    return (_litgpt_full if regime < 0 else _litgpt_lora)(op, hidden, model, abs(regime))


def _counted(op: Ledger, tokens: Polynomial) -> Polynomial:
    """What lives beyond the losses laid together while the labels are counted: a mask, of which a
    CPU makes integers to sum them up."""
    return tokens * (INDEX + 1 - SCALAR) - SCALAR if op.rules.device == "cpu" else ZERO


def _litgpt_full(op: Ledger, hidden: Tensor, model: ModelSpec, parts: int) -> LossPath:
    """All logits at once; the gradients of the parts are laid together before they go on."""
    head = head_weights(op, model)
    vocab = head.vocab
    product = Product.of(op, hidden, head)
    rows = constant(1) if op.rules.one_row else B
    tokens = TOKENS - rows
    wide, narrow = TOKENS * (4 * vocab), TOKENS * (vocab * product.size)
    log_shares = tokens * (4 * vocab)
    several = not op.rules.one_row

    copies = product.copies
    if product.read == product.own:
        op.saved.setdefault(hidden.storage, op.scope)
    else:
        copies = copies + TOKENS * product.read
    targets = tokens * (INDEX * several)
    kept = copies + log_shares + targets + parts * SCALAR + INDEX
    laid = wide + log_shares * several
    end = laid + kept + tokens * (2 * SCALAR) + SCALAR
    part = constant(4 * vocab * LITGPT_ROWS) if parts > 1 else log_shares
    last = log_shares - (parts - 1) * LITGPT_ROWS * 4 * vocab
    of_read, of_own = TOKENS * product.read, TOKENS * product.own
    scalars = 2 * SCALAR
    turning = copies + log_shares + scalars
    waiting = targets + (parts - 1) * SCALAR  # what the losses of the other parts keep beside
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept,
        ahead=(
            copies + narrow + wide if product.size != 4 else copies + wide,
            end,
            end + _counted(op, tokens),
        ),
        back=(
            turning + last * 2 + waiting * (parts > 1),
            turning + part * 2 + (waiting - SCALAR) * (parts > 2),
            copies + log_shares * 2 + scalars,
            copies + log_shares + wide + scalars,
            copies + wide + (narrow if product.size != 4 else ZERO) + scalars,
            copies + (narrow if product.size != 4 else wide) + product.made + of_read + scalars,
            product.made + product.returned * (product.size != 4) + of_read + scalars,
            product.returned + of_read + of_own * (product.read != product.own) + scalars,
        ),
        losses=parts,
        keeps_labels=not several,
        output=wide,
    )


def _litgpt_lora(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """The head takes a part of each row at a time. Autocast copies a frozen weight for each. A last
    part of one token has no label, and no gradient."""
    head = head_weights(op, model)
    weight, vocab = head.weight, head.vocab
    product = Product.of(op, hidden, head)
    several = not op.rules.one_row
    rows = B if several else constant(1)
    parts, is_empty = divmod(regime, 2)
    tokens, logit, wide = TOKENS - rows, vocab * product.size, 4 * vocab
    is_wide, trains, asks = product.size == 4, weight.requires_grad, hidden.requires_grad
    narrow = 0 if is_wide else logit

    copy = product.copies
    copies = copy * (1 if trains else parts)
    lowered = product.read != product.own
    inputs = ZERO
    if trains and not (several and parts > 1) and not lowered:
        op.saved.setdefault(hidden.storage, op.scope)
    elif trains:
        inputs = TOKENS * product.read
    targets = tokens * (INDEX * several)
    kept = copies + inputs + tokens * wide + targets + (parts - is_empty) * SCALAR + INDEX
    cut = TOKENS - rows * (LITGPT_ROWS * (parts - 1) + 1)  # of the last part, copied
    end = TOKENS * wide + cut * (wide * several) + kept + tokens * (2 * SCALAR) + SCALAR

    count = parts - is_empty
    full, turned = rows * LITGPT_ROWS, TOKENS - rows * is_empty  # tokens of a part, of all
    last = turned - full * (count - 1)
    of_last = last - rows * (1 - is_empty)  # with a label
    scalars = 2 * SCALAR
    beside = copies + inputs + scalars
    of_read, of_own = product.read * asks, product.own * asks
    made = product.made
    # and, while any waits, the number that is the gradient of each loss
    a_part = full * (INDEX * several) + SCALAR
    waiting = a_part * (count - 1)  # what the losses of the other parts keep beside
    back = [
        beside + waiting + tokens * wide + of_last * (2 * wide) + SCALAR * (count > 1),
        beside + tokens * wide + last * wide,
        beside + turned * wide + last * narrow,
        beside + turned * logit + last * of_read + made,
    ]
    if count > 1:
        both, ahead = last + full, last * of_own + full * of_read
        back += [
            beside + waiting - a_part + tokens * wide + full * (2 * wide) + SCALAR * (count > 2),
            beside + (turned - last) * wide + both * narrow,
            beside + (turned - last) * logit + ahead + made * 2,
            beside + (turned - both) * logit + ahead + made * 3,
            copy + full * logit + (turned - full) * of_own + full * of_read + made * 2 + scalars,
        ]
    base = op.base(op.scope)
    unpacked = unpacked_bytes(weight, hidden, base)
    if base is not None and base.keeps == "input":
        op.saved.setdefault(hidden.storage, op.scope)
    if base is not None:
        back += [beside + turned * logit + unpacked]
    back += [
        TOKENS * of_own + made + product.returned * (not is_wide and copy != ZERO) + scalars,
        TOKENS * (2 * of_own) + product.returned + scalars,
    ]
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept,
        ahead=(
            copies + inputs + TOKENS * narrow + unpacked,
            copies + inputs + TOKENS * (narrow + wide),
            end,
            end + _counted(op, tokens),
        ),
        back=tuple(back),
        products=parts,
        losses=parts,
        unturned=rows * is_empty,
        keeps_labels=not several,
        output=TOKENS * wide,
    )
