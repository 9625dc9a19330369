"""What TRL's tiled head holds at once: `stand_in.py`, line by line."""

from lora_profiler._common.polynomial import TOKENS, ZERO, B, constant, total
from lora_profiler.features.losses.trl import TILE_COLUMNS, TILE_ROWS
from lora_profiler.memory.analytic.ledger import ITEMSIZE, Ledger, Tensor
from lora_profiler.memory.analytic.losses import SCALAR, LossPath, head_weights, labelled
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.support.losses import logit_scaling, runs_triton

_COUNT = 8
"""The number of labels that the loss is divided by."""


def price(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """TRL's tiled head: `stand_in.py`, line by line. `regime`: see `question.support.losses`."""
    of_row, more_tiles = divmod(abs(regime), 3)
    is_capped = more_tiles > 0
    triton = runs_triton(op.rules.device)
    weight, bias, width, vocab = head = head_weights(op, model)
    tokens = B * of_row if regime < 0 else TOKENS - B * of_row  # with a label
    mask = labelled(one_row=op.rules.one_row)
    count = tokens if triton else mask
    rows = constant(TILE_ROWS) if is_capped else count
    compute = op.rules.autocast or hidden.dtype
    size = ITEMSIZE[compute]

    copied = count * (width * ITEMSIZE[hidden.dtype])
    if not triton and op.rules.one_row:  # a view
        copied = ZERO
        op.saved.setdefault(hidden.storage, op.scope)
    kept = copied + count * (8 + 2 * 4) + mask + _COUNT
    buffer = rows * (TILE_COLUMNS * size)
    is_lowered = hidden.dtype != compute
    lowered = rows * (width * size) if is_lowered else ZERO
    # of the next tile, made before that of the first is gone; of two tiles the second is the last
    then = count - constant(TILE_ROWS) if more_tiles == 1 else rows
    lowered_next = then * (width * size) if is_lowered and is_capped else ZERO
    first, last = min(vocab, TILE_COLUMNS), (vocab - 1) % TILE_COLUMNS + 1
    second = min(vocab - first, TILE_COLUMNS) or (first if is_capped else 0)
    word = width * size * (weight.dtype != compute)
    of_bias = first * size if bias is not None and bias.dtype != compute else 0
    tile = rows * first

    sums = copied + count * (8 + 7 * 4) + mask + buffer + lowered
    ahead = [sums + first * word + of_bias, sums + count * 16]
    if not triton:
        ahead += [sums + tile * 13 + rows * 20]
    if is_capped:
        ahead += [sums + lowered_next]

    made = total(t.elements * 4 for t in head.trained)
    returned = total(t.bytes for t in head.trained if t.dtype != "float32")
    if hidden.requires_grad:
        made = made + count * (width * 4)
        returned = returned + (copied if hidden.dtype != "float32" else ZERO)
    made = made + kept + count * 4 + buffer + lowered + SCALAR
    back = [
        made + (first + second) * word,
        made + first * word + of_bias,
        made + last * word + returned,
        made + last * word + lowered_next,
    ]
    if triton and hidden.requires_grad:  # rows of labels, put among those without one
        back += [kept + count * 4 + SCALAR + head.gradient_bytes + copied * 2]
    if not triton:
        of_tanh = 4 if logit_scaling(model.config).cap else 0
        back += [made + tile * (29 + of_tanh) + first * word]
        if compute != "float32":
            back += [
                made + tile * 4 + first * (word + width * 4) * hidden.requires_grad,
                made + (tile * 4 + rows * (width * 4)) * weight.requires_grad + first * word,
            ]
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept,
        ahead=tuple(ahead),
        back=tuple(back),
        tokens=count,
        again=True,
    )
