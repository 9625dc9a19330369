"""What a trainer's loss holds of the last hidden state of any model, layers left out: its `law.py`
on a ledger that has the head alone."""

from lora_profiler._common.polynomial import TOKENS
from lora_profiler.memory.analytic.forward_rules import AttentionKernels, rules_for
from lora_profiler.memory.analytic.ledger import ITEMSIZE, Ledger, Storage, Tensor
from lora_profiler.memory.analytic.losses import LossPath
from lora_profiler.question.adapters import saved_modules
from lora_profiler.question.feature import part
from lora_profiler.question.model_spec import Module
from lora_profiler.question.support.losses import LossBytes, head_of
from lora_profiler.question.workload import Workload


def loss_bytes(workload: Workload, hidden_dtype: str, regime: int) -> LossBytes | None:
    """Of the loss that `workload` names, of a hidden state of `hidden_dtype` that requires a
    gradient, where `regime` is the `loss_regime`. None where the loss keeps that state itself,
    which then is the stack's."""
    model, setup = workload.model, workload.setup
    head = head_of(model)
    assert head is not None and head.in_features is not None
    copies = saved_modules(model, setup.lora) if setup.lora else ()
    trains = frozenset(n for n, _ in (model.modules() if setup.lora is None else copies))
    outside = {part.name: part for part in model.parts if isinstance(part, Module)}
    rules = rules_for(workload, AttentionKernels("eager", "eager"), frozenset())
    op = Ledger(rules, outside, {}, trains)
    size = TOKENS * head.in_features
    storage = Storage(size * ITEMSIZE[hidden_dtype])
    price = part("losses", setup.loss, "law", "price")
    path: LossPath = price(op, Tensor(size, hidden_dtype, True, storage), model, regime)
    if path.hidden.storage in op.saved:
        return None
    return LossBytes(path.kept, path.ahead, path.back, path.forward_flops, path.backward_flops)
