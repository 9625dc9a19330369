"""A step whose head and loss are numbers of bytes, so that the law of its stack leaves them open:
`support.losses.LossBytes` says what they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lora_profiler.question.feature import File, Kind, part
from lora_profiler.trace.modeling import losses
from lora_profiler.trace.patching import replaced


class SeamBytes(NamedTuple):
    """Of what is born and gone in the forward pass, of what is kept, and of what is born and gone
    beside that in backward."""

    ahead: int
    kept: int
    back: int


class Seam:
    """Stands for the loss of a step; `dtypes` are those of the hidden states that it was given."""

    def __init__(self, sizes: SeamBytes) -> None:
        self._sizes = sizes
        self.dtypes: set[str] = set()

    @contextmanager
    def in_place_of_loss(self) -> Iterator[None]:
        def part_or_seam(kind: Kind, name: str, file: File, needed: str) -> Any:
            return scaled if needed == "scaled_loss" else part(kind, name, file, needed)

        def scaled(_: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, *__: Any) -> Tensor:
            return self._loss(hidden, weight, bias)

        with replaced(losses, "part", part_or_seam):
            yield

    def _loss(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        self.dtypes.add(str(hidden.dtype).removeprefix("torch."))
        made: Tensor = _Loss.apply(hidden, weight, bias, self._sizes)  # type: ignore[no-untyped-call]
        return made


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, sizes: SeamBytes
    ) -> Tensor:
        hidden.new_empty((sizes.ahead,), dtype=torch.uint8)
        ctx.save_for_backward(hidden.new_empty((sizes.kept,), dtype=torch.uint8))
        ctx.given = [None if t is None else (t.shape, t.dtype) for t in (hidden, weight, bias)]
        ctx.back = sizes.back
        return hidden.new_empty((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = grads
        gradient.new_empty((ctx.back,), dtype=torch.uint8)
        made = [
            gradient.new_empty(given[0], dtype=given[1]) if needed and given else None
            for given, needed in zip(ctx.given, ctx.needs_input_grad, strict=False)
        ]
        return *made, None
