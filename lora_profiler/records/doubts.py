"""What makes the times, losses and peaks of a run doubtful."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from lora_profiler.prediction import Phase
from lora_profiler.records.record import PERTURBED_SHARE, Flag
from lora_profiler.workload import TrainSetup

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
SPOILS_TIMES: tuple[Flag, ...] = ("busy_machine", "memory_pressure", "thermal_throttling")


def timing_flags(flags: Collection[Flag], device_kind: str) -> list[Flag]:
    """Those of `flags` that make the times of a run on a device of this kind noisy.

    A busy host takes nothing from an accelerator that it keeps fed: there it counts only where the
    run waited for the host.
    """
    harmless = device_kind != "cpu" and "host_bound" not in flags
    return [
        flag for flag in SPOILS_TIMES if flag in flags and not (flag == "busy_machine" and harmless)
    ]


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
                f"the mean loss of the ranks at step {step} is {mine:.7g}, that of one process on"
                f" the same data {one:.7g}: over {limit:g} of it apart"
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
    for phase, seen in tracked.items():
        size = counted.get(phase, seen)
        least = size - (workspace_bytes or 0) - PERTURBED_SHARE * size if phase in AT_REST else 0
        if not least <= seen <= size + PERTURBED_SHARE * size:
            yield f"In {phase} the tracker saw {seen} bytes, the allocator {size}: over 0.5 % apart"
    if (
        peak is not None
        and timed_peak_bytes is not None
        and abs(timed_peak_bytes - peak) > PERTURBED_SHARE * peak
    ):
        yield (
            f"After the timing pass the peak was {timed_peak_bytes}, before it {peak}: over 0.5 %"
            " apart"
        )
