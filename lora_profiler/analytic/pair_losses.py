"""What LLaMA-Factory's loss of pairs holds at once: 0.9.6, `train/dpo/trainer.py`
(concatenated_forward, get_batch_loss_metrics) and `train/trainer_utils.py` (get_batch_logps), line
by line.

The policy's logits in float32 have a name until the metrics are made. The reference, the model with
its adapters switched off or a copy in bfloat16, runs beside them and beside what autograd kept of
the policy.
"""

from lora_profiler.algebra.polynomial import TOKENS, ZERO, B, constant, total
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.loss_paths import LossPath, head_weights
from lora_profiler.analytic.tensors import ITEMSIZE, Tensor
from lora_profiler.model_spec import ModelSpec

_SCALAR, _INDEX = 4, 8
_COLUMNS = 3
"""Ids, mask and labels, which each pass has copies of (`nested_detach`)."""


def log_probabilities_of_pairs(op: Ledger, hidden: Tensor, model: ModelSpec, fact: int) -> LossPath:
    """Log-softmax of all but a row's last logits, which are copied for it."""
    head = head_weights(op, model)
    weight, vocab = head.weight, head.vocab
    compute = op.rules.autocast or hidden.dtype
    size = ITEMSIZE[compute]
    tokens = TOKENS - (constant(1) if op.rules.one_row else B)
    narrow = TOKENS * (vocab * size) if size != 4 else ZERO
    wide, part = TOKENS * (vocab * 4), tokens * (vocab * 4)
    made = total(t.bytes for t in head.trained)
    made_low = total(t.elements * size for t in head.trained)

    read = op.lowered(hidden)
    if weight.requires_grad:
        op.saved.setdefault(read.storage, op.scope)
    copies = total(t.elements * size for t in head.tensors if t.dtype != compute)
    of_read = read.bytes * hidden.requires_grad
    widened = hidden.bytes * (hidden.requires_grad and read is not hidden)
    inputs = TOKENS * (_COLUMNS * _INDEX)
    own = tokens * (_INDEX + 1)  # labels as places, and which there are
    rows = B * _INDEX  # how many of a row there are
    means = B * _SCALAR + B * (_SCALAR // 2)  # sums of rows, and the mean of each pair's chosen one
    kept_copy = weight.elements * (size * (weight.dtype != compute and hidden.requires_grad))
    embeds = any(m.kind == "Embedding" and name in op.trainable for name, m in model.modules())
    ids = TOKENS * (_INDEX * embeds)  # a copy, which a trained embedding keeps
    kept = part + own + rows + kept_copy + ids
    before = kept + wide + means
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept,
        ahead=(
            inputs + copies + narrow + wide,
            inputs + kept_copy + wide + part * 2 + own,
            before + inputs + narrow + wide,
            before + inputs + wide + part * 2 + own,
        ),
        back=(
            kept + part * 2 + 2 * _SCALAR,
            kept_copy + ids + wide + part + 2 * _SCALAR,
            kept_copy + ids + wide + narrow + 2 * _SCALAR,
            kept_copy + ids + (narrow if size != 4 else wide) + made_low + of_read + 2 * _SCALAR,
            made + ids + of_read + widened + 2 * _SCALAR,
        ),
        tokens=TOKENS,
        again=False,
        is_apart=True,
    )
