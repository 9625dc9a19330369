"""The largest batch that really trains: probes in fresh processes around the predicted one, proven
from both sides."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from lora_profiler.facts.catalog import Gpu, match_device
from lora_profiler.measuring.harness import Case
from lora_profiler.measuring.harness.nvml import open_device
from lora_profiler.measuring.records.record import Record
from lora_profiler.planning.fit import predicted_largest_batch
from lora_profiler.question.option import MAX_SIZE

Probe = Callable[[Case], Record]
Fits = Literal["fits", "fits_with_retries", "does_not_fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LargestBatch:
    """`batch_size` trained, in two processes, and `batch_size` + 1 did not; 0 if not even 1 did.

    `monotone` is False if a batch fitted that did not fit again, or that is larger than one that
    did not: then the truth lies up to `upper`, the largest that ever trained. `emulated` tells that
    a budget stood in for the device's memory.
    """

    batch_size: int
    upper: int
    monotone: bool
    emulated: bool
    predicted: int | None
    records: tuple[Record, ...]


def verdict(record: Record) -> Fits | None:
    """What one probe says; None where it failed for another reason than memory, which says nothing
    about the batch."""
    if record.measurement.went_through:
        return "fits_with_retries" if record.measurement.health.get("num_alloc_retries") else "fits"
    return "does_not_fit" if record.measurement.status in ("oom", "host_oom") else None


def largest_batch(
    case: Case, probe: Probe, predicted: int | None = None, limit: int = MAX_SIZE
) -> LargestBatch:
    """The largest micro-batch of `case` that completes its optimizer steps without an allocation
    retry.

    Starts at the prediction and looks one step, then a tenth to the side that it must, then twice
    as far each time; bisects; ends with the found size trained twice and the next one failed.
    Without a prediction it tries 2, 4, 8 and so on. No other size is probed twice. Raises
    ProbeFailedError where a probe fails for another reason than memory.

    A right prediction takes three probes. Without one, or with one between 0.7 and 1.4 of the found
    size b, they are at most 2 log2(b) + 2; but three for b = 1, which trains twice while 2 fails. A
    prediction four times too small or large costs at most four more.
    """
    search = _Search(case, probe, limit)
    low, high = search.bracket(predicted)
    while high - low > 1:
        middle = (low + high) // 2
        if search.fits(middle):
            low = middle
        else:
            high = middle
    while low and not search.proves(low):
        low -= 1
    return search.result(low, predicted)


BLIND_GUESS = 2
"""Where a search without a prediction begins: 1 is then tried only if 2 fails, one probe less than
beginning there."""


def _strides(predicted: int | None) -> Iterator[int]:
    """1, a tenth of the prediction, then twice as far each time; without one, what doubles the
    guess each time."""
    stride = BLIND_GUESS
    if predicted is not None:
        yield 1
        stride = max(1, predicted // 10)
    while True:
        yield stride
        stride *= 2


class ProbeFailedError(RuntimeError):
    """A probe ended neither well nor for want of memory; `record` tells how."""

    def __init__(self, record: Record) -> None:
        failure = record.measurement.failure
        super().__init__(
            f"a probe ended as {record.measurement.status}:"
            f" {failure.reason if failure else 'no reason given'}"
        )
        self.record = record


class _Search:
    def __init__(self, case: Case, probe: Probe, limit: int) -> None:
        self._case, self._probe, self._limit = case, probe, limit
        self._known: dict[int, bool] = {}
        self._fitted: set[int] = set()
        self._records: list[Record] = []

    def fits(self, size: int) -> bool:
        if size not in self._known:
            self._known[size] = self._run(size, repeat=self._case.repeat)
        return self._known[size]

    def proves(self, size: int) -> bool:
        """Whether `size` trains in two processes; one that fails in the second does not count as
        fitting."""
        if not self.fits(size):
            return False
        self._known[size] = self._run(size, repeat=self._case.repeat + 1)
        return self._known[size]

    def bracket(self, predicted: int | None) -> tuple[int, int]:
        """(largest known to fit or 0, smallest known not to or beyond the limit): adjacent if the
        prediction is right."""
        guess = min(max(BLIND_GUESS if predicted is None else predicted, 1), self._limit)
        strides = _strides(predicted)
        if self.fits(guess):
            low, high = guess, guess + next(strides)
            while high <= self._limit and self.fits(high):
                low, high = high, high + next(strides)
            return low, min(high, self._limit + 1)
        low, high = max(0, guess - next(strides)), guess
        while low > 0 and not self.fits(low):
            low, high = max(0, low - next(strides)), low
        return low, high

    def result(self, low: int, predicted: int | None) -> LargestBatch:
        first = min(
            (size for size, fitted in self._known.items() if not fitted), default=self._limit + 1
        )
        return LargestBatch(
            batch_size=low,
            upper=max([low, *self._fitted]),
            monotone=all(size < first for size in self._fitted),
            emulated=self._case.conditions.budget_bytes is not None,
            predicted=predicted,
            records=tuple(self._records),
        )

    def _run(self, size: int, repeat: int) -> bool:
        setup = replace(self._case.workload.setup, batch_size=size)
        case = replace(
            self._case, workload=replace(self._case.workload, setup=setup), repeat=repeat
        )
        record = self._probe(case)
        self._records.append(record)
        outcome = verdict(record)
        if outcome is None:
            raise ProbeFailedError(record)
        if outcome == "fits":
            self._fitted.add(size)
        return outcome == "fits"


# --- where it begins ------------------------------------------------------------------------------


def predicted_start(case: Case) -> int | None:
    """The predicted largest batch of `case`; None where the memory of the device, or the
    activations, are not known."""
    budget, setup = case.conditions.budget_bytes, case.workload.setup
    if setup.device == "cuda":
        card = _card()
        usable = budget or (card.usable_bytes if card else None)
        if usable is None:
            return None
        return predicted_largest_batch(case.workload, usable, card or _unknown(usable))
    return None if budget is None else predicted_largest_batch(case.workload, budget)


def _card() -> Gpu | None:
    """The card that a run would take, with the memory that its driver reports."""
    with open_device() as nvml:
        name, total = nvml.name(), nvml.total_bytes()
    if total is None:
        return None
    known = match_device(name, total) if name else None
    return replace(known or _unknown(total), memory_bytes_usable=total)


def _unknown(usable_bytes: int) -> Gpu:
    return Gpu(
        key="unknown",
        name="a card",
        vendor="nvidia",
        architecture="unknown",
        memory_bytes_usable=usable_bytes,
    )
