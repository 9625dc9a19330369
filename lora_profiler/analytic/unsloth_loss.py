"""What Unsloth's fused cross-entropy holds at once: unsloth-zoo 2026.10.9,
`fused_losses/chunked_logprob.py` (unsloth_chunked_ce_loss) and `fused_losses/fused_linear.py`
(_ce_checked, _ce_impl, _tiled_forward, _ce_backward), line by line.

The gradient of the hidden state, and that of a head that trains, are made in the forward pass, a
part of the labelled tokens at a time in one buffer of float32 logits; backward scales them into
tensors of their own. Names in Python outlive their use: the part before it, its gradient in
float32, its statistics.
"""

from typing import NamedTuple

from lora_profiler.algebra.polynomial import TOKENS, B, Polynomial, constant, total
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.loss_paths import Head, LossPath, head_weights
from lora_profiler.analytic.tensors import ITEMSIZE, Tensor
from lora_profiler.model_spec import ModelSpec
from lora_profiler.support.unsloth import TILE_COLUMNS, Cut, cut_of

_SCALAR, _INDEX, _FLOAT, _DOUBLE = 4, 8, 4, 8
_SCALARS = 6 * _SCALAR
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


def fused_linear_cross_entropy(op: Ledger, hidden: Tensor, model: ModelSpec, fact: int) -> LossPath:
    """`fact`: `support.unsloth.unsloth_fact`."""
    head, cut = head_weights(op, model), cut_of(fact)
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
    made = total(t.bytes for t in head.trained)
    sums = total(
        t.elements * _FLOAT for t in head.trained if t is head.bias and t.dtype != "float32"
    )
    # labels with sequences' first ones masked, shifted ones, whether they are none, places, sums
    targets = TOKENS * (2 * _INDEX + 1) + 1 + labelled * (_INDEX + _FLOAT)
    held = targets + _SCALARS + of_hidden + made + sums
    if cut.tiled:
        inside = _in_tiles(sizes, cut, head)
    else:
        inside = _in_parts(sizes, cut, head, trains=bool(hidden.requires_grad or head.trained))
    scaled = of_hidden + made
    kept = scaled + _SCALAR
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept,
        ahead=tuple(held + part for part in inside),
        back=(kept + scaled + _DOUBLE + _SCALAR + 2 * _SCALAR, scaled + of_hidden + 2 * _SCALAR),
        tokens=labelled,
        again=False,
        products=cut.parts,
    )


def _in_parts(sizes: _Sizes, cut: Cut, head: Head, *, trains: bool) -> list[Polynomial]:
    """A buffer of logits, of whole groups of eight words: beside it a part's hidden states, labels
    and statistics, then its gradient in float32, and that of the part before it."""
    words = -(-head.vocab // _ALIGNMENT) * _ALIGNMENT
    buffer = sizes.rows * (words * _FLOAT)
    own = sizes.read + _INDEX + _FLOAT
    wide = sizes.wide * trains
    narrow = sizes.read * trains * (sizes.read != sizes.wide)
    splits = sizes.splits if sizes.splits > 2 else 0
    sums = _PARTIALS * splits * _FLOAT
    several = cut.parts > 1
    found = [
        buffer + sizes.last * (own + sums) + sizes.rows * ((wide + _FLOAT) * several),
        buffer + sizes.last * (own + wide) + sizes.rows * (wide * several),
        buffer + sizes.last * (own + wide + narrow),
        buffer + sizes.last * (own + wide) + sizes.labelled * (2 * _DOUBLE),
    ]
    if cut.parts > 2:
        found += [
            buffer + sizes.rows * (own + sums + wide + _FLOAT),
            buffer + sizes.rows * (own + 2 * wide),
        ]
    return found


def _in_tiles(sizes: _Sizes, cut: Cut, head: Head) -> list[Polynomial]:
    """A buffer of a tile's logits, and the sum of the gradients in float32 with a number for each
    token: beside them a part's hidden states, labels and statistics, and those of the part
    before."""
    lasting = sizes.rows * (TILE_COLUMNS * _FLOAT + sizes.wide + _FLOAT) + sizes.labelled * _FLOAT
    own = sizes.read + _INDEX
    sums = _TILED_PARTIALS * sizes.splits * _FLOAT
    found = [lasting + sizes.last * (own + sums) + sizes.rows * (sums * (cut.parts > 1))]
    if cut.parts > 2:
        found.append(lasting + sizes.rows * (own + 2 * sums))
    return found
