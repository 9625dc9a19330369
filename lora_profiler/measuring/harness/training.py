"""A training run in steps: the batch, forward, backward, optimizer step and zero_grad that every
pass of the harness repeats."""

from array import array
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import copy
from typing import Any

import torch

from lora_profiler.measuring.harness.process_group import DistributedModel
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.memory.prediction import Phase
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.support.library_memory import (
    extra_loop_bytes,
    has_reference,
    pass_scalar_bytes,
)
from lora_profiler.question.support.packing import lengths
from lora_profiler.question.workload import TrainSetup
from lora_profiler.trace.modeling import attention_context, evaluating, forward, forward_loss
from lora_profiler.trace.modeling.contents import with_images

Enter = Callable[[int, Phase], None]
"""Called at the start of each phase with the step's number and the phase."""
Batch = Mapping[str, torch.Tensor]
IGNORED_LABEL = -100


class TrainingBatches:
    """Micro-batches of `batch_size` x `seq_len` tokens: random ones, or consecutive windows of a
    text.

    Rank r of W takes every W-th of them from the r-th on, so that W ranks together take what one
    process would with W times the accumulation; under tensor parallelism each takes the same ones.
    Each micro-batch seeds what is drawn at random within it, dropout above all, by its own number.

    Without padding the labels are the input ids themselves and there is no mask, as a data set of
    one long text gives them. Packed sequences come with position ids that begin anew, and without a
    label for their first token. To CUDA they go from pinned memory, as a data loader sends them: a
    copy from any other makes the host wait for the device. Images and sound are those that
    `model` reads.
    """

    def __init__(
        self,
        setup: TrainSetup,
        conditions: Conditions,
        vocab_size: int,
        text: torch.Tensor | None = None,
        rank: int = 0,
        model: ModelSpec | None = None,
    ) -> None:
        self._setup, self._model = setup, model
        self.sound = None if model is None else model.sound
        self._shape = (setup.batch_size, setup.seq_len)
        self._device = setup.device
        self._vocab_size = vocab_size
        # no tensor, which would count as the training's memory
        self._text = None if text is None else array("q", text.tolist())
        self._ranks = setup.batches_at_once
        self._number, self._drawn = rank % self._ranks, 0
        self._seed = conditions.seed
        self._generator = torch.Generator().manual_seed(conditions.seed + 1)
        self._padded = setup.padded_tokens
        self._positions = (
            [i for length in lengths(setup) for i in range(length)] if setup.is_packed else []
        )

    def next(self) -> Batch:
        ids = self._ids()
        torch.manual_seed(self._seed + self._number)
        self._number += self._ranks
        if self._positions:
            positions = torch.tensor(self._positions).expand(ids.shape).contiguous()
            labels = ids.masked_fill(positions == 0, IGNORED_LABEL)
            return {
                name: self._moved(t)
                for name, t in (("input_ids", ids), ("labels", labels), ("position_ids", positions))
            }
        if self.sound is not None:
            features = torch.randn(ids.shape[0], *self.sound)
            return {"input_features": self._moved(features), "labels": self._moved(ids)}
        if not self._padded and self._setup.images is None:
            ids = self._moved(ids)
            return {"input_ids": ids, "labels": ids}
        batch = self._padded_batch(ids) if self._padded else {"input_ids": ids, "labels": ids}
        if self._setup.images is not None and self._model is not None:
            batch = with_images(self._model, self._setup, batch)
        return {name: self._moved(tensor) for name, tensor in batch.items()}

    def _padded_batch(self, ids: torch.Tensor) -> Batch:
        mask = torch.ones_like(ids)
        mask[:, ids.shape[1] - self._padded :] = 0
        labels = ids.masked_fill(mask == 0, IGNORED_LABEL)
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}

    def for_evaluation(self, rows: int) -> Batch:
        """One of `rows` sequences, the same each time; batches of training stay what they are."""
        other = copy(self)
        other._shape = (rows, self._shape[1])
        other._number, other._drawn = 0, 0
        other._generator = torch.Generator().manual_seed(self._seed + 2)
        return other.next()

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._device == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)

    def _ids(self) -> torch.Tensor:
        """Micro-batch `_number`."""
        if self._text is None:
            ids = torch.empty(self._shape, dtype=torch.int64)
            while self._drawn <= self._number:  # those of other ranks too, over one another
                ids.random_(0, self._vocab_size, generator=self._generator)
                self._drawn += 1
            return ids
        count = self._shape[0] * self._shape[1]
        begin = self._number % (len(self._text) // count) * count
        return torch.tensor(self._text[begin : begin + count], dtype=torch.int64).reshape(
            self._shape
        )


def ballast(setup: TrainSetup, size: int) -> torch.Tensor | None:
    """A tensor of `size` bytes on the setup's device that nothing uses; None of none."""
    return torch.ones(size, dtype=torch.uint8, device=setup.device) if size else None


def size_of(model: torch.nn.Module) -> int:
    """Bytes of its parameters and buffers, each once."""
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


def token_counts(batch: Batch) -> tuple[int, int, int]:
    """(padded, not padding, supervised) tokens of one micro-batch; supervised are the labels that
    are not ignored."""
    padded = batch["labels"].numel()
    real = int(batch["attention_mask"].sum()) if "attention_mask" in batch else padded
    return padded, real, int((batch["labels"] != IGNORED_LABEL).sum())


class Training:
    """A model, its optimizer and its data, stepped from outside. `steps_done` counts whole
    optimizer steps.

    `held` is the output of the last forward pass where the setup says so. `ballast_bytes` are held
    as well, by a tensor that nothing uses; so is `of_loop`, what the trainer's own loop keeps,
    and `of_pass` while a pass runs.
    `spread` is how ranks share the model, whose gradients they then exchange. `reference` is a
    second model that a trainer itself keeps.
    """

    reference: torch.nn.Module | None = None

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        setup: TrainSetup,
        batches: TrainingBatches,
        ballast_bytes: int = 0,
        spread: DistributedModel | None = None,
    ) -> None:
        self.model, self.optimizer, self.setup, self.batches = model, optimizer, setup, batches
        self.ballast = ballast(setup, ballast_bytes)
        sound = batches.sound if batches is not None else None
        kept = extra_loop_bytes(setup, sound) + (size_of(model) if has_reference(setup) else 0)
        self.of_loop = torch.zeros(kept, dtype=torch.uint8, device=setup.device) if kept else None
        self.of_pass: torch.Tensor | None = None
        self.spread = spread or DistributedModel(module=model)
        # one that is off hands on what it gets
        self.scaler = torch.amp.GradScaler(setup.device, enabled=setup.precision == "amp-float16")
        self.held: object = None
        self.steps_done = 0

    @property
    def steps_to_steady(self) -> int:
        """Steps from nothing held to the last one as every later one is."""
        return 2 if self.setup.hold_outputs else 1

    def step(self, enter: Enter) -> torch.Tensor:
        """One optimizer step; returns the mean loss of its micro-batches, detached and still on the
        device.

        Only the loss is held, so that logits die in backward; the last one lives until the step is
        over, as in a plain loop. With `hold_outputs` all of the output is, until the next one is
        there.
        """
        number = self.steps_done + 1
        accumulation = self.setup.accumulation
        summed: Any = 0
        for micro in range(accumulation):
            enter(number, "setup")
            batch = self.batches.next()
            if (kept := pass_scalar_bytes(self.setup)) and self.of_pass is None:
                self.of_pass = torch.zeros(kept, dtype=torch.uint8, device=self.setup.device)
            exchange = self.spread.without_exchange() if micro + 1 < accumulation else nullcontext()
            enter(number, "forward")
            with attention_context(self.setup), exchange:
                loss, self.held = forward(self.spread.module, self.setup, batch)
                if accumulation > 1:
                    loss = loss / accumulation
                enter(number, "backward")
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            summed = loss.detach() if accumulation == 1 else summed + loss.detach()
            if micro + 1 < accumulation:
                del loss  # and its graph, as a function that trains on one micro-batch does
        self.of_pass = None
        enter(number, "optimizer")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        enter(number, "zero")
        self.optimizer.zero_grad(set_to_none=True)
        self.steps_done = number
        return summed  # type: ignore[no-any-return]

    def loss(self) -> torch.Tensor:
        """Of one more batch, with its graph."""
        return forward_loss(self.model, self.setup, self.batches.next())

    def close(self) -> None:
        """Lets go of what would outlive it."""

    def evaluate(self, enter: Enter) -> None:
        """The loss of one batch of evaluation after a step, where the setup asks for it; dropped,
        outputs and all, as transformers' Trainer drops them when nobody computes metrics."""
        if self.setup.eval_batch_size is None:
            return
        enter(self.steps_done, "evaluation")
        batch = self.batches.for_evaluation(self.setup.eval_batch_size)
        with attention_context(self.setup), evaluating(self.model):
            forward_loss(self.spread.module, self.setup, batch)
