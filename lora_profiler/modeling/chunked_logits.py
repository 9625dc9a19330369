"""Stand-ins for the losses of torchtune and LitGPT, whose logits are made, or turned into losses, a
part of the tokens at a time, and whose log-probabilities are all kept until backward.

Each makes the tensors that the trainer's own code makes, in its order, by the same operators of
torch: torchtune 0.7 (bd2a0fc), `modules/loss/cross_entropy_loss.py` and `ce_chunked_output_loss.py`
with `modules/transformer.py` (chunked_output); LitGPT 0.5.13 (2685705), `utils.py`
(chunked_cross_entropy) as `finetune/lora.py` and `finetune/full.py` call it, after Fabric has
converted the logits to float32 (lightning, `fabric/plugins/precision/`, convert_output).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import custom_op

from lora_profiler.support.losses import LITGPT_ROWS, TORCHTUNE_CHUNKS, labelled_tokens
from lora_profiler.workload import TrainSetup

IGNORED_LABEL = -100


class LossAndLogits(NamedTuple):
    """The loss, in the graph, and the logits that a loop which keeps its output has a name for."""

    loss: Tensor
    logits: object = None


def linear_cross_entropy(
    setup: TrainSetup, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
) -> LossAndLogits:
    """torchtune's LinearCrossEntropyLoss: tokens with a label alone, in eight parts."""
    shifted = _shifted(labels)
    targets = shifted.reshape(-1)
    flat = hidden.reshape(-1, hidden.shape[-1])
    places = labelled(targets, labelled_tokens(setup))
    flat, targets = flat.index_select(0, places), targets.index_select(0, places)
    count = len(targets)
    del places
    summed = torch.zeros((), device=targets.device)
    parts = zip(_split(flat, 0), _split(targets, 0), strict=True)
    for tokens, wanted in parts:
        summed += _summed_loss(F.linear(tokens, weight, bias), wanted)
    return LossAndLogits(summed / count)


def chunked_output_loss(
    setup: TrainSetup, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
) -> LossAndLogits:
    """torchtune's CEWithChunkedOutputLoss: all logits, in eight parts of each sequence, and the
    loss of one part at a time."""
    targets = _shifted(labels)
    count = (targets != IGNORED_LABEL).sum()
    logits = [F.linear(tokens, weight, bias) for tokens in _split(hidden, 1)]
    wanted = [part.reshape(-1) for part in _split(targets, 1)]
    flat = [part.reshape(-1, part.shape[-1]) for part in logits]
    summed: Tensor | float = 0.0
    for part, own in zip(flat, wanted, strict=True):
        summed = summed + _summed_loss(part, own)
    assert isinstance(summed, Tensor)
    return LossAndLogits(summed / count)


def litgpt_loss(
    setup: TrainSetup, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
) -> LossAndLogits:
    """LitGPT's: under LoRA the head takes 128 tokens of each sequence at a time, in full
    fine-tuning all, and the loss 128 tokens. The logits are float32 and what the loop holds."""
    if setup.lora is None:
        logits = F.linear(hidden, weight, bias).float()
        kept = logits[..., :-1, :]
        parts = torch.split(kept.reshape(-1, kept.shape[-1]), LITGPT_ROWS)
        targets = labels[..., 1:]
        wanted = torch.split(targets.reshape(-1), LITGPT_ROWS)
        return LossAndLogits(_mean_loss(parts, wanted, targets), logits)
    made = [F.linear(tokens, weight, bias) for tokens in torch.split(hidden, LITGPT_ROWS, 1)]
    chunks = [part.float() for part in made]
    del made
    chunks[-1] = chunks[-1][..., :-1, :]
    targets = labels[..., 1:]
    flat = [part.reshape(-1, part.shape[-1]) for part in chunks]
    own = [part.reshape(-1) for part in torch.split(targets, chunks[0].shape[1], 1)]
    return LossAndLogits(_mean_loss(flat, own, targets), chunks)


def _mean_loss(logits: Sequence[Tensor], wanted: Sequence[Tensor], targets: Tensor) -> Tensor:
    losses = [
        F.cross_entropy(part, own, ignore_index=IGNORED_LABEL, reduction="none")
        for part, own in zip(logits, wanted, strict=False)  # a last part without a token has none
    ]
    count = (targets != IGNORED_LABEL).sum()
    return torch.cat(losses).sum() / count.maximum(torch.ones_like(count))


def _summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="sum", ignore_index=IGNORED_LABEL)


def _split(tensor: Tensor, dim: int) -> Sequence[Tensor]:
    return tensor.tensor_split(TORCHTUNE_CHUNKS, dim=dim)


def _shifted(labels: Tensor) -> Tensor:
    """The label of each token, as torchtune's data sets bring them: the next token, and none for
    the last of a row."""
    targets = torch.full_like(labels, IGNORED_LABEL)
    targets[:, :-1] = labels[:, 1:]
    return targets


@custom_op("lora_profiler::labelled", mutates_args=())
def labelled(labels: Tensor, rows: int) -> Tensor:
    """Places of the labels that are not ignored; `rows` of them as far as a trace can know."""
    return (labels != IGNORED_LABEL).nonzero().squeeze(1)


@labelled.register_fake
def _(labels: Tensor, rows: int) -> Tensor:
    return labels.new_empty((rows,))
