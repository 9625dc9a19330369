"""What cut cross-entropy holds at once: `stand_in.py`, line by line."""

from lora_profiler._common.polynomial import TOKENS, ZERO, B
from lora_profiler.memory.analytic.ledger import Ledger, Tensor
from lora_profiler.memory.analytic.losses import INDEX, SCALAR, LossPath, head_weights
from lora_profiler.question.model_spec import ModelSpec


def price(op: Ledger, hidden: Tensor, model: ModelSpec, regime: int) -> LossPath:
    """No logits: sums of each token, the mean logit of each word and, in backward, the words'
    order. `regime`: sequences of a row."""
    head = head_weights(op, model)
    weight, bias, vocab = head.weight, head.bias, head.vocab
    tokens = TOKENS - B * regime
    made = head.gradient_bytes
    read = hidden
    if hidden.dtype == "float32":
        read = op.fresh(hidden.elements, weight.dtype, hidden.requires_grad)
    kept = tokens * (INDEX + SCALAR) + vocab * 4
    op.saved.setdefault(read.storage, op.scope)
    if bias is not None and bias.requires_grad:
        made = made + bias.elements * 4
    order = vocab * 4
    back = kept + order + made + read.bytes * hidden.requires_grad
    widened = hidden.bytes if read is not hidden else ZERO
    return LossPath(
        hidden=hidden,
        head=head,
        kept=kept,
        ahead=(kept + tokens * SCALAR + SCALAR,),
        back=(
            back + 3 * SCALAR,
            kept + vocab * 12 + 3 * SCALAR,
            made + read.bytes + widened + 2 * SCALAR,
        ),
        tokens=tokens,
        again=True,
        keeps_labels=True,
    )
