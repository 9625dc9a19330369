"""Whether a model tells packed sequences apart: transformers finds them in the position ids while
it makes the mask."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lora_profiler.modeling.contents import within
from lora_profiler.support.packing import blind


@contextmanager
def told_apart(model: nn.Module) -> Iterator[None]:
    """A forward pass of `model` on packed rows. Raises UsageError where its code never looks for
    sequences in the rows."""
    from transformers import masking_utils

    base, name = within(model)
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
