"""What autograd does in place, and out of place while a dispatch mode watches it.

Sources: torch `csrc/autograd/input_buffer.cpp` for sums, `areAnyTensorSubclassLike` in
`csrc/autograd/FunctionsManual.cpp` for the others. The counts of uses are private and of one
version of torch: `tests/test_overrides.py` tries every operator.
"""

from collections.abc import Mapping
from typing import Any

import torch

aten = torch.ops.aten
IN_PLACE = {
    aten.add.Tensor: (aten.add_.Tensor, 4),
    aten.scatter.src: (aten.scatter_.src, 4),
    aten.scatter_add.default: (aten.scatter_add_.default, 4),
    aten.index_add.default: (aten.index_add_.default, 4),
    aten.index_put.default: (aten.index_put_.default, 5),
}
"""Operator -> what autograd calls instead of it, and the uses that its first tensor has then."""
_STORAGE_USES = 2


def held_by_nobody_else(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether autograd works here on a tensor of its own: the sum of gradients so far, or the zeros
    around a gradient.

    It does so in place, but never while a dispatch mode is active, so the tracer does it in its
    stead.
    """
    if func not in IN_PLACE or kwargs or torch.is_grad_enabled():
        return False
    first = args[0]
    if func is aten.add.Tensor:
        second = args[1]
        if not (isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)):
            return False
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
    uses: int = first._use_count()
    return (
        uses <= IN_PLACE[func][1]
        and torch._C._storage_Use_Count(first.untyped_storage()._cdata) <= _STORAGE_USES
    )
