"""TRL 1.16, the experimental ORPOTrainer."""

from lora_profiler._common.polynomial import TOKENS, B
from lora_profiler.features.losses._all_logits import all_logits
from lora_profiler.memory.analytic.ledger import Ledger, Tensor
from lora_profiler.memory.analytic.losses import INDEX, SCALAR, LossPath
from lora_profiler.question.model_spec import ModelSpec


def price(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """A kernel reads all logits where they are, and cross-entropy a copy of the chosen half, whose
    log-softmax it keeps. In backward the gradients of both, as large as all logits, meet."""
    logits = all_logits(op, hidden, model)
    vocab, chosen = logits.head.vocab, logits.tokens * (logits.head.vocab * SCALAR // 2)
    half = TOKENS * (vocab * SCALAR // 2)
    # labels as places, two sums, which there are; the chosen ones' labels; how many of a row
    each = logits.tokens * (INDEX + 2 * SCALAR + 1 + INDEX // 2) + B * INDEX + SCALAR
    kept = logits.wide + chosen + each + logits.kept_copy
    of_two = logits.kept_copy + logits.wide
    return logits.path(
        kept,
        (logits.made, kept + chosen + TOKENS * INDEX),
        kept + logits.part,
        of_two + chosen * 3,
        of_two + half + logits.wide,
    )
