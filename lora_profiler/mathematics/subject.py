"""The model on which claims are checked, the text that it is trained on and measured on, and a
plain training loop: AdamW without weight decay at one learning rate, so that updates are the
gradient's.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_profiler.mathematics.effort import Effort
from lora_profiler.model_spec import ModelSpec
from lora_profiler.modeling import build_model
from lora_profiler.workload import Dtype, TrainSetup, Workload

HELD_OUT_SHARE = 0.15
"""Of the text, its end: nothing is trained on it."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """`folder` has config.json, weights and tokenizer, as `from_pretrained` takes them; `tokens`
    are those of the text, 1-D.

    `weights` and `text` are what results call them; `note` says what must be known of a model that
    nobody asked for.
    """

    spec: ModelSpec
    folder: Path
    weights: str
    text_path: Path
    text: str
    tokens: torch.Tensor
    note: str | None = None

    def model(self, dtype: Dtype = "float32") -> Any:
        """A model of its own with the weights in `dtype`, in eval mode, every parameter
        trainable."""
        return deepcopy(self._loaded).to(getattr(torch, dtype))

    @cached_property
    def _loaded(self) -> torch.nn.Module:
        workload = Workload(model=self.spec, setup=TrainSetup(device="cpu", dtype="float32"))
        return build_model(workload, weights=str(self.folder)).eval()

    def training_batches(self, count: int, effort: Effort, seed: int) -> list[torch.Tensor]:
        """`count` batches from the first part of the text, windows in an order drawn from `seed`,
        the same for every run."""
        return _batches(self.tokens[: self._split], count, effort, seed)

    def held_out_batches(self, effort: Effort) -> list[torch.Tensor]:
        """Batches from the last part of the text, always the same ones."""
        return _batches(self.tokens[self._split :], effort.held_out_batches, effort, seed=0)

    def check_ids(self, effort: Effort) -> torch.Tensor:
        """One sequence (1 x tokens) from the last part of the text."""
        return self.tokens[self._split : self._split + effort.check_tokens].reshape(1, -1)

    @property
    def _split(self) -> int:
        return int(len(self.tokens) * (1 - HELD_OUT_SHARE))


def _batches(tokens: torch.Tensor, count: int, effort: Effort, seed: int) -> list[torch.Tensor]:
    """Windows that do not overlap, until the text is used up; then the same ones in another
    order."""
    length = effort.seq_len
    windows = tokens[: len(tokens) // length * length].reshape(-1, length)
    assert len(windows), f"a text of {len(tokens)} tokens has no window of {length}"
    draw = torch.Generator().manual_seed(seed)
    rounds = -(-count * effort.batch_size // len(windows))
    order = torch.cat([torch.randperm(len(windows), generator=draw) for _ in range(rounds)])
    return [
        windows[order[i * effort.batch_size : (i + 1) * effort.batch_size]] for i in range(count)
    ]


Batch = torch.Tensor
"""Token ids, batch x tokens; they are their own labels."""


def loss_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the next token, in the graph."""
    loss: torch.Tensor = model(input_ids=batch, labels=batch, use_cache=False).loss
    return loss


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Sequence[Batch]) -> float:
    """The mean over batches of one size, in eval mode; the mode is put back."""
    was_training = model.training
    model.eval()
    total = sum(loss_of(model, batch).item() for batch in batches)
    model.train(was_training)
    return total / len(batches)


def train(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    learning_rate: float,
    seed: int,
    after_step: Callable[[int], None] = lambda step: None,
) -> list[float]:
    """One optimizer step a batch; the loss of each before its step. `after_step` is told the number
    of steps done.

    What trains is what requires a gradient. `seed` is that of the model's dropout. The model is
    left in eval mode.
    """
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=learning_rate, weight_decay=0.0
    )
    model.train()
    losses = []
    for number, batch in enumerate(batches, 1):
        loss = loss_of(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        after_step(number)
    model.eval()
    return losses
