"""LLaMA-Factory 0.9.6, `train/trainer_utils.py` (eaft_loss_func)."""

from lora_profiler.features.losses._all_logits import all_logits, weighted
from lora_profiler.memory.analytic.ledger import Ledger, Tensor
from lora_profiler.memory.analytic.losses import INDEX, SCALAR, LossPath
from lora_profiler.question.model_spec import ModelSpec

_TOP = 20
"""Logits of a token by which EAFT takes its entropy."""
_BLOCK, _DIGITS = 16_384, 256
"""Of torch's topk, which counts the digits of so many numbers at a time (`native/cuda/
TensorTopK.cu`, mbtopk)."""


def price(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """EAFT: beside log-softmax of all logits a copy of those that have a label, and the largest of
    each, which topk counts digits for."""
    logits = all_logits(op, hidden, model)
    blocks = -(-logits.head.vocab // _BLOCK)
    counts = blocks * (2 * _DIGITS + 2 * SCALAR) + _DIGITS * SCALAR + 3 * SCALAR
    largest = logits.tokens * (_TOP * (SCALAR + INDEX) + counts + SCALAR)
    return weighted(logits, logits.part + largest)
