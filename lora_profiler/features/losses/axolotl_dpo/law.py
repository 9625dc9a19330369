"""axolotl 0.19, `monkeypatch/trainer/utils.py` (selective_log_softmax)."""

from lora_profiler.features.losses._all_logits import all_logits
from lora_profiler.memory.analytic.ledger import Ledger, Tensor
from lora_profiler.memory.analytic.losses import INDEX, SCALAR, LossPath
from lora_profiler.question.model_spec import ModelSpec


def price(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """A kernel reads a copy of all but a row's last logits, which autograd keeps, and writes the
    gradient into another one; the reference's logits have a copy too."""
    logits = all_logits(op, hidden, model)
    each = logits.tokens * (INDEX + SCALAR)  # labels as places, and a sum of exponentials
    kept = logits.part + each + logits.kept_copy
    before = kept + logits.wide + logits.tokens * SCALAR
    scored = before + logits.wide + logits.part + each + logits.tokens * SCALAR
    ahead = (logits.made, before + logits.made, scored)
    return logits.path(kept, ahead, kept + logits.part, logits.placed)
