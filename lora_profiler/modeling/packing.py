"""Whether a model tells packed sequences apart: transformers finds them in the position ids while it makes the mask."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lora_profiler.packing import blind


@contextmanager
def told_apart(model: nn.Module) -> Iterator[None]:
    """A forward pass of `model` on packed rows. Raises UsageError where its code never looks for sequences in the rows."""
    from transformers import masking_utils

    whole: Any = model.module if isinstance(model, DistributedDataParallel) else model
    base = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
    name = base.config.name_or_path or type(base).__name__
    if "position_ids" not in inspect.signature(base.forward).parameters:
        raise blind(name)
    find, looked = masking_utils.find_packed_sequence_indices, []

    def noted(position_ids: torch.Tensor) -> torch.Tensor | None:
        looked.append(True)
        return find(position_ids)

    masking_utils.find_packed_sequence_indices = noted
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = find
    if not looked:
        raise blind(name)
