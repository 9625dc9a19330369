"""What public measurements say of a predicted peak: how far off predictions of measured peaks were,
and the nearest of them."""

from typing import NamedTuple

from lora_profiler.evidence import (
    CommandShare,
    Description,
    Interval,
    MeasuredMemory,
    command_shares,
    interval,
    nearest_peak,
)
from lora_profiler.prediction import Prediction
from lora_profiler.support.library_memory import workspaces_bytes

DESCRIBED: Description = "nearly"
"""How well, at least, options describe the public runs that an answer is held to: a user's
libraries are of other versions than the answer's, mostly, and those described exactly are of two
sources alone."""


class PeakInterval(NamedTuple):
    """Where a CUDA allocator's peak lies if this prediction is as far off as those of public runs
    that options describe, exactly or but for the versions of libraries: from `low_bytes` to
    `high_bytes`, nine times in ten. `half_width` is a share of the measured peak. BLAS' workspaces
    are in it, which a counter counts.

    `described` is how well, `command` how far off the command's answers were for these, and
    `interval` how far off predictions are that know the libraries and kernels that ran. Of a run
    with kernels that no option names nothing is said.
    """

    nearest: MeasuredMemory
    described: Description
    command: CommandShare
    interval: Interval
    half_width: float
    low_bytes: int
    high_bytes: int


def peak_interval(prediction: Prediction) -> PeakInterval | None:
    """None for a lower bound, and for devices whose memory no public row tells.

    An estimate's own bound widens the interval, as errors add up at worst. With an error of at most
    w either way the measured peak is between predicted / (1 + w) and predicted / (1 - w), BLAS'
    workspaces among what is predicted.
    """
    if prediction.saved_activation_bytes is None or prediction.workload.setup.device != "cuda":
        return None
    known = command_shares()[DESCRIBED]
    peak = prediction.peak.total_bytes + workspaces_bytes(prediction.workload)
    width = known.half_width + (prediction.error_bound or 0.0)
    return PeakInterval(
        nearest=nearest_peak(prediction.workload),
        described=DESCRIBED,
        command=known,
        interval=interval(),
        half_width=width,
        low_bytes=round(peak / (1 + width)),
        high_bytes=round(peak / (1 - width)),
    )
