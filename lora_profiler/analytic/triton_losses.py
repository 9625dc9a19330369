"""What the losses of Triton's kernels hold at once. Cut cross-entropy and the gradient over the
logits: `modeling/triton_losses.py`, line by line.

Unsloth's fused cross-entropy: unsloth-zoo 2026.10.9, `fused_losses/chunked_logprob.py`
(unsloth_chunked_ce_loss) and `fused_losses/fused_linear.py` (_ce_checked, _ce_impl, _tiled_forward,
_ce_backward), line by line. The gradient of the hidden state, and that of a head that trains, are
made in the forward pass, a part of the labelled tokens at a time in one buffer of float32 logits;
backward scales them into tensors of their own. Names in Python outlive their use: the part before
it, its gradient in float32, its statistics.
"""

from typing import NamedTuple

from lora_profiler.algebra.polynomial import TOKENS, ZERO, B, Polynomial, S, constant, total
from lora_profiler.analytic.all_logits import Logits, all_logits
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.loss_paths import INDEX, SCALAR, Head, LossPath, head_weights
from lora_profiler.analytic.tensors import ITEMSIZE, Tensor
from lora_profiler.model_spec import ModelSpec
from lora_profiler.support.generations import casts_in_head, shifts_logits
from lora_profiler.support.unsloth import TILE_COLUMNS, Cut, cut_of

_FLOAT, _DOUBLE = 4, 8
_SCALARS = 6 * SCALAR
"""Two divisors, the scale, the loss, the scale's power of two and what is left of it."""
_PARTIALS, _TILED_PARTIALS = 7, 8
"""Numbers in float32 of a token and a split of words, which the statistics are made of."""
_ALIGNMENT = 8


def cut_cross_entropy(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """No logits: sums of each token, the mean logit of each word and, in backward, the words'
    order. `regime`: sequences of a row."""
    head = head_weights(op, model)
    weight, bias, vocab = head.weight, head.bias, head.vocab
    tokens = TOKENS - B * regime
    made = head.gradient_bytes
    read = hidden
    if hidden.dtype == "float32":
        read = op.fresh(hidden.elements, weight.dtype, hidden.requires_grad)
    kept = tokens * (INDEX + SCALAR) + vocab * 4
    op.saved.setdefault(read.storage, op.scope)
    if bias is not None and bias.requires_grad:
        made = made + bias.elements * 4
    order = vocab * 4
    back = kept + order + made + read.bytes * hidden.requires_grad
    widened = hidden.bytes if read is not hidden else ZERO
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept,
        ahead=(kept + tokens * SCALAR + SCALAR,),
        back=(
            back + 3 * SCALAR,
            kept + vocab * 12 + 3 * SCALAR,
            made + read.bytes + widened + 2 * SCALAR,
        ),
        tokens=tokens,
        again=True,
        keeps_labels=True,
    )


def overwritten_logits(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """The logits, and a float32 copy of those in 16 bit, which the gradient takes over; of versions
    of transformers that shift them a copy more."""
    logits, one_row = all_logits(op, hidden, model), op.rules.one_row
    made, before, turned, end = logits.made, *logits.tail
    back = (before, turned, logits.converting, end)
    if shifts_logits(op.rules.transformers):
        return _overwritten_copy(logits, one_row, casts_in_head(op.rules.transformers), back)
    padded = ZERO if one_row else TOKENS * INDEX + B * (S + 1) * INDEX
    return LossPath(
        hidden=hidden,
        head=logits.head,
        kept=logits.wide + logits.kept_copy,
        ahead=(made + TOKENS * (INDEX + 5) + SCALAR + INDEX * one_row, made + padded),
        back=back,
        output=logits.narrow if logits.narrow != ZERO else logits.wide,
        is_overwritten=logits.narrow == ZERO,
    )


def _overwritten_copy(
    logits: Logits, one_row: bool, casts: bool, back: tuple[Polynomial, ...]
) -> LossPath:
    """Where the kernel keeps the shifted logits, a view of one row, with two numbers a row, and
    writes their gradient over them. `casts`: the head itself, which leaves nothing of 16 bit."""
    rows, whole = logits.tokens, logits.wide
    copied, labels = (ZERO, ZERO) if one_row else (logits.part, rows * INDEX)
    left = ZERO if casts else logits.narrow
    kept = (whole if one_row else copied) + logits.kept_copy
    statistics = copied + labels + rows * (2 * SCALAR + 1) + 3 * SCALAR
    return LossPath(
        hidden=logits.hidden,
        head=logits.head,
        kept=kept + labels + rows * SCALAR + INDEX,
        ahead=(logits.made, logits.copies + left + whole + statistics),
        back=(kept + whole + 2 * SCALAR, *back),
        output=left if left != ZERO else whole,
    )


# --- Unsloth's fused cross-entropy ----------------------------------------------------------------


class _Sizes(NamedTuple):
    """Tokens with a label, of all parts but the last, of the last; bytes of a hidden state and of
    its gradient in float32; splits of words."""

    labelled: Polynomial
    rows: Polynomial
    last: Polynomial
    read: int
    wide: int
    splits: int


def fused_linear_cross_entropy(
    op: Ledger, hidden: Tensor, model: ModelSpec, regime: int
) -> LossPath:
    """`regime`: `support.unsloth.unsloth_regime`."""
    head, cut = head_weights(op, model), cut_of(regime)
    if not cut.sequences:
        scores = _of_completions if cut.completion else _of_pairs
        return scores(op, hidden, head, cut)
    labelled = TOKENS - B * cut.sequences
    last = labelled - (cut.parts - 1) * cut.rows
    size = ITEMSIZE[op.rules.autocast or hidden.dtype]
    sizes = _Sizes(
        labelled=labelled,
        rows=constant(cut.rows) if cut.parts > 1 else last,
        last=last,
        read=head.width * size,
        wide=head.width * _FLOAT,
        splits=-(-head.vocab // TILE_COLUMNS),
    )
    of_hidden = hidden.bytes * hidden.requires_grad
    made = head.gradient_bytes
    sums = total(
        t.elements * _FLOAT for t in head.trained if t is head.bias and t.dtype != "float32"
    )
    # labels with sequences' first ones masked, shifted ones, whether they are none, places, sums
    targets = TOKENS * (2 * INDEX + 1) + 1 + labelled * (INDEX + _FLOAT)
    held = targets + _SCALARS + of_hidden + made + sums
    if cut.tiled:
        inside = _in_tiles(sizes, cut, head)
    else:
        inside = _in_parts(sizes, cut, head, trains=bool(hidden.requires_grad or head.trained))
    scaled = of_hidden + made
    kept = scaled + SCALAR
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept,
        ahead=tuple(held + part for part in inside),
        back=(kept + scaled + _DOUBLE + SCALAR + 2 * SCALAR, scaled + of_hidden + 2 * SCALAR),
        tokens=labelled,
        products=cut.parts,
    )


def _of_completions(op: Ledger, hidden: Tensor, head: Head, cut: Cut) -> LossPath:
    """Log-probabilities of GRPO's completions (_logprobs_impl): their hidden states are copied out
    of all, and the gradient of each log-probability is made with it. Of a head that trains, whose
    gradient backward makes of logits once more, too little."""
    labelled = B * cut.completion
    copied = labelled * (head.width * ITEMSIZE[hidden.dtype])
    # float16 would lose what is small
    slope = copied if hidden.dtype != "float16" else labelled * (head.width * _FLOAT)
    kept = slope * hidden.requires_grad
    # ids of the completions, places, log-probabilities, sums of exponentials, and a scale
    held = kept + copied + labelled * (2 * INDEX + 2 * _FLOAT) + SCALAR
    # a gradient each of the log-probabilities and of what was copied, which is laid among zeros
    back = labelled * _FLOAT + copied + 2 * SCALAR
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept + labelled * INDEX + TOKENS,
        ahead=tuple(held + part for part in _scored(head, cut, labelled, 0)),
        back=(kept + back, back + hidden.bytes, hidden.bytes * 2 + 2 * SCALAR),
        tokens=labelled,
        products=cut.parts,
    )


def _of_pairs(op: Ledger, hidden: Tensor, head: Head, cut: Cut) -> LossPath:
    """Those of DPO's pairs, policy and then reference, each of a float32 copy that accelerate makes
    of all hidden states and of one without each row's last (Unsloth 2026.10.9
    `models/rl_replacements.py`, dpo_trainer_compute_loss_chunked). Prompts, which are not scored,
    are counted as if they were."""
    labelled = TOKENS - B
    is_wide = op.rules.autocast is not None or hidden.dtype == "float32"
    size = head.width * (_FLOAT if is_wide else ITEMSIZE[hidden.dtype])
    copied, whole = labelled * size, TOKENS * size
    kept = copied * hidden.requires_grad
    # of a token its place, its log-probability, the sum of exponentials, entropy and mean, and
    # whether it is the likeliest; and what the parts were put together of
    statistics = labelled * (INDEX + 4 * _FLOAT + 1)
    read = head.width * ITEMSIZE[op.rules.autocast or hidden.dtype]
    own = read + INDEX + 4 * _FLOAT + 1
    policy = whole + copied + kept + statistics
    reference = kept + statistics + whole * 2 + copied + labelled * (INDEX + 2 * _FLOAT)
    parts = _scored(head, cut, labelled, own)
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept,
        ahead=tuple(held + part for held in (policy, reference) for part in parts),
        back=(kept + copied + labelled * _FLOAT, copied + whole, whole + hidden.bytes),
        tokens=labelled,
        products=cut.parts,
        is_apart=is_wide,
    )


def _scored(head: Head, cut: Cut, labelled: Polynomial, own: int) -> list[Polynomial]:
    """Beside what is there for all tokens: the logits of a part, or of a tile of words, with its
    statistics, and `own` bytes of each of its tokens."""
    last = labelled - (cut.parts - 1) * cut.rows
    rows = constant(cut.rows) if cut.parts > 1 else last
    wide = head.width * _FLOAT
    splits = -(-head.vocab // TILE_COLUMNS)
    if not cut.tiled:
        words = -(-head.vocab // _ALIGNMENT) * _ALIGNMENT
        buffer = rows * (words * _FLOAT + own)
        sums = _PARTIALS * splits * _FLOAT * (splits > 2)
        return [buffer + rows * sums, buffer + rows * wide, buffer + labelled * _FLOAT]
    buffer = rows * (TILE_COLUMNS * _FLOAT + wide + _FLOAT + own)
    sums = _TILED_PARTIALS * splits * _FLOAT
    before = ZERO if cut.parts == 1 else rows * sums
    candidates = [buffer + before + last * sums]
    return candidates if cut.parts <= 2 else [*candidates, buffer + rows * (2 * sums)]


def _in_parts(sizes: _Sizes, cut: Cut, head: Head, *, trains: bool) -> list[Polynomial]:
    """A buffer of logits, of whole groups of eight words: beside it a part's hidden states, labels
    and statistics, then its gradient in float32, and that of the part before it."""
    words = -(-head.vocab // _ALIGNMENT) * _ALIGNMENT
    buffer = sizes.rows * (words * _FLOAT)
    own = sizes.read + INDEX + _FLOAT
    wide = sizes.wide * trains
    narrow = sizes.read * trains * (sizes.read != sizes.wide)
    splits = sizes.splits if sizes.splits > 2 else 0
    sums = _PARTIALS * splits * _FLOAT
    several = cut.parts > 1
    candidates = [
        buffer + sizes.last * (own + sums) + sizes.rows * ((wide + _FLOAT) * several),
        buffer + sizes.last * (own + wide) + sizes.rows * (wide * several),
        buffer + sizes.last * (own + wide + narrow),
        buffer + sizes.last * (own + wide) + sizes.labelled * (2 * _DOUBLE),
    ]
    if cut.parts > 2:
        candidates += [
            buffer + sizes.rows * (own + sums + wide + _FLOAT),
            buffer + sizes.rows * (own + 2 * wide),
        ]
    return candidates


def _in_tiles(sizes: _Sizes, cut: Cut, head: Head) -> list[Polynomial]:
    """A buffer of a tile's logits, and the sum of the gradients in float32 with a number for each
    token: beside them a part's hidden states, labels and statistics, and those of the part
    before."""
    lasting = sizes.rows * (TILE_COLUMNS * _FLOAT + sizes.wide + _FLOAT) + sizes.labelled * _FLOAT
    own = sizes.read + INDEX
    sums = _TILED_PARTIALS * sizes.splits * _FLOAT
    candidates = [lasting + sizes.last * (own + sums) + sizes.rows * (sums * (cut.parts > 1))]
    if cut.parts > 2:
        candidates.append(lasting + sizes.rows * (own + 2 * sums))
    return candidates
