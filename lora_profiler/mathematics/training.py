"""A plain training loop and a plain loss: AdamW without weight decay at one learning rate, so that
updates are the gradient's."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

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
