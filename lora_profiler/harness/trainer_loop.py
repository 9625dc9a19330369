"""A trainer's own loop, stepped from outside.

`Trainer.train()` gives nothing back until it is done. Here it runs in a greenlet of the same
thread, so that dispatch modes, autocast and profilers see it as they see the harness' own steps,
and it waits wherever it is about to fetch the batches of a step.
"""

from collections.abc import Callable
from typing import Any

import greenlet
import torch

from lora_profiler.harness.process_group import DistributedModel
from lora_profiler.harness.training import Enter, Training, ballast
from lora_profiler.modeling import attention_context
from lora_profiler.records.locks import WorkingFolder
from lora_profiler.workload import TrainSetup


class TrainerLoop(Training):
    """`trainer`, one of transformers or made of it, as the harness steps through it. Its batches,
    evaluation and clipping are its own, phases of the step that they belong to. `folder` is its
    output's."""

    def __init__(
        self, trainer: Any, setup: TrainSetup, folder: WorkingFolder, ballast_bytes: int = 0
    ) -> None:
        self._folder = folder
        self.setup, self.held, self.of_loop, self.steps_done = setup, None, None, 0
        self.ballast = ballast(setup, ballast_bytes)
        self._trainer, self._losses = trainer, list[torch.Tensor]()
        self._enter: Enter = lambda step, phase: None
        self._follow(trainer)
        self._loop = greenlet.greenlet(trainer.train)
        with attention_context(setup):
            self._loop.switch()  # up to the first batch: by then it has its optimizer
        self.model, self.reference = trainer.model, getattr(trainer, "ref_model", None)
        self.spread = DistributedModel(module=self.model)
        self.optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)

    def step(self, enter: Enter) -> torch.Tensor:
        """One optimizer step with what the trainer does after it; the mean loss of its
        micro-batches."""
        self._enter = enter
        with attention_context(self.setup):
            self._loop.switch()
        if self._loop.dead:
            raise RuntimeError(f"{type(self._trainer).__name__} ended by itself")
        losses, self._losses = self._losses, []
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def loss(self) -> torch.Tensor:
        self.model.train()  # which it does itself in a step, and not after evaluation
        batch = self._trainer._prepare_inputs(next(iter(self._trainer.get_train_dataloader())))
        with self._trainer.compute_loss_context_manager():
            loss: torch.Tensor = self._trainer.compute_loss(self.model, batch)
        return loss

    def close(self) -> None:
        """Ends `train()` where it stands: a greenlet that waits is never collected."""
        self._loop.throw(greenlet.GreenletExit)
        self._folder.cleanup()

    def evaluate(self, enter: Enter) -> None:
        """Nothing: the trainer evaluates at the end of its step."""

    def _follow(self, trainer: Any) -> None:
        """Has the trainer tell where it stands, by its own methods and callbacks."""
        from transformers import TrainerCallback

        loop = self

        class Told(TrainerCallback):
            def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
                loop._at("optimizer")

            def on_optimizer_step(self, *_: Any, **__: Any) -> None:
                loop._at("zero")

            def on_step_end(self, *_: Any, **__: Any) -> None:
                loop.steps_done += 1

        trainer.add_callback(Told())
        get_batches, train_on = trainer.get_batch_samples, trainer.training_step

        def get_batch_samples(*args: Any, **kwargs: Any) -> Any:
            self._loop.parent.switch()
            self._at("setup")
            return get_batches(*args, **kwargs)

        def training_step(*args: Any, **kwargs: Any) -> torch.Tensor:
            self._at("forward")
            loss: torch.Tensor = train_on(*args, **kwargs)
            self._losses.append(loss)
            return loss

        trainer.get_batch_samples, trainer.training_step = get_batch_samples, training_step
        trainer.evaluate = self._after("evaluation", trainer.evaluate)
        trainer._clip_grad_norm = self._after("clip", trainer._clip_grad_norm)
        trainer.accelerator.backward = self._after("backward", trainer.accelerator.backward)

    def _at(self, phase: Any) -> None:
        number = self.steps_done + (phase != "evaluation")
        self._enter(number, phase)

    def _after(self, phase: Any, method: Callable[..., Any]) -> Callable[..., Any]:
        """`method`, whose call begins `phase`."""

        def told(*args: Any, **kwargs: Any) -> Any:
            self._at(phase)
            return method(*args, **kwargs)

        return told
