"""LLaMA-Factory 0.9.6, `train/trainer_utils.py` (asft_loss_func)."""

from lora_profiler._common.polynomial import TOKENS
from lora_profiler.features.losses._all_logits import all_logits
from lora_profiler.memory.analytic.families.blocks import heads_of
from lora_profiler.memory.analytic.ledger import ITEMSIZE, Ledger, Tensor
from lora_profiler.memory.analytic.losses import INDEX, SCALAR, LossPath
from lora_profiler.question.model_spec import ModelSpec


def price(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """ASFT: the reference's logits, then the model's, with a loss of its own that is not used;
    copies of both without a row's last; log-softmax of the one for either loss, and softmax of the
    other. The divergence has three more of them for a moment. The reference's output has its keys
    and values too."""
    logits = all_logits(op, hidden, model)
    part, wide, heads = logits.part, logits.wide, heads_of(model.config)
    size = ITEMSIZE[op.rules.autocast or hidden.dtype]
    cached = TOKENS * (model.num_layers * 2 * heads.key_value * heads.dim * size)
    saved = part * 3 + logits.tokens * (INDEX + 1 + SCALAR) + SCALAR + logits.kept_copy
    held = cached + wide * 3 + TOKENS * INDEX + part * 2 + 2 * SCALAR
    ahead = (cached + logits.made + wide * 2 + TOKENS * INDEX, held + saved + part * 3)
    which = logits.tokens * SCALAR  # count, as numbers
    return logits.path(saved + which, ahead, saved + part * 3)
