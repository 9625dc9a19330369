"""Everything that a face shows about a few ways to train one model."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple

from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.facts.stacks import Trainer
from lora_profiler.memory.prediction import LayerCost, Prediction
from lora_profiler.planning.engine import REHEARSED, engines_for, on_card, predict, predict_checked
from lora_profiler.planning.memory_savings import Lever, best_lever
from lora_profiler.planning.memory_savings import levers as every_lever
from lora_profiler.question.model_spec import Module
from lora_profiler.question.workload import Workload

if TYPE_CHECKING:
    from lora_profiler.facts.catalog import Gpu
    from lora_profiler.memory.analytic.sharding import Part
    from lora_profiler.planning.advise import Remedy
    from lora_profiler.planning.fit import Fit
    from lora_profiler.planning.over_data import LongSamples, OverData, TrainingData
    from lora_profiler.planning.placement import Communication, Network
    from lora_profiler.planning.timing import SpeedGap, TimedStep, Timing
    from lora_profiler.planning.unknowns import PeakInterval
    from lora_profiler.question.batching.batches import Batches


# --- answers --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Everything a face shows about one workload. `gpu` is the one in the question; `fit` is None
    where nobody can know it.

    `times` are those of all answers to the question, of which this one is at `place`.
    `communication` is what a rank sends, None for a process alone. `trainer` has the loop, None for
    a bare one. `given` are the names of the options that the question has, None for all that are
    not at their default. `besides` are the question's other methods, to which no change leads.

    With data the prediction, its verdict and its levers are of the worst batch, `over_data` is the
    epoch, and `timing` the average over it, which no `speed_gap` is told of.
    """

    prediction: Prediction
    gpu: "Gpu | None"
    fit: "Fit | None"
    levers: tuple[Lever, ...]
    communication: "Communication | None"
    times: "Times"
    place: int = 0
    trainer: Trainer | None = None
    given: frozenset[str] | None = None
    over_data: "OverData | None" = None
    besides: frozenset[str] = frozenset()

    @property
    def timing(self) -> "Timing | None":
        """On the card; without one, on this machine's processor where it was measured and is the
        device, else None."""
        return self.times.found[self.place][0]

    @property
    def speed_gap(self) -> "SpeedGap | None":
        """Against full fine-tuning, where that is one of the answers and both times are known."""
        return self.times.found[self.place][1]

    @property
    def step(self) -> "TimedStep | None":
        """The timed step; None where nothing is known of it."""
        return self.timing.step if self.timing else None

    @property
    def sending_seconds(self) -> float:
        """Of a step; 0 of a process alone, and where no link is known."""
        return (self.communication and self.communication.seconds) or 0.0

    @property
    def remedies(self) -> "tuple[Remedy, ...]":
        """The sets of changes that make it fit the card, searched for when asked; empty without a
        card, and where it fits."""
        if self.gpu is None or self.fit is None:
            return ()
        from lora_profiler.planning.advise import advise

        prediction = self.prediction
        workload, besides = prediction.workload, self.besides
        return advise(workload, self.gpu, "auto", prediction, besides=besides, trainer=self.trainer)

    @property
    def long_samples(self) -> "LongSamples | None":
        """The few samples of the data without which it fits the card."""
        if self.over_data is None or self.fit is None:
            return None
        from lora_profiler.planning.over_data import long_samples

        return long_samples(self.over_data, self.fit)

    @cached_property
    def smallest_cards(self) -> "tuple[Gpu, ...]":
        """The cards of the smallest memory that suffices."""
        from lora_profiler.planning.fit import smallest_cards

        return smallest_cards(self.prediction)

    @cached_property
    def smallest_card(self) -> "Gpu | None":
        """The one of them with the most to use; None where no single card suffices."""
        from lora_profiler.planning.fit import smallest_card

        return smallest_card(self.prediction)

    @cached_property
    def likely(self) -> "PeakInterval | None":
        """Where a measured peak lies, and what the question leaves open."""
        from lora_profiler.planning.unknowns import peak_interval

        return peak_interval(self.prediction, self.trainer, self.given)

    @property
    def shared_bytes(self) -> "Mapping[Part, int]":
        """What is held at the peak for other ranks' sake, by what it is; nothing of a process
        alone."""
        if not self.prediction.workload.setup.is_shared:
            return {}
        from lora_profiler.memory.analytic import shared_parts

        return shared_parts(self.prediction.workload, self.prediction.peak.moment)


_OF_DATA = ("seq_len", "packed", "padding")
"""What the lengths of samples say."""


def answers(
    workloads: Sequence[Workload],
    gpu: "Gpu | None" = None,
    engine: str = "auto",
    *,
    levers: Literal["none", "best", "all"] = "best",
    network: "Network | None" = None,
    machines: int | None = None,
    may_trace: bool = True,
    trainer: Trainer | None = None,
    given: Collection[str] | None = None,
    data: "TrainingData | None" = None,
) -> list[Answer]:
    """Predict each way to train one model, judge the card if one is named, time a step, and find
    what lowers each peak most.

    `levers` are those to look for. `network` is the link among several ranks on so
    many `machines`; without one it is the usual link inside one machine. A method that is among
    the workloads is no lever of another. `engine` and `may_trace` as in
    `predict`; the profiles for other sizes are traced when a largest one is read. `trainer` is
    whose defaults the workloads have: where its loop holds what nothing prices, no peak is exact.
    `given` names the options that the question has, where no trainer does; the peak's interval
    covers all others that runs differ in. With `data` the batches are those that a trainer makes of
    them, and each answer is of the worst.

    Raises UsageError for a network among one process or under context parallelism, and what
    `predict` raises.

    Examples:
        >>> from lora_profiler import TrainSetup, Workload, find_model
        >>> from lora_profiler.planning.answers import answers
        >>> model = find_model("gpt2")
        >>> workload = Workload(model=model, setup=TrainSetup(seq_len=512))
        >>> [a.prediction.peak.total_bytes for a in answers([workload])]
        [1331468072]
    """
    if network is not None and any(w.setup.world_size == 1 for w in workloads):
        raise UsageError(
            "--interconnect is the link among several ranks; add --world-size and --sharding, or"
            " leave it out."
        )
    if network is not None and any(w.setup.context_parallel_size > 1 for w in workloads):
        raise UsageError(
            "what attention sends under context parallelism is not counted; leave out one of"
            " --interconnect and --context-parallel-size."
        )
    if gpu is not None:
        from lora_profiler.planning.fit import check_on_card, fit

        for workload in workloads:
            check_on_card(workload)
    if any(w.setup.world_size > 1 for w in workloads):
        from lora_profiler.planning.placement import communication, link_among
    methods = frozenset(w.setup.method for w in workloads)
    batches: Sequence[Batches | None] = [None] * len(workloads)
    if data is not None:
        from lora_profiler.planning.over_data import batches_for, over_data, worst_batch

        epochs = batches_for(workloads, data)
        workloads, batches = list(map(worst_batch, workloads, epochs)), epochs
    ready = [on_card(workload, gpu) for workload in workloads]
    try:
        engines = engines_for(ready, engine, may_trace=may_trace)
    except UsageError as e:
        if trainer is None:
            raise
        own = {name: v for w in ready for name, v in trainer.from_stack(w).items()}
        raise UsageError(trainer.explained(str(e), own)) from e
    predictions = [
        _of_loop(predict_checked(workload, engine), trainer)
        for workload, engine in zip(ready, engines, strict=True)
    ]
    if engine == REHEARSED:  # what else is asked would each take a rehearsal
        engines = ["auto"] * len(engines)
    times = Times(predictions, gpu, engines, batches)
    names = trainer.explicit if trainer is not None else given
    if data is not None:
        names = frozenset({*(names or ()), *_OF_DATA})
    rows = []
    for place, (prediction, engine, epoch) in enumerate(
        zip(predictions, engines, batches, strict=True)
    ):
        workload = prediction.workload
        ranks, link = workload.setup.world_size, network
        if gpu and not link and ranks > 1 and workload.setup.context_parallel_size == 1:
            link = link_among(gpu, ranks, machines)
        tried: tuple[Lever, ...] = ()
        if levers == "all":
            tried = every_lever(workload, engine, prediction, besides=methods, trainer=trainer)
        elif levers == "best":
            best = best_lever(workload, engine, prediction, besides=methods, trainer=trainer)
            tried = (best,) if best else ()
        rows.append(
            Answer(
                prediction=prediction,
                trainer=trainer,
                given=None if names is None else frozenset(names),
                gpu=gpu,
                fit=(fit(workload, gpu, engine, prediction, may_trace=may_trace) if gpu else None),
                levers=tried,
                times=times,
                place=place,
                communication=communication(prediction, link) if ranks > 1 else None,
                over_data=over_data(prediction, data, epoch, engine) if data and epoch else None,
                besides=methods,
            )
        )
    return rows


def _of_loop(prediction: Prediction, trainer: Trainer | None) -> Prediction:
    """An estimate with the reasons, where the trainer's loop holds what is not priced."""
    gaps = trainer.gaps(prediction.workload.setup) if trainer else ()
    if not trainer or not gaps:
        return prediction
    words = tuple(f"{trainer.stack.title}: {gap.text}." for gap in gaps)
    return replace(
        prediction,
        exactness="estimate",
        error_bound=None,
        assumptions=(*prediction.assumptions, *words),
    )


class Times:
    """The step times of several ways to train one model, worked out when the first is read: an
    answer by trainer shows none of them. With `batches` each is the mean over them."""

    def __init__(
        self,
        predictions: Sequence[Prediction],
        gpu: "Gpu | None",
        engines: Sequence[str],
        batches: "Sequence[Batches | None]",
    ) -> None:
        self._predictions, self._gpu = predictions, gpu
        self._engines, self._batches = engines, batches

    @cached_property
    def found(self) -> "list[tuple[Timing | None, SpeedGap | None]]":
        """Of each: its time, and what keeps it from being as much faster than full fine-tuning as
        its FLOPs suggest."""
        predictions, gpu = self._predictions, self._gpu
        if gpu is None and all(p.workload.setup.device != "cpu" for p in predictions):
            return [(None, None)] * len(predictions)
        from lora_profiler.planning.timing import is_timed, speed_gap, step_time

        timings: list[Timing | None] = []
        for p, engine, epoch in zip(predictions, self._engines, self._batches, strict=True):
            if not is_timed(p.workload, gpu):
                timings.append(None)
            elif epoch is None:
                timings.append(step_time(p.workload, gpu, engine, p))
            else:
                from lora_profiler.planning.over_data import mean_timing

                timings.append(mean_timing(p.workload, epoch, gpu, engine))
        if any(self._batches):
            return [(timing, None) for timing in timings]
        steps = [timing.step if timing else None for timing in timings]
        full = next((step for step in steps if step and step.workload.setup.method == "full"), None)
        return [
            (timing, speed_gap(full, step) if full and step and step is not full else None)
            for timing, step in zip(timings, steps, strict=True)
        ]


# --- what is odd about a question or its answer ---------------------------------------------------


class ActivationExcess(NamedTuple):
    """LoRA keeps more for backward than full fine-tuning does: by how much, why, and what 16-bit
    adapters would keep."""

    full_bytes: int
    lora_bytes: int
    causes: tuple[Literal["adapter_dtype", "dropout"], ...]
    remedied_bytes: int


def activation_excess(
    full: Prediction, lora: Prediction, engine: str = "auto"
) -> ActivationExcess | None:
    """Why `lora` saves more activation bytes than `full`, or None where it does not.

    PEFT casts the input of every adapted layer to the adapter's dtype and keeps that copy; with
    dropout it keeps the dropped input and a mask as well. What is left without both is
    `remedied_bytes`.
    """
    full_bytes, lora_bytes = full.saved_activation_bytes, lora.saved_activation_bytes
    setup = lora.workload.setup
    if full_bytes is None or lora_bytes is None or lora_bytes <= full_bytes or setup.lora is None:
        return None
    causes: list[Literal["adapter_dtype", "dropout"]] = []
    if setup.lora.adapter_dtype != setup.dtype:
        causes.append("adapter_dtype")
    if setup.lora.lora_dropout > 0:
        causes.append("dropout")
    adapter = replace(setup.lora, adapter_dtype=setup.dtype, lora_dropout=0.0)
    try:
        remedied = predict(
            replace(lora.workload, setup=replace(setup, lora=adapter)), engine, may_trace=False
        ).saved_activation_bytes
    except LoraProfilerError:
        remedied = None
    return ActivationExcess(
        full_bytes=full_bytes,
        lora_bytes=lora_bytes,
        causes=tuple(causes),
        remedied_bytes=lora_bytes if remedied is None else remedied,
    )


def outweighed_layers(prediction: Prediction) -> tuple[LayerCost, ...]:
    """Linear layers whose adapter holds more parameters than the layer itself: the rank is too
    large to save anything."""
    lora, model = prediction.workload.setup.lora, prediction.workload.model
    if lora is None or lora.peft_type != "lora":
        return ()
    kinds = ((part,) if isinstance(part, Module) else chain(*part.kinds) for part in model.parts)
    weights = [m.weight("weight") for m in chain(*kinds) if m.is_linear]
    if not any(lora.r * sum(weight.shape) > weight.numel for weight in weights):
        return ()
    return tuple(
        c
        for c in prediction.layers
        if c.in_features is not None and c.num_trainable_parameters > c.num_parameters > 0
    )


def unmatched_targets(workload: Workload) -> tuple[str, ...]:
    """Names in a list of targets that match nothing; PEFT passes over them in silence as long as
    another one matches.

    Families whose experts PEFT renames are not judged.
    """
    lora = workload.setup.lora
    if lora is None or not isinstance(lora.target_modules, tuple):
        return ()
    from lora_profiler.question.adapters.targets import PACKED_EXPERTS

    if workload.model.model_type in PACKED_EXPERTS:
        return ()
    names = [f".{name}" for name, _ in workload.model.modules()]
    return tuple(
        t for t in lora.target_modules if not any(name.endswith(f".{t}") for name in names)
    )
