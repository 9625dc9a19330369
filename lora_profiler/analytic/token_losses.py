"""What LLaMA-Factory's losses hold at once that weigh each token, line by line: `train/sft/
trainer.py` and `train/trainer_utils.py` (dft_loss_func, eaft_loss_func, asft_loss_func) of 0.9.6.

The model's logits are float32 as accelerate hands them on, and held until the loss is known.
"""

from lora_profiler.algebra.polynomial import TOKENS, ZERO, B, Polynomial
from lora_profiler.analytic.families.blocks import heads_of
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.loss_paths import LossPath
from lora_profiler.analytic.pair_losses import Logits, all_logits
from lora_profiler.analytic.tensors import ITEMSIZE, Tensor
from lora_profiler.model_spec import ModelSpec

_SCALAR, _INDEX = 4, 8
_TOP = 20
"""Logits of a token by which EAFT takes its entropy."""
_BLOCK, _DIGITS = 16_384, 256
"""Of torch's topk, which counts the digits of so many numbers at a time (`native/cuda/
TensorTopK.cu`, mbtopk)."""


def weighted_by_probability(op: Ledger, hidden: Tensor, model: ModelSpec, fact: int) -> LossPath:
    """DFT: log-softmax of all logits; a loss of each token and its weight."""
    logits = all_logits(op, hidden, model, ZERO)
    return _path(logits, hidden, _told(logits) + TOKENS * _INDEX)


def weighted_by_entropy(op: Ledger, hidden: Tensor, model: ModelSpec, fact: int) -> LossPath:
    """EAFT: beside log-softmax of all logits a copy of those that have a label, and the largest of
    each, which topk counts digits for."""
    logits = all_logits(op, hidden, model, ZERO)
    blocks = -(-logits.head.vocab // _BLOCK)
    counts = blocks * (2 * _DIGITS + 2 * _SCALAR) + _DIGITS * _SCALAR + 3 * _SCALAR
    largest = logits.tokens * (_TOP * (_SCALAR + _INDEX) + counts + _SCALAR)
    return _path(logits, hidden, _told(logits) + logits.part + largest)


def beside_reference(op: Ledger, hidden: Tensor, model: ModelSpec, fact: int) -> LossPath:
    """ASFT: the reference's logits, then the model's, with a loss of its own that is not used;
    copies of both without a row's last; log-softmax of the one for either loss, and softmax of the
    other. The divergence has three more of them for a moment. The reference's output has its keys
    and values too."""
    logits = all_logits(op, hidden, model, ZERO)
    part, wide, heads = logits.part, logits.wide, heads_of(model.config)
    size = ITEMSIZE[op.rules.autocast or hidden.dtype]
    cached = TOKENS * (model.num_layers * 2 * heads.key_value * heads.dim * size)
    kept = part * 3 + logits.tokens * (_INDEX + 1 + _SCALAR) + _SCALAR
    held = cached + wide * 3 + TOKENS * _INDEX + part * 2 + 2 * _SCALAR
    return LossPath(
        hidden=hidden,
        head=logits.head,
        kept=kept + logits.kept_copy + logits.tokens * _SCALAR,  # which count, as numbers
        ahead=(
            cached + wide + logits.copies + logits.narrow + wide * 2 + TOKENS * _INDEX,
            held + kept + logits.kept_copy + part * 3,
        ),
        back=(kept + logits.kept_copy + part * 3 + 2 * _SCALAR, *logits.tail),
        tokens=TOKENS,
        again=False,
        is_apart=True,
    )


def _weights(logits: Logits) -> Polynomial:
    """What autograd keeps of each token: labels as places, which count, and their weights."""
    return TOKENS * (_INDEX + 1) + logits.tokens * _SCALAR + _SCALAR


def _told(logits: Logits) -> Polynomial:
    """What the loss has of each token besides: labels with one more a row, and losses."""
    return TOKENS * (_INDEX + _SCALAR) + B * _INDEX + logits.tokens * _SCALAR


def _path(logits: Logits, hidden: Tensor, told: Polynomial) -> LossPath:
    """Log-softmax of all logits, and what is `told` of each token while they are there."""
    kept = logits.wide + _weights(logits) + logits.kept_copy
    return LossPath(
        hidden=hidden,
        head=logits.head,
        kept=kept,
        ahead=(logits.copies + logits.narrow + logits.wide, logits.wide + kept + told),
        back=(
            logits.wide * 3 + logits.kept_copy + 2 * _SCALAR,
            kept + logits.wide + 2 * _SCALAR,
            *logits.tail,
        ),
        tokens=TOKENS,
        again=False,
        is_apart=True,
    )
