"""LLaMA-Factory 0.9.6, `train/trainer_utils.py` (dft_loss_func)."""

from lora_profiler._common.polynomial import TOKENS
from lora_profiler.features.losses._all_logits import all_logits, weighted
from lora_profiler.memory.analytic.ledger import Ledger, Tensor
from lora_profiler.memory.analytic.losses import INDEX, LossPath
from lora_profiler.question.model_spec import ModelSpec


def price(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """DFT: log-softmax of all logits; a loss of each token and its weight."""
    return weighted(all_logits(op, hidden, model), TOKENS * INDEX)
