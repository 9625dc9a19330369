"""What makes the times, losses and peaks of a run doubtful, and how far a median can be trusted."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from lora_profiler.measuring.records.record import PERTURBED_SHARE, Flag
from lora_profiler.memory.prediction import Phase
from lora_profiler.question.workload import TrainSetup

AT_REST: tuple[Phase, ...] = ("setup", "zero")
"""Phases without a product in them: elsewhere kernels take memory for themselves, which no tracker
of tensors sees."""
LOSS_TOLERANCE = {"float32": 2e-6, "float16": 1e-4, "bfloat16": 1e-3}
"""How far, relatively, the losses of ranks may be from those of one process, by the dtype of the
weights: gradients are summed in another order, and Adam's first steps make a whole step of a
rounding error around zero."""
NOT_REHEARSED = (
    *("step_seconds", "warmup_seconds", "phase_seconds", "block_seconds", "stage_seconds"),
    *("other_cpu_share", "loss", "reference_loss", "telemetry", "energy", "resident_bytes"),
    *("device_samples", "device_used_bytes", "context_bytes", "exclusive"),
    *("nonpad_tokens_per_step", "supervised_tokens_per_step"),
)
"""Of a measurement: times, values, and what a driver or this host says."""
OF_HOST: tuple[Flag, ...] = ("busy_machine", "passive_waits")
SPOILS_TIMES: tuple[Flag, ...] = (*OF_HOST, "memory_pressure", "thermal_throttling")


def timing_flags(flags: Collection[Flag], device_kind: str) -> list[Flag]:
    """Those of `flags` that make the times of a run on a device of this kind noisy.

    A busy host, or one whose threads sleep, takes nothing from an accelerator that it keeps fed:
    there it counts only where the run waited for the host.
    """
    harmless = device_kind != "cpu" and "host_bound" not in flags
    return [flag for flag in SPOILS_TIMES if flag in flags and not (flag in OF_HOST and harmless)]


def unequal_loss(
    losses: Sequence[float], expected: Sequence[float], setup: TrainSetup
) -> str | None:
    """Where the mean loss of the ranks is not that of one process on the same data; None where they
    are equal within rounding.

    Under autocast products are in bfloat16 whatever the weights are.
    """
    limit = LOSS_TOLERANCE["bfloat16" if setup.precision != "pure" else setup.dtype]
    for step, (mine, one) in enumerate(zip(losses, expected, strict=False), 1):
        if abs(mine - one) > limit * abs(one):
            return (
                f"mean loss of the ranks at step {step}: {mine:.7g}; of one process on that data:"
                f" {one:.7g}; more than {limit:g} of it apart"
            )
    return None


def cross_check_peaks(
    counted: Mapping[Phase, int],
    tracked: Mapping[Phase, int],
    workspace_bytes: int | None,
    peak: int | None,
    timed_peak_bytes: int | None,
) -> Iterator[str]:
    """Where two ways of measuring a peak differ by more than can be: the steady one of each phase
    as it was `counted`, the `tracked` one, and that of the timing pass. The workspace is the
    library's own, no tensor, so that no tracker sees it.
    """
    for phase, tracked_bytes in tracked.items():
        size = counted.get(phase, tracked_bytes)
        least = size - (workspace_bytes or 0) - PERTURBED_SHARE * size if phase in AT_REST else 0
        if not least <= tracked_bytes <= size + PERTURBED_SHARE * size:
            yield (
                f"In {phase} the tracker saw {tracked_bytes} bytes, the allocator {size}: over"
                " 0.5 % apart"
            )
    if (
        peak is not None
        and timed_peak_bytes is not None
        and abs(timed_peak_bytes - peak) > PERTURBED_SHARE * peak
    ):
        yield (
            f"After the timing pass the peak was {timed_peak_bytes}, before it {peak}: over 0.5 %"
            " apart"
        )


# --- the median of repeated measurements, and how far it can be trusted ---------------------------


CONFIDENCE = 0.95
LEAST_SAMPLES = 6
"""Fewer give a median no interval of 95 %."""


def median_interval(samples: Sequence[float]) -> tuple[float, float, float]:
    """(low, median, high) in the unit of `samples`: the median and the 95 % confidence interval
    that order statistics give it.

    The interval is [x_(k), x_(n+1-k)] of the sorted samples with the largest k for which a
    binomial(n, 1/2) count lies in k..n-k with at least that probability (W. J. Conover, Practical
    Nonparametric Statistics, 3rd ed., section 3.2). Fewer than six samples cannot give 95 %: low
    and high are then the smallest and the largest, which cover less. Raises ValueError for none.
    """
    if not samples:
        raise ValueError("a median needs at least one sample.")
    ordered = sorted(samples)
    n = len(ordered)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    k = _rank(n)
    return ordered[k - 1], middle, ordered[n - k]


def half_width_limit(device_kind: str) -> float:
    """Largest `relative_half_width` of step times that is not called noisy: 5 % on a CPU, 1 % on an
    accelerator."""
    return 0.05 if device_kind == "cpu" else 0.01


def relative_half_width(samples: Sequence[float]) -> float:
    """Half the interval's width over the median: what the timing protocol limits. Raises ValueError
    for no samples."""
    low, middle, high = median_interval(samples)
    return (high - low) / 2 / middle


def _rank(n: int) -> int:
    """The k of `median_interval`, from 1. Sums outwards from the middle, so that no term underflows
    for large n."""
    k = n // 2
    term = math.exp(
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
    )
    inside = term if n % 2 == 0 else 2 * term
    while inside < CONFIDENCE and k > 1:
        term *= k / (n - k + 1)
        k -= 1
        inside += 2 * term
    return max(k, 1)
