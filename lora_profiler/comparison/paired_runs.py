"""Two ways to train, timed on one machine: the ratio of their step times and how far it can be
trusted."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from lora_profiler.errors import UsageError
from lora_profiler.records.record import Record

RESAMPLES = 2000
SEED = 20_210_617
CONFIDENCE = 0.95
MOST_STEPS = 500
"""Of longer runs every so many-th step is drawn from: the interval comes out wider, never narrower,
and in about a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Median step time of `b` over that of `a`: 0.8 means that b takes 80 % of a's time. `low` and
    `high` are a 95 % interval.

    `processes` are the records on either side. With one each, the interval knows nothing of how
    runs differ.
    """

    case_a: str
    case_b: str
    ratio: float
    low: float
    high: float
    processes: tuple[int, int]


def full_against_lora(records_a: Sequence[Record], records_b: Sequence[Record]) -> Ratio:
    """The ratio of medians over all steps of each side; records of one case each, from one device
    and one environment.

    The interval is a percentile bootstrap (B. Efron, Annals of Statistics 7, 1979): whole records
    are drawn again, then steps within each, with a fixed seed. Raises UsageError for records that
    cannot be compared, with the reason.
    """
    _check(records_a, records_b)
    a, b = ([r.measurement.step_seconds for r in records] for records in (records_a, records_b))
    some_a, some_b = ([run[:: -(-len(run) // MOST_STEPS)] for run in runs] for runs in (a, b))
    draw = random.Random(SEED)
    ratios = sorted(
        _drawn_median(some_b, draw) / _drawn_median(some_a, draw) for _ in range(RESAMPLES)
    )
    outside = round((1 - CONFIDENCE) / 2 * RESAMPLES)
    return Ratio(
        case_a=records_a[0].case_key,
        case_b=records_b[0].case_key,
        ratio=_median(b) / _median(a),
        low=ratios[outside],
        high=ratios[-1 - outside],
        processes=(len(a), len(b)),
    )


def _median(runs: Sequence[Sequence[float]]) -> float:
    return median(seconds for run in runs for seconds in run)


def _drawn_median(runs: Sequence[Sequence[float]], draw: random.Random) -> float:
    return _median([draw.choices(run, k=len(run)) for run in draw.choices(runs, k=len(runs))])


def _check(records_a: Sequence[Record], records_b: Sequence[Record]) -> None:
    for side in (records_a, records_b):
        if not side:
            raise UsageError("A comparison of step times needs at least one record on each side.")
        cases = sorted({r.case_key for r in side})
        if len(cases) > 1:
            raise UsageError(
                f"Records of several cases stand on one side: {', '.join(cases)}. Give those of one"
                " case."
            )
    records = [*records_a, *records_b]
    for r in records:
        if not r.measurement.went_through or min(r.measurement.step_seconds, default=0.0) <= 0:
            raise UsageError(
                f"{r.id} ({r.measurement.status}) has no step times to compare; leave it out."
            )
    if len({r.environment.device.uuid_hash for r in records}) > 1:
        raise UsageError(
            "The records come from different devices; GPUs of one model differ by 5 % and more."
            " Run both on one."
        )
    if len({r.environment.key for r in records}) > 1:
        raise UsageError(
            "The records come from different environments (software, device or threads). Run both"
            " in one."
        )
    tokens = sorted({str(r.measurement.tokens_per_step) for r in records})
    if len(tokens) > 1:
        raise UsageError(
            f"The records' steps differ in tokens ({', '.join(tokens)}), so their times cannot be"
            " compared."
        )
