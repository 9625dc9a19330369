"""How much is run; the model on which claims are checked, the text that it is trained on and
measured on, and a plain training loop: AdamW without weight decay at one learning rate, so that
updates are the gradient's."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import Dtype, TrainSetup, Workload
from lora_profiler.trace.modeling import build_model

SMALL_PARAMETERS = 10_000_000
"""A model with fewer is fed more tokens a step, which costs it little, and learns at a higher rate,
as narrow models do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Sizes of a run. A step is one optimizer step on `batch_size` x `seq_len` tokens.

    check_tokens: on which layers are compared with their formula. held_out_batches: on which losses
    are measured. merge_steps: that give the adapters of claims 2 and 3 something to add.
    timed_calls: of a layer. scaling_learning_rate: at which claim 5 trains every rank.
    learning_rates: that it tries at its outermost ranks. full_learning_rate, lora_learning_rate: of
    claim 6. cost_memory_steps: that claim 7 watches the allocator for. cost_steps, cost_seconds: of
    its timing.
    """

    name: Literal["quick", "full"]
    batch_size: int
    seq_len: int
    check_tokens: int
    held_out_batches: int
    merge_steps: int
    timed_calls: int
    scaling_ranks: tuple[int, ...]
    scaling_steps: int
    scaling_learning_rate: float
    learning_rates: tuple[float, ...]
    tuning_ranks: tuple[int, ...]
    tuning_steps: int
    full_learning_rate: float
    lora_learning_rate: float
    cost_dtypes: tuple[Literal["float32", "bfloat16"], ...]
    cost_memory_steps: int
    cost_steps: int
    cost_seconds: float


SMALL_MODEL_STEPS = {True: 150, False: 600}
"""Of training the small model that stands in where there are no weights; True is quick."""


def effort_for(num_parameters: int, *, quick: bool) -> Effort:
    """What is run on a model of that many parameters: minutes on two cores, or under two minutes
    with `quick`."""
    is_small = num_parameters < SMALL_PARAMETERS
    powers = (1, 2, 4, 8, 16, 32, 64, 128)
    return Effort(
        name="quick" if quick else "full",
        batch_size=8 if is_small else 1,
        seq_len=64 if quick else 128,
        check_tokens=32 if quick else 128,
        held_out_batches=2 if quick else 6,
        merge_steps=3 if quick else 10,
        timed_calls=10 if quick else 30,
        scaling_ranks=(1, 8, 64) if quick else powers,
        scaling_steps=3 if quick else 12,
        scaling_learning_rate=1e-3 if is_small else 3e-4,
        learning_rates=() if quick else (3e-4, 1e-3, 3e-3, 1e-2),
        tuning_ranks=(1, 8) if quick else powers,
        tuning_steps=8 if quick else 30,
        full_learning_rate=1e-3 if is_small else 1e-4,
        lora_learning_rate=5e-3 if is_small else 1e-3,
        cost_dtypes=("float32",) if quick else ("float32", "bfloat16"),
        cost_memory_steps=2,
        cost_steps=3 if quick else 5,
        cost_seconds=6.0 if quick else 20.0,
    )


# --- the model ------------------------------------------------------------------------------------


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
