"""One workload traced: the real model on the meta device, two whole optimizer steps, and one more
forward pass under hooks.

The loop is that of the harness (`modeling` makes model, optimizer and loss for both), so that a
trace and a measurement speak of the same instants."""

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from sysconfig import get_path
from traceback import FrameSummary, extract_tb
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import _disable_current_modes

from lora_profiler.errors import LoraProfilerError, UnbuildableError
from lora_profiler.memory.attribution import EVALUATED_LOGITS, LOGITS, LOGITS_GRADIENT
from lora_profiler.memory.prediction import Category
from lora_profiler.question.workload import FULLY_SHARDED, Workload
from lora_profiler.trace import modeling
from lora_profiler.trace.attention import flash_tower
from lora_profiler.trace.modeling.sharding import fully_sharded
from lora_profiler.trace.operators import batch_with_images
from lora_profiler.trace.overrides import (
    device_rules,
    fallbacks_noted,
    kernels_in_python,
    substitutes,
)
from lora_profiler.trace.sharded_on_meta import (
    Sent,
    collectives_noted,
    fake_group,
    fullest_rank,
    noted_collectives,
    replicated_on_meta,
)
from lora_profiler.trace.tracer import Listener, Trace, Tracer, two_steps
from lora_profiler.trace.watch import Size, effort

# --- what a trace cannot follow -------------------------------------------------------------------

_OURS, _TORCH, _PYTHON = (
    Path(__file__).parent.parent,
    Path(torch.__file__).parent,
    Path(get_path("stdlib")),
)
_PACKAGES = "site-packages"


@contextmanager
def naming_the_line(model: str, whereabouts: Callable[[], str]) -> Iterator[None]:
    """Turns what upstream code raises on tensors without data into UnbuildableError; our own
    mistakes stay what they are.

    Backward and the optimizer run no line of the model: there `whereabouts` names the module whose
    turn it was.
    """
    try:
        yield
    except LoraProfilerError:
        raise
    except Exception as e:
        frames = extract_tb(e.__traceback__)
        if _inside(frames[-1], _OURS):
            raise
        reason = " ".join(str(e).split())[:200] or type(e).__name__
        place = _place(frames) or whereabouts()
        message = (
            f"{model} cannot be traced: {place} fails on a batch of text without data: {reason}"
        )
        raise UnbuildableError(message) from e


def _place(frames: list[FrameSummary]) -> str:
    """Where the innermost code stands that is neither torch's nor Python's nor ours, or ""."""
    for f in reversed(frames):
        if not (_inside(f, _OURS) or _inside(f, _TORCH) or _of_python(f)):
            return (
                f"{f.filename.rpartition(f'{_PACKAGES}/')[2]}:{f.lineno} ({(f.line or '').strip()})"
            )
    return ""


def _inside(frame: FrameSummary, folder: Path) -> bool:
    return folder in Path(frame.filename).parents


def _of_python(frame: FrameSummary) -> bool:
    return (
        _inside(frame, _PYTHON) and _PACKAGES not in Path(frame.filename).parts
    ) or frame.filename.startswith("<")


# --- a run ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Traced:
    """A trace, the kernels that attention took, the elements that train by module, what ranks send.

    `fallbacks` are the functions that ran in plain torch for want of a package, as "function
    (package)".
    """

    trace: Trace
    kernels: tuple[str, ...]
    trainable: dict[str, int]
    sent: tuple[Sent, ...] = ()
    fallbacks: tuple[str, ...] = ()


def _plain_names(model: torch.nn.Module) -> dict[torch.nn.Module, str]:
    """Names of modules without PEFT's wrapping: those of the base model. What is inside of a layer
    that PEFT, or torch's parametrizations, wrapped has the layer's own."""
    names: dict[torch.nn.Module, str] = {}
    wrapped = "."
    for name, module in model.named_modules():
        if not name.startswith(f"{wrapped}."):
            is_wrapper = hasattr(module, "adapter_layer_names")
            wrapped = name if is_wrapper or is_parametrized(module) else "."
        else:
            name = wrapped
        plain = "" if name in ("base_model", "base_model.model") else name
        names[module] = plain.removeprefix("base_model.model.")
    return names


def trace(
    workload: Workload,
    build: Callable[[Workload], torch.nn.Module],
    *,
    listener: Listener | None = None,
) -> Traced:
    """Traces `workload` on the model that `build` makes of it on the meta device.

    `listener` is told of every operator of the second step's last micro-batch, forward and
    backward.

    Raises UnbuildableError, with the line of the model's code, where that asks for a number that no
    tensor here holds.
    """
    setup, expected = workload.setup, effort()
    if expected is not None:
        expected.begin()
    with ExitStack() as group:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if setup.sharding == "tp":  # transformers cuts weights as it makes them
                group.enter_context(fake_group(setup.world_size))
            model = build(workload)
            flash_tower(model, setup)
            if setup.world_size > 1 and setup.sharding != "tp":
                mesh = group.enter_context(fake_group(setup.world_size, fullest_rank(model, setup)))
            if setup.sharding in FULLY_SHARDED:
                fully_sharded(model, mesh, setup)
            optimizer = modeling.make_optimizer(model, setup)
        traced = _traced(workload, model, optimizer, listener)
    if expected is not None:
        expected.end(Size(workload.model.num_layers, setup.seq_len), len(traced.trace.events))
    return traced


def _traced(
    workload: Workload,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    listener: Listener | None,
) -> Traced:
    setup = workload.setup
    _keep_every_layer(model)
    kernels: set[str] = set()
    fallbacks: set[str] = set()
    sent: list[Sent] = []
    names = _plain_names(model)
    noted = substitutes(setup.device, workload.platform)
    tracer = Tracer(
        names,
        noted,
        kernels_in_python(setup),
        counts_host=setup.device == "cpu",
        has_data=setup.images is not None,
    )
    if setup.sharding == "tp":
        noted |= noted_collectives(tracer, sent)
    run = _Run(model, optimizer, workload, tracer, names, listener)
    enabled = gc.isenabled()
    gc.disable()  # deaths are those that reference counts bring, the same in every run
    try:
        with (
            warnings.catch_warnings(),
            naming_the_line(workload.model.id, tracer.whereabouts),
            device_rules(workload, kernels, tracer),
            fallbacks_noted(fallbacks),
            collectives_noted(model, setup, tracer, sent),
            tracer.following(model),
        ):
            warnings.simplefilter("ignore")
            run.execute(sent)
    finally:
        if enabled:
            gc.enable()
    whole = two_steps(tracer.trace)
    whole.attribute()
    return Traced(
        trace=whole,
        kernels=tuple(sorted(kernels)),
        trainable=_trainable(model, names),
        sent=tuple(sent),
        fallbacks=tuple(sorted(fallbacks)),
    )


def _keep_every_layer(model: torch.nn.Module) -> None:
    """Some models leave layers out at random while they train; a trace is of the step that leaves
    out none."""
    for module in model.modules():
        if getattr(module, "layerdrop", 0.0):
            module.layerdrop = 0.0  # type: ignore[assignment]  # a number, not a module


def _trainable(model: torch.nn.Module, names: dict[torch.nn.Module, str]) -> dict[str, int]:
    """Elements that train by module, a tied parameter once."""
    elements: dict[str, int] = {}
    known: set[int] = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in known:
                known.add(id(parameter))
                elements[names[module]] = elements.get(names[module], 0) + parameter.numel()
    return elements


class _Run:
    """The steps of one trace."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        workload: Workload,
        tracer: Tracer,
        names: dict[torch.nn.Module, str],
        listener: Listener | None,
    ) -> None:
        self._listener = listener
        self._workload, self._setup = workload, workload.setup
        self._model, self._optimizer, self._tracer = model, optimizer, tracer
        self._forward_model = model
        self._module_of = {
            id(p): names[m] for m in model.modules() for p in m.parameters(recurse=False)
        }
        self._names = names
        self._head = modeling.output_head(model)
        self._step, self._micro = 0, 0
        self._held: object = None

    def execute(self, sent: list[Sent]) -> None:
        """Leaves in `sent` what the second step sent."""
        tracer = self._tracer
        tracer.mark(0, 0, "before")
        tracer.register(self._owned())
        if self._setup.sharding in ("ddp", "zero1"):
            self._forward_model = replicated_on_meta(self._model, tracer, sent)
            tracer.claim_rest("communication")
        for step in (1, 2):
            sent.clear()
            with tracer:
                loss = self._whole_step(step)
            del loss
            if self._setup.eval_batch_size is not None:
                with tracer:
                    self._evaluate(self._setup.eval_batch_size)
            for category, name, tensor in self._owned():
                tracer.claim(
                    tensor, category, name
                )  # a 4-bit layer's bias is another storage after its first forward pass
        tracer.mark(3, 0, "setup")
        of_step = list(sent)
        self._forward_under_hooks()
        sent[:] = of_step

    def _owned(self) -> Iterator[tuple[Category, str, torch.Tensor]]:
        for module in self._model.modules():
            name = self._names.get(module, "")  # some models make modules as they run
            for local, parameter in module.named_parameters(recurse=False):
                adapter = "lora_" in local or id(module) in self._adapter_modules
                yield ("adapters" if adapter else "parameters"), name, parameter
                for tensor in modeling.quantization_tensors(parameter):
                    yield "quantization_state", name, tensor
            if type(module).__name__ == "Bnb4bitParametrization":  # of packed experts
                for tensor in modeling.quantization_tensors(module):
                    yield "quantization_state", name, tensor
            for _, buffer in module.named_buffers(recurse=False):
                yield "buffers", name, buffer
        for book in modeling.code_books(self._optimizer):
            yield "optimizer_states", "", book

    @cached_property
    def _adapter_modules(self) -> set[int]:
        ids = {id(p) for p in modeling.adapter_parameters(self._model)}
        return {
            id(m)
            for m in self._model.modules()
            if any(id(p) in ids for p in m.parameters(recurse=False))
        }

    def _enter(self, phase: str) -> None:
        self._tracer.mark(self._step, self._micro, phase)

    def _evaluate(self, rows: int) -> None:
        """As the harness's `Training.evaluate`."""
        self._enter("evaluation")
        batch = self._batch(rows)
        with modeling.evaluating(self._model), self._head_watched():
            modeling.forward_loss(self._forward_model, self._setup, batch)

    def _batch(self, rows: int) -> dict[str, torch.Tensor]:
        """As the harness's `Batches.next`: without padding the labels are the ids themselves.
        Flattened rows are one."""
        setup = self._setup
        if setup.images is not None:
            return self._batch_with_images(rows)
        shape = (1, rows * setup.seq_len) if setup.is_flattened else (rows, setup.seq_len)
        ids = torch.empty(shape, dtype=torch.int64, device="meta")
        if setup.is_packed:
            return {
                "input_ids": ids,
                "labels": torch.empty_like(ids),
                "position_ids": torch.empty_like(ids),
            }
        if (sound := self._workload.model.sound) is not None:
            features = torch.empty((rows, *sound), device="meta")
            return {"input_features": features, "labels": ids}
        if not setup.is_padded:
            return {"input_ids": ids, "labels": ids}
        mask = torch.empty_like(ids)
        self._tracer.pad(mask)
        return {"input_ids": ids, "labels": torch.empty_like(ids), "attention_mask": mask}

    def _batch_with_images(self, rows: int) -> dict[str, torch.Tensor]:
        with _disable_current_modes():
            batch = batch_with_images(self._workload, rows)
        for tensor in batch.values():
            self._tracer.see(tensor)
        return batch

    def _whole_step(self, step: int) -> torch.Tensor:
        """As the harness's `Training.step`: the loss is held until the step is over, and the output
        until the next where `hold_outputs` says so."""
        self._step = step
        accumulation = min(self._setup.accumulation, 2)
        summed: Any = 0
        for micro in range(accumulation):
            self._micro = micro
            self._enter("setup")
            self._tracer.counts_flops = step == 2 and micro == 0
            batch = self._batch(self._setup.batch_size)
            self._tracer.listener = (
                self._listener if step == 2 and micro == accumulation - 1 else None
            )
            with self._unsent() if micro < accumulation - 1 else nullcontext():
                self._enter("forward")
                loss = self._forward(batch)
                self._enter("backward")
                loss.backward()  # type: ignore[no-untyped-call]
            self._tracer.listener = None
            self._claim_gradients()
            summed = loss.detach() if accumulation == 1 else summed + loss.detach()
            if micro + 1 < accumulation:
                del loss
        self._tracer.counts_flops = False
        self._enter("optimizer")
        self._optimizer.step()
        self._claim_states()
        self._enter("zero")
        self._optimizer.zero_grad(set_to_none=True)
        return summed  # type: ignore[no-any-return]

    def _unsent(self) -> AbstractContextManager[None]:
        """Inside, DDP keeps gradients to itself; FSDP sends its own after every micro-batch."""
        model = self._forward_model
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def _forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with self._head_watched():
            loss, self._held = modeling.forward(self._forward_model, self._setup, batch)
        return loss / self._setup.accumulation if self._setup.accumulation > 1 else loss

    @contextmanager
    def _head_watched(self) -> Iterator[None]:
        """Inside, it is noted when the output layer has made the logits."""
        if self._head is None:
            yield
            return
        handle = self._head.register_forward_hook(self._logits_made)
        try:
            yield
        finally:
            handle.remove()

    def _logits_made(self, _module: torch.nn.Module, _args: Any, logits: Any) -> None:
        tracer = self._tracer
        if not isinstance(logits, torch.Tensor):
            return
        evaluates = not self._model.training
        if evaluates:
            tracer.mark(self._step, self._micro, "evaluation", EVALUATED_LOGITS)
        else:
            tracer.mark(self._step, self._micro, "forward", LOGITS)
        if self._setup.loss == "plain":  # else it is the hidden state that the head hands on
            tracer.claim(logits, "logits_and_loss")
        step, micro = self._step, self._micro
        if logits.requires_grad:
            logits.register_hook(lambda _: tracer.mark(step, micro, "backward", LOGITS_GRADIENT))  # type: ignore[no-untyped-call]
        if not evaluates:
            self._enter("loss")

    def _claim_gradients(self) -> None:
        for parameter in self._model.parameters():
            if parameter.grad is not None:
                self._tracer.claim(parameter.grad, "gradients", self._module_of[id(parameter)])

    def _claim_states(self) -> None:
        of_rank = getattr(self._optimizer, "optim", self._optimizer)  # ZeroRedundancyOptimizer's
        for parameter, state in of_rank.state.items():
            for value in modeling.state_tensors(state):
                self._tracer.claim(value, "optimizer_states", self._module_of[id(parameter)])
        for book in modeling.code_books(self._optimizer):
            self._tracer.claim(book, "optimizer_states", "")

    def _forward_under_hooks(self) -> None:
        """Marks what autograd keeps of a forward pass; those of the model are left out."""
        tracer, kept = self._tracer, []
        self._step, self._micro = 3, 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            birth = tracer.birth_of(tensor)
            if birth is not None:
                birth.saved = True
            with _disable_current_modes():  # an index made of a list is seen by nobody but its hook
                alias = tensor.detach()
            kept.append(alias)
            return alias

        with tracer:
            batch = self._batch(self._setup.batch_size)
            self._enter("forward")
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                loss = self._forward(batch)
            self._enter("end")
        del loss
