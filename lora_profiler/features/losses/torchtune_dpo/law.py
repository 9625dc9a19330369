"""torchtune 0.7: `recipes/lora_dpo_single_device.py`, `rlhf/sequence_processing.py`
(get_batch_log_probs)."""

from lora_profiler._common.polynomial import TOKENS, B
from lora_profiler.features.losses._all_logits import all_logits
from lora_profiler.memory.analytic.ledger import Ledger, Tensor
from lora_profiler.memory.analytic.losses import INDEX, SCALAR, LossPath
from lora_profiler.question.model_spec import ModelSpec


def price(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """Log-softmax of all but a row's last logits, divided by a temperature. The policy's logits are
    dropped before the reference runs, whose own are held as an output is: those of the step before
    while the policy runs."""
    # sums of rows of both passes, three numbers a pair, and two means, which are the step before's
    # while the policy runs
    row_bytes = B * (2 * SCALAR + 3 * SCALAR // 2) + 2 * SCALAR
    logits = all_logits(op, hidden, model, row_bytes)
    kept = logits.part + logits.places + logits.kept_copy
    labels = TOKENS * INDEX + row_bytes
    twice = logits.part * 2 + logits.places + labels
    ahead = (
        labels + logits.made,
        logits.kept_copy + logits.wide + twice,
        kept + labels + logits.copies + logits.narrow,
        kept + twice,
    )
    path = logits.path(kept, ahead, kept + row_bytes + logits.part * 2, logits.placed)
    return path._replace(output=logits.wide)
