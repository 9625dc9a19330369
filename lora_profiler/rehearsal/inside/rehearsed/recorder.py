"""Follows a script's training steps from hooks that torch offers, and ends its process after as
many as were asked for."""

import atexit
import os
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from . import kernels, outcome
from .failure import exit_code
from .kernels_by_name import between
from .peaks import Peaks
from .settings import Settings
from .tensors import Owner, owners, roots
from .trained_model import input_bytes, input_shapes, is_compiled, output_layer
from .work import StepWork

_PATIENCE_SECONDS = 60
"""For how long a rank waits for the others' results: one that ends first takes the store with it
that the others still ask."""
_LOG_ENTRIES = 20_000_000


class Recorder:
    """`step` counts from 1; a step ends as the last optimizer that is known has stepped, and goes
    on where another one steps before the next backward pass. The run is done where each optimizer
    has made the steps that were asked for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.peaks = Peaks()
        self.step, self.phase = 0, "setup"
        self.steps_done = 0
        self.optimizers: list[torch.optim.Optimizer] = []
        self.inputs: dict[str, list[int]] = {}
        self.input_bytes = self._step_of_inputs = 0
        self.autocast: str | None = None
        self.holds_outputs = self.holds_cache = False
        self.backward_passes = 0
        self.owners: dict[int, Owner] = {}
        self.out_of_memory: dict[str, Any] | None = None
        self.launches: list[tuple[int, int]] = []
        self.kernel_names: dict[str, int] = {}
        self.started = time.time()
        self._stepped: list[int] = []
        self._stepped_before: list[int] = []
        self._steps_of: dict[int, int] = {}
        self._backward_since_step = False
        self._depth = 0
        self._names_before: dict[str, int] = {}
        self._counts_before = self._counts_of_last = (0, 0)
        self._process = os.getpid()
        self._has_ended = False
        self._modules: dict[int, str] = {}
        self.head = ""
        self._model: torch.nn.Module | None = None
        self._hooks: list[RemovableHandle] = []
        self._output: Callable[[], Any] = lambda: None
        self._work: StepWork | None = None

    def __deepcopy__(self, memo: Any) -> "Recorder":
        """A copy of the model has its hooks."""
        return self

    @property
    def is_done(self) -> bool:
        return self.steps_done >= self.settings.steps

    def install(self) -> None:
        torch.cuda._lazy_call(self._card_opened)
        register_optimizer_step_pre_hook(self._before_optimizer)
        register_optimizer_step_post_hook(self._after_optimizer)
        self._forward_hook = torch.nn.modules.module.register_module_forward_pre_hook(
            self._first_forward
        )
        self._wrap_backward()
        self._save_without_hooks()
        atexit.register(self._script_ended)

    # --- as the card is opened ---

    def _card_opened(self) -> None:
        torch.cuda.memory._record_memory_history(
            max_entries=_LOG_ENTRIES, context="alloc", stacks="python"
        )
        observe = torch._C._cuda_attach_out_of_memory_observer  # type: ignore[attr-defined]
        observe(self._memory_ran_out)
        self._mark()
        self._leave_trace()

    def _leave_trace(self) -> None:
        """What is known of a process that a signal ends: that it used the card, and its steps."""
        (self.settings.folder / f"steps-{self._process}").write_text(str(self.steps_done), "utf-8")

    def _memory_ran_out(
        self, device: int, wanted_bytes: int, total_bytes: int, free_bytes: int
    ) -> None:
        self.owners = owners(self.optimizers)
        self.out_of_memory = {
            "device": device,
            "step": self.step,
            "phase": self.phase,
            "wanted_bytes": wanted_bytes,
            "free_bytes": free_bytes,
            "total_bytes": total_bytes,
        }

    # --- phases ---

    def _enter(self, step: int, phase: str) -> None:
        self.peaks.begin(step, phase)
        self.step, self.phase = step, phase
        self._mark()

    def _mark(self, module: str = "") -> None:
        torch.cuda.memory._set_memory_metadata(
            f"{self.step} {self.phase}{' ' if module else ''}{module}"
        )

    def _first_forward(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        """The first module that is called to be trained is the model, or what holds it. Autocast is
        read where the first weight is used: accelerate enters it inside of the model's call."""
        if self._model is None:
            trains = module.training and torch.is_grad_enabled() and torch.cuda.is_initialized()
            if not trains or not any(
                each.requires_grad and each.is_cuda for each in module.parameters()
            ):
                return
            self.inputs = input_shapes(args, {})
            self._observe(module)
            if self.step == 0:
                self._enter(1, "forward")
        if module._parameters or is_compiled(module):  # its compiler would trace this hook, too
            self._forward_hook.remove()
            if torch.is_autocast_enabled("cuda"):
                self.autocast = str(torch.get_autocast_dtype("cuda")).removeprefix("torch.")

    def _observe(self, model: torch.nn.Module) -> None:
        self._model = model
        if not is_compiled(model):  # which hooks would have compiled anew
            self._hooks += [
                model.register_forward_pre_hook(self._model_called, with_kwargs=True),
                model.register_forward_hook(self._model_returned),
            ]

    def observe_evaluation(self) -> None:
        """transformers' own loop of evaluation is a phase, whose end brings back that before it."""
        from transformers import Trainer

        original = Trainer.evaluation_loop

        def evaluation_loop(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            before = self.step, self.phase
            self._enter(self.step, "evaluation")
            try:
                return original(trainer, *args, **kwargs)
            finally:
                self._enter(*before)

        Trainer.evaluation_loop = evaluation_loop  # type: ignore

    def _save_without_hooks(self) -> None:
        """A model that is saved whole is loaded by a script that knows none of these."""
        original = torch.save

        def save(*args: Any, **kwargs: Any) -> None:
            observed = bool(self._hooks)
            while self._hooks:
                self._hooks.pop().remove()
            try:
                original(*args, **kwargs)
            finally:
                if observed and self._model is not None:
                    self._observe(self._model)

        torch.save = save

    def _observe_wrapper(self) -> None:
        """Of a model that was called before it was wrapped: PEFT's model calls the forward of its
        base, past the hooks of that."""
        for root in roots():
            if root is not self._model and any(each is self._model for each in root.modules()):
                self._observe(root)
                return

    def _model_called(
        self, _: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """The largest inputs of a step are those that its peak is of; named ones are not shown to
        a hook that is for all modules."""
        size = input_bytes(args, kwargs)
        if torch.is_grad_enabled() and (
            self.step > self._step_of_inputs or size > self.input_bytes
        ):
            self._step_of_inputs = self.step
            self.inputs, self.input_bytes = input_shapes(args, kwargs), size

    def _model_returned(self, _: torch.nn.Module, args: Any, output: Any) -> None:
        """Whether the script keeps the output is seen after the backward pass; of its tensors the
        first of more than one number is looked at, which are the logits."""
        if not torch.is_grad_enabled():
            return
        named = output if isinstance(output, Mapping) else {}
        tensors = [output, *named.values()] if named else [output, *_items(output)]
        of_size = (each for each in tensors if isinstance(each, torch.Tensor) and each.dim() > 0)
        kept = next(of_size, None)
        self._output = (lambda: None) if kept is None else weakref.ref(kept)
        self.holds_cache = named.get("past_key_values") is not None

    def _wrap_backward(self) -> None:
        engine = torch.autograd._engine_run_backward  # type: ignore[attr-defined]

        def run_backward(outputs: Sequence[torch.Tensor], *args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            try:
                if self._depth > 1:  # checkpointing runs one inside another
                    return engine(outputs, *args, **kwargs)
                self._begin_backward()
                # labels are kept by thread, and this one runs in a thread of autograd's own
                nodes = (getattr(each, "grad_fn", None) for each in outputs)
                marks = [node.register_prehook(lambda _: self._mark()) for node in nodes if node]
                gradients = engine(outputs, *args, **kwargs)
                for mark in marks:
                    mark.remove()
                self.holds_outputs = self._output() is not None
                if self._model is None and not self.optimizers:  # a library tries its kernels
                    self.backward_passes = 0
                    self._enter(0, "setup")
                else:
                    self._enter(self.step, "forward")
                return gradients
            finally:
                self._depth -= 1

        torch.autograd._engine_run_backward = run_backward  # type: ignore

    def _begin_backward(self) -> None:
        if self.step == 0:  # a loss without a module
            self._enter(1, "forward")
        self.backward_passes += 1
        self._backward_since_step = True
        self._enter(self.step, "backward")

    def _before_optimizer(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not torch.cuda.is_initialized():
            return
        if id(optimizer) not in map(id, self.optimizers):
            self.optimizers.append(optimizer)
        self.step = max(self.step, 1)
        if id(optimizer) in self._stepped:  # another one that is known sits this step out
            self._end_step()
        elif self._step_just_ended() and id(optimizer) not in self._stepped_before:
            self._resume_step()
        # what lies between the backward pass and here: clipping, scaling
        self.peaks.relabel(self.step, "optimizer")
        self._enter(self.step, "optimizer")
        if self.step >= self.settings.steps:
            self.owners |= owners(self.optimizers)

    def _after_optimizer(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if id(optimizer) not in map(id, self.optimizers):  # its step was the first use of the GPU
            return
        if self._work is not None:
            self._end_work(optimizer)
            return
        self._stepped.append(id(optimizer))
        self._steps_of[id(optimizer)] = self._steps_of.get(id(optimizer), 0) + 1
        made = min(self._steps_of.get(id(each), 0) for each in self.optimizers)
        is_whole = set(self._stepped) >= {id(each) for each in self.optimizers}
        if made >= self.settings.steps or self.step > self.settings.steps:
            self.steps_done = self.settings.steps
            if is_whole:
                self._count_launches()
            self.peaks.sample()
            self._write("done")
            if is_whole and self.settings.with_work and self._begin_work():
                return
            self._wait_for_others()
            self._leave(0)
        self.steps_done = made
        self._leave_trace()
        if is_whole:
            self._end_step()

    def _step_just_ended(self) -> bool:
        return bool(self._stepped_before) and not self._backward_since_step

    def _end_step(self) -> None:
        self._stepped, self._stepped_before = [], self._stepped
        self._count_launches()
        if self._model is not None and self._step_of_inputs < self.step:
            self._observe_wrapper()
        if self.step + 1 == self.settings.steps and not self._modules:
            self._name_modules()
        self.backward_passes = 0
        self._backward_since_step = False
        self._enter(self.step + 1, "forward")

    def _resume_step(self) -> None:
        """The step that seemed to have ended goes on: this optimizer was not known yet."""
        self._stepped, self._stepped_before = self._stepped_before, []
        self.step -= 1
        self.launches.pop()
        self._counts_before = self._counts_of_last

    def _count_launches(self) -> None:
        counts = kernels.launches(), kernels.library_calls()
        self.launches.append(
            (counts[0] - self._counts_before[0], counts[1] - self._counts_before[1])
        )
        self._counts_of_last, self._counts_before = self._counts_before, counts
        names = kernels.launches_by_name(self.settings.folder / f"kernels-{self._process}")
        self.kernel_names = between(self._names_before, names)
        self._names_before = names

    def _name_modules(self) -> None:
        """From here on every allocation of the forward pass is labelled with its module; not of a
        compiled model, which hooks would have compiled anew, and not as the script has it."""
        models = roots()
        if any(is_compiled(module) for root in models for module in root.modules()):
            return
        for root in models:
            for name, module in root.named_modules():
                self._modules.setdefault(id(module), name)
        self.head = self._modules.get(id(output_layer()), "")
        stack: list[str] = []

        def enter(module: torch.nn.Module, _: Any) -> None:
            stack.append(self._modules.get(id(module), stack[-1] if stack else ""))
            self._mark(stack[-1])

        def leave(module: torch.nn.Module, *_: Any) -> None:
            if stack:
                stack.pop()
            self._mark(stack[-1] if stack else "")

        torch.nn.modules.module.register_module_forward_pre_hook(enter)
        torch.nn.modules.module.register_module_forward_hook(leave, always_call=True)

    # --- one more step, for its time ---

    def _begin_work(self) -> bool:
        """What memory there is to tell is written by now: nothing of it changes any more."""
        reason = self._no_work_reason()
        if reason is None:
            try:
                self._work = StepWork(lambda: self.phase, self._model)
            except ImportError as error:
                reason = f"the script's Python does not load what reads operators ({error})"
        if self._work is None:
            outcome.add_work(self.settings, {"reason": reason})
            return False
        self._stepped = []
        self._enter(self.step + 1, "forward")
        self._work.begin()
        return True

    def _no_work_reason(self) -> str | None:
        if self.settings.world_size > 1:
            return "what several ranks send each other has no price yet"
        if any(is_compiled(module) for root in roots() for module in root.modules()):
            return "a compiled model's kernels are its compiler's own"
        return None

    def _end_work(self, optimizer: torch.optim.Optimizer) -> None:
        assert self._work is not None
        self._stepped.append(id(optimizer))
        if self._depth:  # of several that step in backward, which goes on
            self.phase = "backward"
        if set(self._stepped) >= {id(each) for each in self.optimizers}:
            outcome.add_work(self.settings, self._work.end())
            self._leave(0)

    # --- the end ---

    def _script_ended(self) -> None:
        """Python has written the error that nobody caught by then, whoever shows it."""
        if self._work is not None and os.getpid() == self._process:
            self._leave(0)  # without the step that its time would be told by
        if self._has_ended or os.getpid() != self._process or not torch.cuda.is_initialized():
            return
        error: BaseException | None = getattr(sys, "last_value", None)
        if isinstance(error, KeyboardInterrupt):
            return
        self.peaks.sample()
        if error is None:
            if not self.optimizers and self.backward_passes >= self.settings.steps:
                self.steps_done = self.settings.steps  # the script updates its weights itself
            self._write("done" if self.is_done else "ended")
            self._leave(exit_code())
        facts = outcome.error_summary(error) | {"step": self.step, "phase": self.phase}
        self._write(outcome.status_of(error), error=facts)
        self._leave(1)

    def _write(self, status: str, error: dict[str, Any] | None = None) -> None:
        self._has_ended = True
        torch.cuda.memory._set_memory_metadata("")
        self.owners |= owners(self.optimizers) if status == "done" else {}
        outcome.write(self, status, error)

    def _wait_for_others(self) -> None:
        until = time.monotonic() + _PATIENCE_SECONDS
        while (
            time.monotonic() < until
            and len(list(self.settings.folder.glob("result-*.json"))) < self.settings.world_size
        ):
            time.sleep(0.02)

    def _leave(self, code: int) -> NoReturn:
        """At once: autograd's threads and the libraries' own ends meet a card that is not there."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _items(output: Any) -> Sequence[Any]:
    return output if isinstance(output, tuple | list) else ()
