"""What public measurements say of a predicted peak: how far off predictions of measured peaks were,
and the nearest of them."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from lora_profiler.evidence import (
    CommandShare,
    Description,
    Interval,
    MeasuredMemory,
    command_shares,
    interval,
    nearest_peak,
)
from lora_profiler.planning.engine import has_newer_layers
from lora_profiler.planning.unknowns import Worth, spread
from lora_profiler.prediction import Prediction
from lora_profiler.stacks import Trainer
from lora_profiler.support.library_memory import workspaces_bytes
from lora_profiler.workload import Workload

DESCRIBED: Description = "nearly"
"""How well, at least, options describe the public runs that an answer is held to: a user's
libraries are of other versions than the answer's, mostly, and those described exactly are of two
sources alone."""


@dataclass(frozen=True, kw_only=True)
class PeakInterval:
    """Where a CUDA allocator's peak lies, nine times in ten, from `low_bytes` to `high_bytes`: over
    all that the question leaves open, and at either end as far beyond as the predictions of public
    runs that options describe, exactly or but for the versions of libraries, were off.

    `unknowns` are what is not given and changes the peak, that first which does most; empty where
    the question says all that ran. Where only a trace would price some of it, neither end is known.
    `half_width` is that error, as a share of the measured peak. BLAS' workspaces are in the
    interval, which a counter counts.

    `described` is how well options describe these runs, and `command` how far off the command's
    answers were for them.
    """

    workload: Workload
    described: Description
    command: CommandShare
    half_width: float
    low_bytes: int | None
    high_bytes: int | None
    unknowns: tuple[Worth, ...]

    @cached_property
    def nearest(self) -> MeasuredMemory:
        """The measured peak that is most like the question."""
        return nearest_peak(self.workload)

    @property
    def interval(self) -> Interval:
        """How far off predictions are that know the libraries and kernels that ran."""
        return interval()


def peak_interval(
    prediction: Prediction, trainer: Trainer | None = None, given: Collection[str] | None = None
) -> PeakInterval | None:
    """None for a lower bound, and for devices whose memory no public row tells. `given` are the
    names of the options that the question has; without them, those that are not at their default.

    Where the trainer's loop holds what no option prices, or a newer model stands for an older one,
    the error is that of public runs with kernels that none names. An estimate's own bound widens
    the interval, as errors add up at worst.
    With an error of at most w either way the measured peak is between predicted / (1 + w) and
    predicted / (1 - w), BLAS' workspaces among what is predicted.
    """
    workload = prediction.workload
    if prediction.saved_activation_bytes is None or workload.setup.device != "cuda":
        return None
    has_gaps = trainer is not None and bool(trainer.gaps(workload.setup))
    described: Description = "not" if has_gaps or has_newer_layers(workload) else DESCRIBED
    known = command_shares()[described]
    width = known.half_width + (prediction.error_bound or 0.0)
    meant = spread(workload, prediction.peak.total_bytes, trainer, given)
    workspaces = workspaces_bytes(workload)
    is_known = all(each.is_priced for each in meant.unknowns)
    return PeakInterval(
        workload=workload,
        described=described,
        command=known,
        half_width=width,
        low_bytes=round((meant.low_bytes + workspaces) / (1 + width)) if is_known else None,
        high_bytes=round((meant.high_bytes + workspaces) / (1 - width)) if is_known else None,
        unknowns=meant.unknowns,
    )
