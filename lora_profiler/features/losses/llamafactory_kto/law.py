"""LLaMA-Factory 0.9.6, `train/kto/trainer.py`."""

from lora_profiler._common.polynomial import TOKENS, ZERO, B, constant
from lora_profiler.features.losses._all_logits import with_reference
from lora_profiler.memory.analytic.ledger import Ledger, Tensor
from lora_profiler.memory.analytic.losses import INDEX, SCALAR, LossPath
from lora_profiler.question.model_spec import ModelSpec

_COLUMNS = 3
"""Ids, mask and labels, which each pass of LLaMA-Factory has copies of (`nested_detach`)."""


def price(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """KTO of LLaMA-Factory, `train/kto/trainer.py`: as of pairs, of answers alone. Each model runs
    over those of other prompts too, beside its own logits; of the policy's the loss then holds
    copies, one of the desirable ones and one of the rest."""
    path = with_reference(op, hidden, model, regime)
    wide = TOKENS * (path.head.vocab * SCALAR)
    more = TOKENS * (_COLUMNS * INDEX)  # the other answers' columns
    uncopied = wide - constant(path.head.vocab * SCALAR) if op.rules.one_row else ZERO
    begun, made, after, compared = (size + more for size in path.ahead)
    # beside what pairs have: sums and means of rows of either model, and which are desirable, twice
    # for autograd and once in a copy of the batch
    beside = wide + B * (3 * SCALAR + 3)
    ahead = (begun, made - uncopied, after + beside, compared + beside - uncopied)
    return path._replace(ahead=ahead)
