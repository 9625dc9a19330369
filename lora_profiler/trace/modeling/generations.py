"""What older versions of transformers ran where today's is built: code with the allocations of the
code that it is named after, in place of the model's own.

Read in the wheels of transformers 4.45.2 and 4.48.1: `modeling_llama.py` and the like, `loss/
loss_utils.py`, `integrations/sdpa_attention.py`. That experts were layers of their own no stand-in
does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lora_profiler.question.support.generations import casts_in_head, shifts_logits
from lora_profiler.question.workload import TrainSetup
from lora_profiler.trace.modeling.contents import output_head, within

IGNORED_LABEL = -100
Loss = Callable[[Tensor, Tensor], Tensor]
"""Of logits and labels that stand beside each other, in one row."""


def shifted(states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """All but each row's last token, copied unless there is one row, and the labels of the next."""
    moved = states[..., :-1, :].contiguous()
    return moved.view(-1, moved.shape[-1]), labels[..., 1:].contiguous().view(-1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, ignore_index=IGNORED_LABEL)


def float_in_head(model: nn.Module, loss: Loss) -> None:
    """transformers up to 4.45: `logits = self.lm_head(hidden).float()`, then a shifted copy."""
    head = output_head(model)
    assert head is not None
    head.register_forward_hook(lambda _module, _args, logits: logits.float())

    def ForCausalLMLoss(logits: Tensor, labels: Tensor, *_sizes: Any, **_rest: Any) -> Tensor:
        return loss(*shifted(logits, labels))

    within(model)[0].loss_function = ForCausalLMLoss


def float_in_loss(model: nn.Module, loss: Loss) -> None:
    """transformers 4.46 to 4.48: the model still holds its 16-bit logits while the loss function
    casts and shifts them."""

    def ForCausalLMLoss(logits: Tensor, labels: Tensor, *_sizes: Any, **_rest: Any) -> Tensor:
        logits = logits.float()
        return loss(*shifted(logits, labels))

    within(model)[0].loss_function = ForCausalLMLoss


def with_older_loss(model: nn.Module, setup: TrainSetup) -> None:
    """The loss of the version that `setup` names, where it makes all logits and takes them
    itself."""
    if setup.loss == "plain" and shifts_logits(setup.transformers):
        is_cast = casts_in_head(setup.transformers)
        (float_in_head if is_cast else float_in_loss)(model, cross_entropy)


@contextmanager
def heads_repeated(repeats: bool) -> Iterator[None]:
    """Inside, keys and values are repeated to all heads before SDPA, where that is asked."""
    from transformers.integrations import sdpa_attention

    plain: Any = sdpa_attention.use_gqa_in_sdpa
    if repeats:
        sdpa_attention.use_gqa_in_sdpa = lambda *_args, **_more: False
    try:
        yield
    finally:
        sdpa_attention.use_gqa_in_sdpa = plain
