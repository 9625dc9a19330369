"""An answer: memory at every named moment, FLOPs, cost per layer. Ints only; text is made by
`units` and `report`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any, Literal

from lora_profiler.question.workload import Workload

Category = Literal[
    "parameters", "quantization_state", "adapters", "buffers", "gradients", "optimizer_states",
    "inputs", "activations", "logits_and_loss", "temporaries", "workspace", "communication",
    "unattributed",
]  # fmt: skip
CATEGORIES: tuple[Category, ...] = Category.__args__  # type: ignore[attr-defined]  # typing has no public accessor on an alias

MomentName = Literal[
    "setup", "last_layer_forward", "end_of_forward", "loss_backward", "last_layer_backward",
    "first_layer_backward", "optimizer_step", "evaluation", "generation", "saving",
]  # fmt: skip
MOMENTS: tuple[MomentName, ...] = MomentName.__args__  # type: ignore[attr-defined]
Phase = Literal[
    "setup", "forward", "loss", "backward", "clip", "optimizer", "zero", "evaluation", "generation",
    "saving",
]  # fmt: skip
PHASES: tuple[Phase, ...] = Phase.__args__  # type: ignore[attr-defined]
Step = Literal[1, "steady"]
Engine = Literal["analytic", "compiled", "traced", "rehearsed"]
Exactness = Literal["exact", "estimate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Live bytes of **one instant** by category. `step` 1 has no optimizer states yet during
    forward and backward.

    Examples:
        >>> from lora_profiler import TrainSetup, Workload, find_model, predict
        >>> model = find_model("gpt2")
        >>> workload = Workload(model=model, setup=TrainSetup(seq_len=512))
        >>> peak = predict(workload).peak
        >>> peak.moment, peak.bytes["optimizer_states"]
        ('loss_backward', 497759232)
    """

    moment: MomentName
    step: Step
    bytes: Mapping[Category, int]

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes.values())


PHASE_OF: Mapping[MomentName, Phase] = {
    "setup": "setup",
    "last_layer_forward": "forward",
    "end_of_forward": "loss",
    "loss_backward": "backward",
    "last_layer_backward": "backward",
    "first_layer_backward": "backward",
    "optimizer_step": "optimizer",
    "evaluation": "evaluation",
    "generation": "generation",
    "saving": "saving",
}
"""The phase that a moment lies in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """Live bytes by category at one instant of a step; `module` is what ran, "" where the engine
    cannot tell."""

    phase: Phase
    module: str
    bytes: Mapping[Category, int]

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCount:
    """Numbers, not bytes. `base` is the model's own count, tied weights once; `adapter` what LoRA
    adds.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload, find_model, predict
        >>> model = find_model("gpt2")
        >>> answer = predict(Workload(model=model, setup=TrainSetup(lora=LoraConfig(r=8))))
        >>> answer.parameters.trainable
        1179648
    """

    base: int
    adapter: int
    trainable: int

    @property
    def total(self) -> int:
        return self.base + self.adapter

    @property
    def trainable_fraction(self) -> float:
        return self.trainable / self.total

    @property
    def reduction_vs_full(self) -> float:
        return 1 - self.trainable / self.base


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopCount:
    """FLOPs (2 x multiply-add) of one micro-batch as the hardware runs them; frozen weights skip
    what autograd skips. A reference's pass, as of DPO, is in `forward`.

    Examples:
        >>> from lora_profiler import TrainSetup, Workload, find_model, predict
        >>> model = find_model("gpt2")
        >>> workload = Workload(model=model, setup=TrainSetup(seq_len=512))
        >>> flops = predict(workload).flops
        >>> flops.forward, flops.tokens
        (136160477184, 512)
    """

    forward: int
    backward: int
    recompute: int
    tokens: int

    @property
    def total(self) -> int:
        return self.forward + self.backward + self.recompute

    @property
    def per_token(self) -> int:
        return self.total // self.tokens


Collective = Literal["all_gather", "reduce_scatter", "all_reduce", "broadcast"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The collectives of one kind in one phase of an optimizer step: how many, and the bytes of the
    full tensors together."""

    collective: Collective
    phase: Phase
    count: int
    size_bytes: int

    def sent_bytes(self, world_size: int) -> int:
        """What one rank sends by the ring algorithms: an all-reduce twice, the others once, each
        but the rank's own part."""
        times = 2 if self.collective == "all_reduce" else 1
        return times * self.size_bytes * (world_size - 1) // world_size


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """What one named module costs: a linear with its adapter, a norm, or the attention core of a
    layer (no weights).

    Examples:
        >>> from lora_profiler import TrainSetup, Workload, find_model, predict
        >>> model = find_model("gpt2")
        >>> workload = Workload(model=model, setup=TrainSetup(seq_len=512))
        >>> layers = predict(workload).layers
        >>> sum(layer.saved_activation_bytes for layer in layers)
        378980652
    """

    name: str
    kind: str
    in_features: int | None
    out_features: int | None
    num_parameters: int
    num_trainable_parameters: int
    parameter_bytes: int
    gradient_bytes: int
    optimizer_state_bytes: int
    saved_activation_bytes: int
    flops: int


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """What CUDA's caching allocator makes of three steps, simulated event by event: peaks in bytes.

    `allocated` counts whole blocks, `reserved` the segments taken from the driver when there is
    always room, `expandable_reserved` the same with expandable segments. BLAS workspaces are in it,
    as large as the card of the workload's platform has them; the driver's context comes on top.
    `events` are what was replayed: n allocates `sizes[n]` bytes, ~n frees them.
    """

    allocated_bytes: int
    reserved_bytes: int
    expandable_reserved_bytes: int
    sizes: tuple[int, ...] = field(default=(), repr=False, compare=False)
    events: tuple[int, ...] = field(default=(), repr=False, compare=False)

    @cached_property
    def smallest_bytes(self) -> int:
        """The least that the allocator must be given to complete all steps: found by bisection,
        some tenths of a second."""
        trials = _of("memory.compiled.allocator", "Trials")(self.sizes, self.events)
        smallest: int = trials.smallest_capacity()
        return smallest


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What a `Prediction` says when asked for more, as plain data. `curve` None stands for one
    point at each moment."""

    layers: tuple[LayerCost, ...] = ()
    curve: tuple[CurvePoint, ...] | None = None
    device_memory: DeviceMemory | None = None


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer to one workload. `layers`, `curve` and `device_memory` are worked out when asked
    for.

    `persistent_bytes` holds parameters, quantization_state, adapters, gradients, optimizer_states.
    `saved_activation_bytes` is everything autograd keeps at the end of forward, parameters left
    out; None where the engine does not know it. `exactness` tells whether `peak` is exact by
    construction; `error_bound` is the largest relative error seen where it is an estimate (0.15:
    within 15 %), None where nothing is claimed. `modules_error` is how far off the peak may be
    where no rule, profile or trace knows the layers, so that they are estimated from the model's
    modules; None elsewhere. Of several ranks it is the one that holds most, and
    `traffic` is what each takes part in; `host_bytes` are tensors that a rank keeps in the host's
    memory instead of the card's. `has_tape` tells that a profile can be replayed for the
    curve and the allocator. `priced_as` is the nearest question, where that was answered in place
    of `workload`. `details` are given where no engine could work them out again from the
    workload: where the step was traced for this answer alone.

    Examples:
        >>> from lora_profiler import TrainSetup, Workload, find_model, predict
        >>> model = find_model("gpt2")
        >>> answer = predict(Workload(model=model, setup=TrainSetup(seq_len=512)))
        >>> answer.parameters.trainable, answer.exactness
        (124439808, 'exact')
    """

    workload: Workload
    engine: Engine
    exactness: Exactness
    assumptions: tuple[str, ...]
    error_bound: float | None
    attention_kernel: str
    parameters: ParameterCount
    persistent_bytes: Mapping[str, int]
    saved_activation_bytes: int | None
    moments: tuple[Moment, ...]
    flops: FlopCount | None
    traffic: tuple[Traffic, ...] = ()
    host_bytes: Mapping[Category, int] = field(default_factory=dict)
    has_tape: bool = field(default=False, repr=False, compare=False)
    modules_error: float | None = None
    priced_as: Workload | None = field(default=None, repr=False, compare=False)
    details: Details | None = field(default=None, repr=False, compare=False)

    @cached_property
    def layers(self) -> tuple[LayerCost, ...]:
        if self.details is not None:
            return self.details.layers
        layers: tuple[LayerCost, ...] = _of(_DETAILS_OF[self.engine], "layers_of")(self)
        return layers

    @cached_property
    def curve(self) -> tuple[CurvePoint, ...]:
        """Memory over one steady step in order of time. Its largest point is the peak, but for some
        bytes a layer where the profile of one attention kernel speaks for another.

        An engine without a tape gives one point for each moment that it knows.
        """
        curve: tuple[CurvePoint, ...] | None = None
        if self.details is not None:
            curve = self.details.curve
        elif self.has_tape:
            curve = _of("memory.compiled.details", "curve_of")(self)
        if curve is not None:
            return curve
        steady = (m for m in self.moments if m.step == "steady")
        return tuple(CurvePoint(phase=PHASE_OF[m.moment], module="", bytes=m.bytes) for m in steady)

    @cached_property
    def device_memory(self) -> DeviceMemory | None:
        """None where the engine has no tape to replay, or the device no such allocator."""
        if self.details is not None:
            return self.details.device_memory
        if not self.has_tape or self.workload.setup.device != "cuda":
            return None
        memory: DeviceMemory = _of("memory.compiled.details", "device_memory_of")(self)
        return memory

    @property
    def is_whole(self) -> bool:
        """Whether the peak has the activations, which come on top of a lower bound."""
        return self.saved_activation_bytes is not None

    @property
    def doubt_bytes(self) -> int:
        """By which the peak may be off where the layers are estimated from the model's modules."""
        return int((self.modules_error or 0.0) * self.peak.total_bytes)

    @cached_property
    def peak(self) -> Moment:
        """The steady-state moment with the most live bytes; the earliest of equals."""
        return max((m for m in self.moments if m.step == "steady"), key=lambda m: m.total_bytes)


_DETAILS_OF: Mapping[Engine, str] = {
    "analytic": "memory.analytic.predict",
    "compiled": "memory.compiled.details",
    "traced": "memory.compiled.details",  # a trace is kept as a profile
    "rehearsed": "memory.analytic.predict",  # which always gives its details
}
"""The module of each engine that works out the details of a prediction by its workload."""


def _of(module: str, name: str) -> Any:
    """A function of an engine, found by name: a prediction is data below all engines, and one out
    of a pickle has none at hand."""
    return getattr(import_module(f"lora_profiler.{module}"), name)
