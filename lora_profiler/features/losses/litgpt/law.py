"""What LitGPT's chunked_cross_entropy holds at once: `stand_in.py`, line by line. Autograd keeps
the log-probabilities of all parts, in float32; backward takes the last part first."""

from lora_profiler._common.polynomial import TOKENS, ZERO, B, Polynomial, constant
from lora_profiler.features.losses.litgpt import ROWS
from lora_profiler.memory.analytic.ledger import Ledger, Tensor
from lora_profiler.memory.analytic.losses import INDEX, SCALAR, LossPath, Product, head_weights
from lora_profiler.memory.analytic.matmuls import unpacked_bytes
from lora_profiler.question.model_spec import ModelSpec


def price(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """LitGPT's chunked_cross_entropy. `regime`: as in the folder's `__init__`."""
    return (_full if regime < 0 else _lora)(op, hidden, model, abs(regime))


def _counted(op: Ledger, tokens: Polynomial) -> Polynomial:
    """What lives beyond the losses laid together while the labels are counted: a mask, of which a
    CPU makes integers to sum them up."""
    return tokens * (INDEX + 1 - SCALAR) - SCALAR if op.rules.device == "cpu" else ZERO


def _full(op: Ledger, hidden: Tensor, model: ModelSpec, parts: int) -> LossPath:
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
    part = constant(4 * vocab * ROWS) if parts > 1 else log_shares
    last = log_shares - (parts - 1) * ROWS * 4 * vocab
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


def _lora(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
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
    cut = TOKENS - rows * (ROWS * (parts - 1) + 1)  # of the last part, copied
    end = TOKENS * wide + cut * (wide * several) + kept + tokens * (2 * SCALAR) + SCALAR

    count = parts - is_empty
    full, turned = rows * ROWS, TOKENS - rows * is_empty  # tokens of a part, of all
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
