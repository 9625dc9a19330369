"""Predicted against measured inside of a training: a callback of transformers' Trainer, of TRL's
trainers too, and a context manager around any other loop.

    trainer = SFTTrainer(..., callbacks=[PredictedVsMeasured()])

The first step warms up, the second is measured on a CPU, the others are timed; then every hook is
gone. torch and transformers are imported when a training starts.
"""

import json
import platform
import sys
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.units import bytes_text, change_text, seconds_text

if TYPE_CHECKING:
    import torch

    from lora_profiler.facts.catalog import Gpu
    from lora_profiler.planning.answers import Answer

STEPS = 5
_FEWEST = 3
_ROWS = 1000
"""Of a data set, that are looked at for the longest before training starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOutcome:
    """Bytes and seconds; None for what is not known. `peak` is that of the tensors. `reason` says
    why nothing is predicted."""

    predicted_peak_bytes: int | None = None
    measured_peak_bytes: int | None = None
    measured_reserved_bytes: int | None = None
    predicted_step_seconds: float | None = None
    measured_step_seconds: float | None = None
    reason: str = ""

    @property
    def sentence(self) -> str:
        """'peak 14.72 GiB predicted, 14.70 GiB measured (+0.1 %); step 0.52 s predicted, ...'"""
        peak = _both("peak", self.predicted_peak_bytes, self.measured_peak_bytes, bytes_text)
        step = _both("step", self.predicted_step_seconds, self.measured_step_seconds, seconds_text)
        why = f" Not predicted: {self.reason}." if self.reason else ""
        return f"{'; '.join(filter(None, (peak, step))) or 'nothing measured'}.{why}"

    @property
    def metrics(self) -> dict[str, float]:
        """As reporters log them."""
        values = {k: v for k, v in asdict(self).items() if isinstance(v, int | float)}
        return {f"lora_profiler/{name}": value for name, value in values.items()}


def _both(name: str, predicted: Any, measured: Any, text: Any) -> str:
    found = [(predicted, "predicted"), (measured, "measured")]
    words = ", ".join(f"{text(value)} {word}" for value, word in found if value is not None)
    error = f" ({change_text(predicted / measured - 1)})" if predicted and measured else ""
    return f"{name} {words}{error}" if words else ""


class PredictedVsMeasured:
    """Says when training starts whether it will fit, and after `steps` optimizer steps what was
    predicted and what was measured; the trainer's own reporters log it.

    `share` is a file for one small record of it: GPU, question, prediction, measurement, versions;
    no path, no name of a host, and no name of a model that is not public. Around a loop without a
    trainer: `with PredictedVsMeasured().loop(model, optimizer): ...`.

    Examples:
        >>> from lora_profiler.integrations import PredictedVsMeasured
        >>> PredictedVsMeasured(steps=2)
        Traceback (most recent call last):
        ...
        lora_profiler.errors.UsageError: steps is 2; one warms up, and two are measured: 3 or more.
    """

    def __init__(self, *, steps: int = STEPS, share: str | PathLike[str] | None = None) -> None:
        if steps < _FEWEST:
            raise UsageError(f"steps is {steps}; one warms up, and two are measured: 3 or more.")
        self.steps = steps
        self.share = None if share is None else Path(share)
        if self.share is not None and not self.share.absolute().parent.is_dir():
            raise UsageError(f"There is no folder {self.share.parent}; make it first.")
        self.outcome: TrainingOutcome | None = None
        """What came of it, once it is known."""
        self._watch: _Watch | None = None

    def __getattr__(self, name: str) -> Any:
        """A callback has a method for every event: those that nothing is done at do nothing."""
        if name.startswith("on_"):
            return lambda *args, **kwargs: None
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if not state.is_world_process_zero:
            return
        if self._watch is not None:  # of a start that failed, as where a batch size is searched
            self._watch.unhook()
        try:
            self._begin(args, state, given)
        except Exception as error:  # which is no reason to end a training
            _say(f"not measured: {type(error).__name__}: {error}")

    def _begin(self, args: Any, state: Any, given: Mapping[str, Any]) -> None:
        trainer, optimizer = _trainer_of(state), _unwrapped(given["optimizer"])
        if why := _unwatchable(given["model"], optimizer, args):
            _say(f"not measured: {why}.")
            return
        watch = _Watch(given["model"], optimizer, trainer, self.steps, args.world_size)
        watch.end = lambda: self._end(watch)
        self._watch = watch
        data = getattr(given.get("train_dataloader"), "dataset", None)
        _say(watch.at_start(args.per_device_train_batch_size, _longest(data, args)))

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self._watch is not None and (control.should_evaluate or control.should_save):
            self._watch.pause()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self._watch is not None:
            self._watch.close()

    @contextmanager
    def loop(
        self, model: "torch.nn.Module", optimizer: "torch.optim.Optimizer"
    ) -> "Iterator[PredictedVsMeasured]":
        """Watches the steps of `optimizer` inside; `outcome` is there when they are measured."""
        optimizer = _unwrapped(optimizer)
        if why := _unwatchable(model, optimizer):
            raise UsageError(f"not measured: {why}.")
        watch = _Watch(model, optimizer, None, self.steps, 1)
        watch.end = lambda: self._end(watch)
        try:
            yield self
        finally:
            watch.close()

    def _end(self, watch: "_Watch") -> None:
        self._watch, trainer = None, watch.trainer()  # the watch holds the model
        self.outcome = outcome = watch.outcome()
        _say(outcome.sentence)
        if trainer is not None:
            trainer.log(outcome.metrics)
        if self.share is not None:
            from lora_profiler.measuring.records.locks import write_for_user

            text = json.dumps(watch.record(outcome), indent=2) + "\n"
            try:
                write_for_user(self.share, text, replace=True)
            except OSError as error:  # which is no reason to end a training
                _say(f"{self.share} cannot be written: {error.strerror}.")


def _say(text: str) -> None:
    line, bars = f"lora-profiler: {text}", sys.modules.get("tqdm")
    if bars is not None:
        bars.tqdm.write(line, file=sys.stderr)  # on a line of its own, above the trainer's bar
    else:
        print(line, file=sys.stderr, flush=True)


def _unwrapped(optimizer: Any) -> Any:
    """The optimizer that accelerate's holds."""
    return getattr(optimizer, "optimizer", optimizer)


def _trainer_of(state: Any) -> Any:
    """The trainer whose state it is, which no event names."""
    import gc

    from transformers import Trainer

    for each in gc.get_objects():
        if issubclass(type(each), Trainer) and getattr(each, "state", None) is state:
            return each
    return None


def _unwatchable(model: Any, optimizer: Any, args: Any = None) -> str:
    """Why a training is better left alone, '' where it is not."""
    from lora_profiler.rehearsal.inside.rehearsed.trained_model import is_compiled

    if not hasattr(optimizer, "register_step_post_hook"):
        return f"{type(optimizer).__name__} is no optimizer of torch's"
    compiles = getattr(args, "torch_compile", False) or any(map(is_compiled, model.modules()))
    return "hooks would have a compiled model compiled anew" if compiles else ""


def _longest(data: Any, args: Any) -> int | None:
    """Tokens of the longest of the first rows, as far as the trainer keeps them; else the most that
    it keeps; None where neither is known."""
    most = getattr(args, "max_length", None)
    if not hasattr(data, "__len__"):  # it streams
        return most
    column = "input_ids" in (getattr(data, "column_names", None) or ())
    if not column and not (isinstance(data, list) and data and "input_ids" in data[0]):
        return most
    rows = data[: min(len(data), _ROWS)]
    ids = rows["input_ids"] if column else [row["input_ids"] for row in rows]
    longest = max(map(len, ids), default=0)
    return (min(longest, most) if most else longest) or most


class _Watch:
    """Steps of one optimizer, from the first forward pass of each to that of the next. `end` is
    called once, after `steps` of them or by `close`."""

    def __init__(
        self,
        model: "torch.nn.Module",
        optimizer: "torch.optim.Optimizer",
        trainer: Any,
        steps: int,
        world_size: int,
    ) -> None:
        import torch

        from lora_profiler.measuring.harness.counters import Counters

        self._torch, self._model = torch, model
        # a training that fails must leave neither alive
        self._optimizer: Any = weakref.ref(optimizer)
        self.trainer = (lambda: None) if trainer is None else weakref.ref(trainer)
        self._steps, self._world_size = steps, world_size
        self.kind = next((p.device.type for p in model.parameters()), "cpu")
        self._counters = Counters(self.kind)
        self._record: Any = None
        self._number, self._forwards, self._has_stepped = 1, 0, False
        self._accumulation = 1
        self._autocast: str | None = None
        self._shapes: dict[str, list[int]] = {}
        self._padding = 0.0
        self._input_bytes = self._tokens = self._measured_tokens = 0
        self._output: Any = lambda: None
        self._holds_outputs = self._holds_cache = False
        self._began = self._seconds = 0.0
        self._paused: float | None = None
        self._timed = 0
        self._is_recorded = False
        """Whether the peak is known, of the step whose sizes are."""
        self._peak: int | None = None
        self._reserved: int | None = None
        self.end: Any = lambda: None
        embedding = getattr(model, "get_input_embeddings", lambda: None)()
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
            model.register_forward_pre_hook(self._called, with_kwargs=True),
            model.register_forward_hook(self._returned),
        ]
        if embedding is not None:
            self._hooks.append(embedding.register_forward_pre_hook(self._inside))

    # --- what the hooks see -----------------------------------------------------------------------

    def _called(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not self._torch.is_grad_enabled():
            return
        if self._optimizer() is None:  # its training failed
            self.unhook()
            return
        given = [v for v in (*args, *kwargs.values()) if isinstance(v, self._torch.Tensor)]
        if self._paused is not None:
            self._counters.synchronize()
            self._began += time.perf_counter() - self._paused
            self._paused = None
        if self._has_stepped:
            self._has_stepped = False
            self._number += 1
            self._accumulation, self._forwards = self._forwards, 0
            self._boundary(given)
        self._forwards += 1
        from lora_profiler.rehearsal.inside.rehearsed.trained_model import input_shapes

        shapes = input_shapes(args, kwargs)
        tokens = _tokens(shapes)
        self._measured_tokens += tokens if self._timed else 0
        if not self._is_recorded and (self._number == 1 or tokens > self._tokens):
            self._shapes, self._tokens = shapes, tokens
            self._padding = _padded_share(kwargs.get("attention_mask"))
            storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in given}
            self._input_bytes = sum(s.nbytes() for s in storages.values())

    def _inside(self, module: Any, args: tuple[Any, ...]) -> None:
        """In the model's own forward pass, where autocast is on if it is at all."""
        if self._torch.is_autocast_enabled(self.kind):
            dtype = self._torch.get_autocast_dtype(self.kind)
            self._autocast = str(dtype).removeprefix("torch.")

    def _returned(self, module: Any, args: Any, output: Any) -> None:
        if not self._torch.is_grad_enabled():
            return
        named = output if isinstance(output, Mapping) else {}
        logits = named.get("logits")
        self._output = (lambda: None) if logits is None else weakref.ref(logits)
        self._holds_cache = named.get("past_key_values") is not None

    def _before_step(self, *_: Any) -> None:
        self._holds_outputs = self._output() is not None

    def _after_step(self, *_: Any) -> None:
        """What runs until the next forward pass, as an evaluation, is no part of a step."""
        self._has_stepped = True
        self._end_record()
        if self._counters.available and self._number > 1:
            read = self._counters.read()
            self._peak = max(self._peak or 0, read["requested_peak_bytes"] or 0)
            self._reserved = max(self._reserved or 0, read["reserved_peak_bytes"] or 0)

    def pause(self) -> None:
        """The clock stands until the next forward pass."""
        if self._timed:
            self._counters.synchronize()
            self._paused = time.perf_counter()

    def _boundary(self, inputs: list[Any]) -> None:
        """At the first forward pass of step `_number`."""
        if self._number == 2:
            self._tokens = 0  # the first step's sizes are not measured
            self._begin_memory(inputs)
        elif self._number == _FEWEST:
            self._counters.synchronize()
            self._began, self._timed = time.perf_counter(), 1
        elif self._number > self._steps:
            self.close()
        elif self._timed:
            self._timed += 1
        if self._counters.available and 2 < self._number <= self._steps:
            self._counters.reset_peaks()

    def _begin_memory(self, inputs: list[Any]) -> None:
        if self._counters.available:
            self._counters.reset_peaks()
        elif self.kind == "cpu":
            from lora_profiler.measuring.harness.counters import AllocatorRecord
            from lora_profiler.measuring.harness.ownership import (
                by_address,
                gradient_tensors,
                model_tensors,
                optimizer_tensors,
                storage_of,
            )

            output = self._output()
            ending = [*gradient_tensors(self._model), *([] if output is None else [output])]
            alive = [t for _, t in model_tensors(self._model)] + inputs + ending
            alive += optimizer_tensors(self._optimizer())
            storages = [storage_of(tensor) for tensor in alive if tensor.device.type == "cpu"]
            record = AllocatorRecord({by_address(s): s.nbytes() for s in storages})
            try:
                record.start()
            except RuntimeError:  # the user's own profiler runs, and torch has one
                return
            self._record = record
            for storage in map(storage_of, ending):  # whose end torch's profiler does not report
                weakref.finalize(storage, self._note_end, record, by_address(storage))

    def _note_end(self, record: Any, address: int) -> None:
        if record is self._record:
            record.mark(2, "forward", str(address))

    def _end_record(self) -> None:
        record, self._record = self._record, None
        if record is not None:
            timeline = record.stop()
            ended = {int(mark.note): mark.position for mark in timeline.marks}
            for each in timeline.allocations:
                if each.born < 0 and each.key in ended:
                    each.died = ended[each.key]
            self._peak, self._is_recorded = max(timeline.live_bytes()), True

    def unhook(self) -> bool:
        """Takes every hook off; whether there was one."""
        hooks, self._hooks = self._hooks, []
        for hook in hooks:
            hook.remove()
        self._end_record()
        return bool(hooks)

    def close(self) -> None:
        """Takes every hook off, and says what was found."""
        if not self.unhook():
            return
        if self._number == self._steps and self._has_stepped:
            self._timed += 1 if self._timed else 0
        if self._timed:
            self._counters.synchronize()
            self._seconds = (self._paused or time.perf_counter()) - self._began
        self.end()

    # --- what is predicted ------------------------------------------------------------------------

    def _facts(self) -> dict[str, Any]:
        from lora_profiler.rehearsal.inside.rehearsed.trained_model import training_summary

        return training_summary([self._optimizer()], self._model, self.trainer()) | {
            "inputs": self._shapes,
            "padding": self._padding,
            "input_bytes": self._input_bytes,
            "autocast": self._autocast,
            "accumulation": self._accumulation,
            "holds_outputs": self._holds_outputs,
            "holds_cache": self._holds_cache,
            "device": self.kind,
        }

    def _answer(self) -> "tuple[Answer | None, str]":
        """The answer, or why there is none."""
        try:
            return self._predicted(), ""
        except LoraProfilerError as error:
            return None, str(error).rstrip(".")
        except Exception as error:  # of a model that nobody thought of: its training goes on
            return None, f"{type(error).__name__}: {error}"

    def _predicted(self) -> "Answer":
        """Raises LoraProfilerError where nothing near enough can be asked."""
        from lora_profiler.planning.answers import Answer, Times
        from lora_profiler.planning.fit import fit
        from lora_profiler.planning.nearest import nearest

        gpu = self._gpu()
        capability = None
        if self.kind == "cuda":
            major, minor = self._torch.cuda.get_device_capability()
            capability = 10 * major + minor
        found = nearest(self._facts(), self._world_size, capability, self._torch.__version__)
        if found.prediction is None:
            raise UsageError(found.reason)
        prediction, workload = found.prediction, found.prediction.workload
        return Answer(
            prediction=prediction,
            gpu=gpu,
            fit=fit(workload, gpu, "auto", prediction) if gpu else None,
            levers=(),
            communication=None,
            times=Times([prediction], gpu, ["auto"], [None]),
        )

    def _gpu(self) -> "Gpu | None":
        from lora_profiler.facts.catalog import Gpu, match_device
        from lora_profiler.units import GIB

        if self.kind != "cuda":
            return None
        properties = self._torch.cuda.get_device_properties(self._torch.cuda.current_device())
        name, total = str(properties.name), int(properties.total_memory)
        return match_device(name, total) or Gpu(
            key=name,
            name=name,
            memory_gib_marketed=total / GIB,
            memory_bytes_usable=total,
            source="this machine",
        )

    def at_start(self, batch_size: int, seq_len: int | None) -> str:
        """Whether it will fit, in the command line's words, before the first batch is known."""
        if seq_len is None:
            return "the lengths of samples are not known before the first step."
        shape = [batch_size, seq_len]
        self._shapes = {"input_ids": shape, "attention_mask": shape, "labels": shape}
        args = getattr(self.trainer(), "args", None)
        self._autocast = _autocast(args)
        self._accumulation = getattr(args, "gradient_accumulation_steps", 1)
        answer, reason = self._answer()
        self._shapes, self._autocast = {}, None
        if answer is None:
            return f"not predicted: {reason}."
        from lora_profiler.report.answer.verdicts import method_name, size_text, verdict_blocks
        from lora_profiler.report.terminal import SIGNS

        if answer.gpu is not None:
            verdict = verdict_blocks([answer])[0]
            words = f"{SIGNS[verdict.sign]} {verdict.words}{verdict.rest}"
        else:
            peak = size_text(answer.prediction.peak.total_bytes)
            words = f"{method_name(answer)} needs {peak}."
        return f"{words} Assumed: batch {batch_size} × {seq_len:,} tokens."

    def outcome(self) -> TrainingOutcome:
        from lora_profiler.runs.comparison.errors import counted_peak

        measured = self._seconds / self._timed if self._timed and self._seconds else None
        found = TrainingOutcome(
            measured_peak_bytes=self._peak,
            measured_reserved_bytes=self._reserved,
            measured_step_seconds=measured,
        )
        self._answered, reason = self._answer() if self._shapes else (None, "no step ran")
        if self._answered is None:
            return replace(found, reason=reason)
        step = self._answered.step
        # batches that are padded to other lengths take another time
        share = self._measured_tokens / (self._timed * self._accumulation * self._tokens or 1)
        return replace(
            found,
            predicted_peak_bytes=counted_peak(self._answered.prediction),
            predicted_step_seconds=step.time.seconds * (share or 1) if step else None,
        )

    def record(self, outcome: TrainingOutcome) -> dict[str, Any]:
        """What `share` writes."""
        from lora_profiler.facts.catalog import bundled_models
        from lora_profiler.measuring.harness.environment import packages
        from lora_profiler.question.workload import setup_dict

        answer = self._answered
        question: dict[str, Any] | None = None
        if answer is not None:
            workload = answer.prediction.workload
            model = workload.model
            public = model.id in {entry.id for entry in bundled_models()}
            question = {
                "model": model.id if public else None,
                "model_type": model.model_type,
                "parameters": model.num_parameters,
                "setup": setup_dict(workload.setup),
            }
        gpu = self._gpu()
        of_trainer = None if self.trainer() is None else type(self.trainer())
        trainer = None if of_trainer is None else of_trainer.__name__
        known = of_trainer is None or of_trainer.__module__.startswith(("transformers", "trl"))
        return {
            "schema_version": "1.0",
            "kind": "predicted against measured",
            "device": gpu.name if gpu else self.kind,
            "device_bytes": gpu.usable_bytes if gpu else None,
            "trainer": trainer if known else "another",
            "question": question,
            **asdict(outcome),
            "versions": {"python": platform.python_version(), **packages()},
        }


def _padded_share(mask: Any) -> float:
    """Of a batch with such an attention mask, which models drop where nothing is padded."""
    return 0.0 if mask is None or mask.ndim != 2 else 1 - mask.bool().float().mean().item()


def _tokens(shapes: Mapping[str, list[int]]) -> int:
    shape = shapes.get("input_ids") or shapes.get("0") or [0]
    count = 1
    for size in shape:
        count *= size
    return count


def _autocast(args: Any) -> str | None:
    if getattr(args, "bf16", False):
        return "bfloat16"
    return "float16" if getattr(args, "fp16", False) else None
