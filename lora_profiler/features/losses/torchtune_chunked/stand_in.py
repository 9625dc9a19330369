"""torchtune's CEWithChunkedOutputLoss by the same operators of torch in the same order: torchtune
0.7 (bd2a0fc), `modules/loss/ce_chunked_output_loss.py`, `modules/transformer.py`
(chunked_output)."""

import torch.nn.functional as F
from torch import Tensor

from lora_profiler.features.losses._torchtune_torch import next_labels, split, summed_loss
from lora_profiler.question.workload import TrainSetup
from lora_profiler.trace.modeling.losses import IGNORED_LABEL, LossAndLogits


def loss(
    setup: TrainSetup, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
) -> LossAndLogits:
    """torchtune's CEWithChunkedOutputLoss: all logits, in eight parts of each sequence, and the
    loss of one part at a time."""
    targets = next_labels(labels)
    count = (targets != IGNORED_LABEL).sum()
    logits = [F.linear(tokens, weight, bias) for tokens in split(hidden, 1)]
    wanted = [part.reshape(-1) for part in split(targets, 1)]
    flat = [part.reshape(-1, part.shape[-1]) for part in logits]
    summed: Tensor | float = 0.0
    for part, own in zip(flat, wanted, strict=True):
        summed = summed + summed_loss(part, own)
    assert isinstance(summed, Tensor)
    return LossAndLogits(summed / count)
