"""Pieces of both of torchtune's losses."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_profiler.features.losses._torchtune import CHUNKS
from lora_profiler.trace.modeling.losses import IGNORED_LABEL


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="sum", ignore_index=IGNORED_LABEL)


def split(tensor: Tensor, dim: int) -> Sequence[Tensor]:
    return tensor.tensor_split(CHUNKS, dim=dim)


def next_labels(labels: Tensor) -> Tensor:
    """The label of each token, as torchtune's data sets bring them: the next token, and none for
    the last of a row."""
    targets = torch.full_like(labels, IGNORED_LABEL)
    targets[:, :-1] = labels[:, 1:]
    return targets
