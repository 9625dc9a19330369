"""torchtune's LinearCrossEntropyLoss by the same operators of torch in the same order:
torchtune 0.7 (bd2a0fc), `modules/loss/cross_entropy_loss.py`."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import custom_op

from lora_profiler.features.losses._torchtune_torch import next_labels, split, summed_loss
from lora_profiler.question.support.losses import labelled_tokens
from lora_profiler.question.workload import TrainSetup
from lora_profiler.trace.modeling.losses import IGNORED_LABEL, LossAndLogits


def loss(
    setup: TrainSetup, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
) -> LossAndLogits:
    """torchtune's LinearCrossEntropyLoss: tokens with a label alone, in eight parts."""
    shifted = next_labels(labels)
    targets = shifted.reshape(-1)
    flat = hidden.reshape(-1, hidden.shape[-1])
    places = labelled(targets, labelled_tokens(setup))
    flat, targets = flat.index_select(0, places), targets.index_select(0, places)
    count = len(targets)
    del places
    summed = torch.zeros((), device=targets.device)
    parts = zip(split(flat, 0), split(targets, 0), strict=True)
    for tokens, wanted in parts:
        summed += summed_loss(F.linear(tokens, weight, bias), wanted)
    return LossAndLogits(summed / count)


@custom_op("lora_profiler::labelled", mutates_args=())
def labelled(labels: Tensor, rows: int) -> Tensor:
    """Places of the labels that are not ignored; `rows` of them as far as a trace can know."""
    return (labels != IGNORED_LABEL).nonzero().squeeze(1)


@labelled.register_fake
def _(labels: Tensor, rows: int) -> Tensor:
    return labels.new_empty((rows,))
