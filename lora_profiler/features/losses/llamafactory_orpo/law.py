"""LLaMA-Factory 0.9.6, `train/dpo/trainer.py` (concatenated_forward)."""

from lora_profiler.features.losses._all_logits import all_logits, log_probabilities
from lora_profiler.memory.analytic.ledger import Ledger, Tensor
from lora_profiler.memory.analytic.losses import LossPath
from lora_profiler.question.model_spec import ModelSpec


def price(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """LLaMA-Factory's of the policy alone."""
    return log_probabilities(all_logits(op, hidden, model))
