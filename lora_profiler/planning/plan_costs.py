"""What a plan's ways cost: the peak, the trained parameters and the time of a step, each worked out
once, for cards that run the same kernels together."""

import math
from dataclasses import dataclass, replace

from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import Gpu
from lora_profiler.memory.analytic.forward_rules import AttentionKernels, attention_kernels
from lora_profiler.memory.kernels import StepKernels, lumped
from lora_profiler.planning.engine import peak_bytes_checked, predict_checked, resized, rules_know
from lora_profiler.planning.over_data import TIMED_PARTS, worst_batch
from lora_profiler.planning.placement import Network, communication
from lora_profiler.planning.planned import Amount, EstimateRange, PlannedTime
from lora_profiler.planning.reserve import held_bytes
from lora_profiler.planning.timing import TimedDevice, device_for, kernels_of, no_speed
from lora_profiler.question.batching.batches import Batches
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.support.check import check
from lora_profiler.question.workload import TrainSetup, Workload
from lora_profiler.steptime import step_time_at


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownWay:
    """A way whose peak is known, `held_bytes` of it through every step. `workload` is as asked, on
    the first platform that runs the same kernels; `worst` is that of the worst batch where there
    are data."""

    workload: Workload
    worst: Workload
    peak_bytes: int
    held_bytes: int
    trained: int
    steps: float

    @property
    def setup(self) -> TrainSetup:
        return self.workload.setup


class Costs:
    """Of ways to train one model on `amount`; `engine` as in `predict`, and nothing is traced."""

    def __init__(self, amount: Amount, engine: str = "auto") -> None:
        self.amount, self._engine = amount, engine
        self.refusals: dict[str, str] = {}
        """By method, the first reason why a way could not be answered."""
        self.untimed: dict[str, dict[str, None]] = {}
        """The cards on which no step could be timed, by the reason."""
        self.timed = 0
        self._platforms: dict[tuple[AttentionKernels, tuple[int, int]], Platform] = {}
        self._layouts: dict[tuple[TrainSetup, Platform], KnownWay | None] = {}
        self._trained: dict[tuple[object, Platform], int] = {}
        self._held: dict[tuple[object, ...], int] = {}
        self._kernels: dict[tuple[TrainSetup, Platform], StepKernels] = {}
        self._sent: dict[tuple[TrainSetup, Platform], int] = {}
        self._batches: dict[tuple[int, int, int], Batches] = {}
        self._devices: dict[str, TimedDevice | None] = {}

    def shared(self, workload: Workload) -> Workload:
        """`workload` on the first platform that was met with the same attention kernels, which is
        all that its memory and its kernels know of a card."""
        key = attention_kernels(workload), workload.platform.torch
        return replace(workload, platform=self._platforms.setdefault(key, workload.platform))

    def layout(self, workload: Workload, setup: TrainSetup) -> KnownWay | None:
        """`workload` with `setup`; None for what is refused, and for what nobody knows the peak
        of."""
        key = setup, workload.platform
        if key not in self._layouts:
            self._layouts[key] = self._layout(replace(workload, setup=setup))
        return self._layouts[key]

    def _layout(self, workload: Workload) -> KnownWay | None:
        setup = workload.setup
        try:
            worst, steps = self._over_amount(workload)
            engine = self._answerer(worst)
            check(worst, engine)
            return KnownWay(
                workload=workload,
                worst=worst,
                peak_bytes=peak_bytes_checked(worst, engine),
                held_bytes=self._held_by(worst, engine),
                trained=self._trained_by(workload),
                steps=steps,
            )
        except LoraProfilerError as e:
            self.refusals.setdefault(setup.method, str(e))
            return None

    def _answerer(self, workload: Workload) -> str:
        """Rules give a lower bound of a model that they do not know, which no plan may rest on."""
        is_known = self._engine != "auto" or rules_know(workload)
        return self._engine if is_known else "compiled"

    def _over_amount(self, workload: Workload) -> tuple[Workload, float]:
        """The workload whose memory counts, and the steps of the whole training."""
        setup, amount = workload.setup, self.amount
        if amount.data is None:
            tokens = setup.batch_size * setup.seq_len * setup.accumulation * setup.world_size
            return workload, amount.steps(tokens)
        batches = self._batches_of(setup)
        each = math.ceil(batches.num_batches / (setup.accumulation * setup.world_size))
        return worst_batch(workload, batches), amount.epochs * each

    def _batches_of(self, setup: TrainSetup) -> Batches:
        assert self.amount.data is not None
        key = setup.batch_size, setup.seq_len, setup.accumulation
        if key not in self._batches:
            self._batches[key] = self.amount.data.batches(setup)
        return self._batches[key]

    def _trained_by(self, workload: Workload) -> int:
        setup = workload.setup
        key = (setup.lora, setup.quantization), workload.platform
        if key not in self._trained:
            alone = replace(workload, setup=_alone(setup))
            self._trained[key] = predict_checked(alone, "analytic").parameters.trainable
        return self._trained[key]

    def _held_by(self, workload: Workload, engine: str) -> int:
        """The same for every batch, length, loss and checkpointing."""
        setup = workload.setup
        key = (
            *(setup.lora, setup.quantization, setup.dtype, setup.optimizer),
            *(setup.sharding, setup.world_size, workload.platform),
        )
        if key not in self._held:
            self._held[key] = held_bytes(predict_checked(workload, engine))
        return self._held[key]

    # --- time -------------------------------------------------------------------------------------

    def time(self, layout: KnownWay, gpu: Gpu, network: Network | None) -> PlannedTime | None:
        """The time of a step of `layout` on `gpu`, whose ranks are linked by `network`; None where
        it is not known."""
        device = self._device(layout.workload, gpu)
        if device is None:
            self._note_untimed(no_speed(gpu), gpu)
            return None
        low = middle = high = host = 0.0
        try:
            for sized, share in self._parts(layout):
                step = step_time_at(
                    self._kernels_of(sized),
                    layout.setup,
                    device.rates,
                    device.constants,
                    device.basis,
                    width=device.half_width,
                )
                low, high = low + share * step.low, high + share * step.high
                middle, host = middle + share * step.seconds, host + share * step.share_of_host
        except LoraProfilerError as e:
            self._note_untimed(f"the time of a step is not known: {e}", gpu)
            return None
        self.timed += 1
        sending = self._sending(layout, network)
        sent = sending or 0.0
        return PlannedTime(
            step=EstimateRange(low=max(low, sent), middle=middle + sent, high=high + sent),
            compute_seconds=middle,
            sending_seconds=sending,
            share_of_host=host,
            basis=device.basis,
        )

    def _note_untimed(self, reason: str, gpu: Gpu) -> None:
        self.untimed.setdefault(reason, {}).setdefault(gpu.key)

    def _parts(self, layout: KnownWay) -> list[tuple[Workload, float]]:
        """The batches whose times are averaged, with the share of each."""
        if self.amount.data is None:
            return [(layout.workload, 1.0)]
        batches, worst = self._batches_of(layout.setup), layout.worst
        return [
            (resized(worst, replace(worst.setup, seq_len=length), self._engine), share)
            for length, share in batches.parts(TIMED_PARTS)
        ]

    def _kernels_of(self, workload: Workload) -> StepKernels:
        """Those of a rank, which are those of a process alone; the optimizer launches none."""
        alone = replace(
            _alone(workload.setup),
            optimizer="adamw",
            optimizer_impl="foreach",
            accumulation=min(workload.setup.accumulation, 2),
        )
        key = alone, workload.platform
        if key not in self._kernels:
            counted = kernels_of(replace(workload, setup=alone), "auto")
            self._kernels[key] = replace(counted, kernels=lumped(counted.kernels))
        return self._kernels[key]

    def _sending(self, layout: KnownWay, network: Network | None) -> float | None:
        setup = layout.setup
        if setup.world_size == 1:
            return 0.0
        if network is None:
            return None
        key = replace(setup, batch_size=1, checkpointing=False), layout.workload.platform
        if key not in self._sent:
            sent = communication(predict_checked(layout.worst, "analytic"))
            self._sent[key] = sent.sent_bytes if sent else 0
        return self._sent[key] / network.bytes_per_second

    def _device(self, workload: Workload, gpu: Gpu) -> TimedDevice | None:
        if gpu.key not in self._devices:
            self._devices[gpu.key] = device_for(workload, gpu)
        return self._devices[gpu.key]


def _alone(setup: TrainSetup) -> TrainSetup:
    return replace(setup, world_size=1, sharding="none")
