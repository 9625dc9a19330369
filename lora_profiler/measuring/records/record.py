"""What one real training run showed: raw samples, the machine and software they come from, and
what was asked.

Nothing derived is kept. Medians, rates and errors are worked out on reading (`statistics`,
`compare`), so that a better formula scores all history again. `None` means "not measured", never 0;
a missing phase or category was not seen.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from lora_profiler.errors import UsageError
from lora_profiler.memory.prediction import Category, Phase
from lora_profiler.question.gpu_platform import TORCH, Platform, capability_of, version_of
from lora_profiler.question.workload import Workload, canonical
from lora_profiler.units import is_finite, shown

REHEARSED = "rehearsed"
"""The kind of a device that was pretended: see `Record.is_rehearsed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The device trained on. `uuid_hash` tells cards apart without naming them.

    `kind` is "cuda", "cpu", "xpu", "mps", or "rehearsed" for a CUDA card that was pretended, whose
    `name` says so too.
    """

    kind: str
    name: str
    total_bytes: int | None = None
    uuid_hash: str | None = None
    compute_capability: str | None = None
    driver: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    vbios: str | None = None
    ecc: bool | None = None
    mig: str | None = None
    power_limit_watts: float | None = None
    clocks_locked: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Machine and software of a run: no host name, user name, path or token.

    `packages` maps distributions to versions; `variables` holds allow-listed environment variables.
    `commit`, `dirty` and `diff_hash` are those of this program's source tree, None for an installed
    one. `limits`: what a rehearsal took for granted, a sentence each; a measured record has none.

    Examples:
        >>> from pathlib import Path
        >>> from lora_profiler import Store
        >>> path = Path("benchmarks/records/cpu-epyc/cpu_families.jsonl")
        >>> record = Store(path).records()[0]
        >>> record.environment.packages["torch"]
        '2.13.0+cpu'
    """

    python: str
    platform: str
    packages: Mapping[str, str]
    device: Device
    cpu: str | None = None
    logical_cpus: int | None = None
    threads: int | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    allocator: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    dirty: bool | None = None
    diff_hash: str | None = None
    command: str | None = None
    limits: tuple[str, ...] = ()

    @property
    def trained_on(self) -> Platform:
        """What of this environment the memory of a step depends on, for predictions."""
        is_cuda = self.device.kind in ("cuda", REHEARSED)
        capability = capability_of(self.device.compute_capability) if is_cuda else None
        return Platform(
            capability=capability, torch=version_of(self.packages.get("torch", "")) or TORCH
        )

    @property
    def key(self) -> str:
        """12 hex digits of what can change a result: software, device, processor, threads and
        settings; not the commit.

        Of the allocator the backend counts: which settings are in force follows from the variables
        and torch's version, and can be read only once the device was used.
        """
        import hashlib
        import json

        device = self.device
        parts = [
            self.python, self.platform, sorted(self.packages.items()),
            sorted(self.variables.items()), self.cpu, self.threads, device.kind, device.name,
            device.total_bytes, device.driver, device.cuda, device.mig,
            self.allocator and self.allocator.partition(",")[0],
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


SCHEMA_VERSION = "1.1"
"""1.0: the fields of the contract alone. 1.1: conditions, keys, times, and every sample beyond the
contract."""

Status = Literal[
    "ok", "noisy", "oom", "host_oom", "timeout", "crash", "unsupported", "invalid", "interrupted"
]
STATUSES: tuple[Status, ...] = Status.__args__  # type: ignore[attr-defined]  # typing has no public accessor on an alias
MEASURED: frozenset[Status] = frozenset({"ok", "noisy"})
"""Statuses of a run that went through: its numbers are whole, where others are lower bounds."""

Flag = Literal[
    "busy_machine", "host_bound", "instrumentation_perturbed_memory", "losses_not_compared",
    "low_clock", "memory_pressure", "passive_waits", "shared_device", "thermal_throttling",
    "timing_cut", "unattributed_over_1_percent",
]  # fmt: skip
"""What makes a number worth a second look; definitions in `docs/measuring.md`."""

UNATTRIBUTED_SHARE = 0.01
"""Of the peak: more that no category explains is flagged."""
PERTURBED_SHARE = 0.005
"""Of the peak: more between two ways of measuring it is flagged."""
BUSY_SHARE = 0.10
"""Of the machine's processor time: more that went to others while steps were timed is flagged."""

VramMethod = Literal["pid", "device_delta", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What the harness held fixed beside the workload. Part of a case's key.

    weights: "random", "hub", or the file name of local ones; text: "random" tokens, or the file
    name of a text. `padding` is that of the setup, as older records have it: what is said here is
    moved there. `budget_bytes` emulates a device with so much memory. `memory_steps` are the
    optimizer steps of the memory pass. `min_timed_steps` 0 leaves the timing pass out;
    `max_timing_seconds` ends it, before a step that would end later. `ballast_bytes` are held
    through every step, a test of the harness itself. `trained_by`: whose own code ran the steps, as
    "trl-sft@1.16"; "" for the harness' loop.

    Examples:
        >>> from lora_profiler import Conditions
        >>> Conditions(min_timed_steps=0).seed
        0
    """

    weights: str = "random"
    text: str = "random"
    seed: int = 0
    padding: float = 0.0
    budget_bytes: int | None = None
    memory_steps: int = 3
    min_timed_steps: int = 10
    max_timing_seconds: float = 60.0
    ballast_bytes: int = 0
    trained_by: str = ""

    def __post_init__(self) -> None:
        """Raises UsageError for numbers that are none."""
        for name in ("padding", "budget_bytes", "max_timing_seconds", "ballast_bytes"):
            value = getattr(self, name)
            if value is not None and not is_finite(value):
                raise UsageError(f"{name} is {shown(value)}; it must be a finite number.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSample:
    """Counters at the end of one phase of one step of the memory pass; peaks are those within the
    phase.

    `requested`: bytes that tensors asked for; `allocated`: after the allocator's rounding;
    `active`: plus blocks another stream still uses; `reserved`: taken from the driver. On CPU the
    allocator rounds nothing: `requested` alone is given.
    """

    step: int
    phase: Phase
    requested_bytes: int | None = None
    requested_peak_bytes: int | None = None
    allocated_bytes: int | None = None
    allocated_peak_bytes: int | None = None
    active_peak_bytes: int | None = None
    reserved_bytes: int | None = None
    reserved_peak_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSample:
    """What the driver says is in use on the whole device at a named moment: idle, context,
    first_step, end.

    `reserved_bytes` are what this process's allocator held of them at that moment.
    """

    when: str
    used_bytes: int
    process_bytes: int | None = None
    reserved_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """Samples of a process of its own during the timing pass, ten a second; `throttle_reasons` are
    NVML's bits, or-ed."""

    sm_clock_mhz: tuple[int, ...] = ()
    memory_clock_mhz: tuple[int, ...] = ()
    temperature_celsius: tuple[int, ...] = ()
    power_watts: tuple[float, ...] = ()
    default_sm_clock_mhz: int | None = None
    throttle_reasons: int = 0
    other_processes: int | None = None
    used_bytes_peak: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """The driver's energy counter over a block of whole steps, and over an idle wait of the same
    warm process before it."""

    joules: float
    seconds: float
    steps: int
    idle_joules: float
    idle_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Where a run ended that did not go through. `phase` may also be a stage before the first step,
    such as "load"; `rank` is the one of several that ended it."""

    reason: str
    phase: str | None = None
    step: int | None = None
    tried_bytes: int | None = None
    free_bytes: int | None = None
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    exit_code: int | None = None
    log: str | None = None
    rank: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMeasurement:
    """What one of several ranks measured of itself, in the terms of `Measurement`. `device` is the
    name of its device; `exit_code` that of a rank that failed by itself. A rank ended for another's
    sake is a crash without one.
    """

    rank: int
    status: Status
    device: str | None = None
    exit_code: int | None = None
    peak_requested_bytes: int | None = None
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    peak_phase: Phase | None = None
    phase_peak_bytes: Mapping[Phase, int] = field(default_factory=dict)
    persistent_bytes: Mapping[Category, int] = field(default_factory=dict)
    loss: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Raw samples of one run. Peaks are those of the steady state (steps 2 and later) unless named
    otherwise.

    `phase_peak_bytes` and `attribution_bytes` are requested bytes; the latter add up to
    `peak_requested_bytes` exactly, the rest being `unattributed`. `tracked_phase_peak_bytes` is the
    second opinion of the storage tracker. `workspace_bytes` is what a first matrix product added to
    allocated memory for good; `device_used_bytes` the driver's figure at the end less that of the
    idle device. Token counts are those of one optimizer step.

    Of several ranks the numbers are those of the one with the highest peak, and `loss` is the mean
    of all; `ranks` has each one's own, and `reference_loss` what one process on the same global
    data had. Without ranks both are empty.

    Examples:
        >>> from pathlib import Path
        >>> from lora_profiler import Store
        >>> path = Path("benchmarks/records/cpu-epyc/cpu_families.jsonl")
        >>> record = Store(path).records()[0]
        >>> record.measurement.peak_requested_bytes
        250906996
    """

    status: Status
    failure: Failure | None = None
    flags: tuple[Flag, ...] = ()
    num_parameters: int | None = None
    num_trainable_parameters: int | None = None
    attention_kernel: str | None = None
    tokens_per_step: int | None = None
    nonpad_tokens_per_step: int | None = None
    supervised_tokens_per_step: int | None = None
    step_seconds: tuple[float, ...] = ()
    warmup_seconds: tuple[float, ...] = ()
    phase_seconds: Mapping[Phase, tuple[float, ...]] = field(default_factory=dict)
    block_seconds: float | None = None
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    other_cpu_share: float | None = None
    loss: tuple[float, ...] = ()
    peak_requested_bytes: int | None = None
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    device_used_bytes: int | None = None
    peak_phase: Phase | None = None
    phase_peak_bytes: Mapping[Phase, int] = field(default_factory=dict)
    step1_phase_peak_bytes: Mapping[Phase, int] = field(default_factory=dict)
    tracked_phase_peak_bytes: Mapping[Phase, int] = field(default_factory=dict)
    timed_peak_bytes: int | None = None
    phases: tuple[PhaseSample, ...] = ()
    attribution_bytes: Mapping[Category, int] = field(default_factory=dict)
    persistent_bytes: Mapping[Category, int] = field(default_factory=dict)
    saved_activation_bytes: int | None = None
    workspace_bytes: int | None = None
    context_bytes: int | None = None
    stage_peak_bytes: Mapping[str, int] = field(default_factory=dict)
    resident_bytes: Mapping[str, int] = field(default_factory=dict)
    device_samples: tuple[DeviceSample, ...] = ()
    process_vram_method: VramMethod = "none"
    exclusive: bool | None = None
    health: Mapping[str, int] = field(default_factory=dict)
    telemetry: Telemetry | None = None
    energy: Energy | None = None
    ranks: tuple[RankMeasurement, ...] = ()
    reference_loss: tuple[float, ...] = ()

    @property
    def rank_imbalance(self) -> float | None:
        """How much lower the lowest peak of a rank is than the highest, as a share of it; None
        without ranks that measured."""
        peaks = [r.peak_requested_bytes for r in self.ranks if r.peak_requested_bytes is not None]
        highest = max(peaks, default=0)
        return (highest - min(peaks)) / highest if highest else None

    @property
    def went_through(self) -> bool:
        return self.status in MEASURED


def now() -> str:
    """UTC in ISO 8601 with seconds, as a record's times are."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One run as the store keeps it. `started_at` and `ended_at` are UTC, ISO 8601 with seconds.

    The workload is on the platform of the environment, so that predictions are of the card and
    torch that ran it.

    Examples:
        >>> from pathlib import Path
        >>> from lora_profiler import Store
        >>> path = Path("benchmarks/records/cpu-epyc/cpu_families.jsonl")
        >>> record = Store(path).records()[0]
        >>> record.id
        'medium-llama-full-c9028c9f2d42-f6f33a.5c929146a9ce.0'
    """

    workload: Workload
    conditions: Conditions
    environment: Environment
    measurement: Measurement
    repeat: int = 0
    started_at: str | None = None
    ended_at: str | None = None

    def __post_init__(self) -> None:
        workload, conditions = padding_in_setup(self.workload, self.conditions)
        workload = replace(workload, platform=self.environment.trained_on)
        object.__setattr__(self, "workload", workload)
        object.__setattr__(self, "conditions", conditions)

    @property
    def is_rehearsed(self) -> bool:
        """Whether the card was pretended: then nothing was measured. The real CUDA build of torch
        asked stub libraries for these bytes, and there are no times."""
        return self.environment.device.kind == REHEARSED

    @property
    def case_key(self) -> str:
        return case_key(self.workload, self.conditions)

    @property
    def id(self) -> str:
        """The case, the environment and the repeat: a second record of the same id replaces the
        first."""
        return f"{self.case_key}.{self.environment.key}.{self.repeat}"


def padding_in_setup(workload: Workload, conditions: Conditions) -> tuple[Workload, Conditions]:
    """Both, with the padding of older conditions where it is asked about."""
    if not conditions.padding:
        return workload, conditions
    setup = replace(workload.setup, padding=conditions.padding)
    return replace(workload, setup=setup), replace(conditions, padding=0.0)


def conditions_dict(conditions: Conditions) -> dict[str, Any]:
    """In JSON's own types. `trained_by` is left out where it says nothing: keys of older records
    stay what they are, and older versions of this program read all but records of trainers."""
    held = asdict(conditions)
    if not conditions.trained_by:
        del held["trained_by"]
    return held


@lru_cache(maxsize=1024)
def case_key(workload: Workload, conditions: Conditions) -> str:
    """The workload's key and six hex digits of the conditions; the same on every machine.
    Remembered, since every id needs it."""
    import hashlib
    import json

    digest = hashlib.sha256(
        json.dumps(canonical(conditions_dict(conditions)), sort_keys=True).encode()
    ).hexdigest()[:6]
    return f"{workload.key}-{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Of `Measurement`, as far as it is known."""

    phases: tuple[PhaseSample, ...] = ()
    warmup_seconds: tuple[float, ...] = ()
    step_seconds: tuple[float, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.phases or self.warmup_seconds or self.step_seconds)

    def since(self, before: "Readings") -> "Readings":
        """What `before` did not have yet."""
        return Readings(
            **{f.name: getattr(self, f.name)[len(getattr(before, f.name)) :] for f in fields(self)}
        )

    def with_later(self, later: "Readings") -> "Readings":
        """And what was read after it."""
        return Readings(
            **{f.name: getattr(self, f.name) + getattr(later, f.name) for f in fields(self)}
        )


def readings_dict(readings: Readings) -> dict[str, Any]:
    """As JSON, without what was not read."""
    known = ({n: v for n, v in asdict(s).items() if v is not None} for s in readings.phases)
    values_by_name = {**asdict(readings), "phases": list(known)}
    return {name: values for name, values in values_by_name.items() if values}


def readings_from_dict(data: Mapping[str, Any]) -> Readings:
    """Raises TypeError for what `readings_dict` did not write."""
    lists = {name: tuple(values) for name, values in data.items()}
    lists["phases"] = tuple(PhaseSample(**sample) for sample in lists.get("phases", ()))
    return Readings(**lists)
