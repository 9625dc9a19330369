"""What Unsloth's fused cross-entropy holds at once: unsloth-zoo 2026.10.9,
`fused_losses/chunked_logprob.py` (unsloth_chunked_ce_loss) and `fused_losses/fused_linear.py`
(_ce_checked, _ce_impl, _tiled_forward, _ce_backward), line by line.

The gradient of the hidden state, and that of a head that trains, are made in the forward pass, a
part of the labelled tokens at a time in one buffer of float32 logits; backward scales them into
tensors of their own. Names in Python outlive their use: the part before it, its gradient in
float32, its statistics.
"""

from typing import NamedTuple

from lora_profiler._common.polynomial import TOKENS, ZERO, B, Polynomial, constant, total
from lora_profiler.features.losses.unsloth import TILE_COLUMNS, Cut, cut_of
from lora_profiler.memory.analytic.ledger import ITEMSIZE, Ledger, Tensor
from lora_profiler.memory.analytic.losses import INDEX, SCALAR, Head, LossPath, head_weights
from lora_profiler.question.model_spec import ModelSpec

_FLOAT, _DOUBLE = 4, 8
_SCALARS = 6 * SCALAR
"""Two divisors, the scale, the loss, the scale's power of two and what is left of it."""
_PARTIALS, _TILED_PARTIALS = 7, 8
"""Numbers in float32 of a token and a split of words, which the statistics are made of."""
_ALIGNMENT = 8


class _Sizes(NamedTuple):
    """Tokens with a label, of all parts but the last, of the last; bytes of a hidden state and of
    its gradient in float32; splits of words."""

    labelled: Polynomial
    rows: Polynomial
    last: Polynomial
    read: int
    wide: int
    splits: int


def price(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """`regime`: as in the folder's `__init__`."""
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
