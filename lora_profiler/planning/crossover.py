"""Where one way to train overtakes another: the lengths from which it needs more memory or takes
longer, batch by batch and rank by rank."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.facts.catalog import Gpu, as_gpu
from lora_profiler.planning.engine import (
    engine_for_search,
    engines_for,
    on_card,
    peak_bytes_checked,
    predict_checked,
    resized,
)
from lora_profiler.planning.fit import largest
from lora_profiler.planning.timing import step_time
from lora_profiler.question.workload import Method, Workload
from lora_profiler.units import count_text

Quantity = Literal["memory", "time"]

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
"""In tokens, where nobody says otherwise; up to the length that the model was made for."""
BATCH_SIZES = (1, 2, 4, 8, 16)
HIGHEST_RANK = 4096
"""Beyond it nobody asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossoverPoint:
    """One size, and what each method costs at it: bytes at the peak, and seconds a step where they
    are known.

    `highest_rank` is the largest at which LoRA needs no more memory than full training, 0 for none,
    `HIGHEST_RANK` for any up to it; None where not both were asked about.
    """

    batch_size: int
    seq_len: int
    peak_bytes: dict[Method, int]
    seconds: dict[Method, float]
    highest_rank: int | None

    def least(self, quantity: Quantity) -> Method | None:
        """The method that costs least, the first asked where several do; None if none is known."""
        costs = self.peak_bytes if quantity == "memory" else self.seconds
        return min(costs, key=lambda method: costs[method]) if costs else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """`dearer` costs more of `quantity` than `cheaper` at `batch_size` from `first` to `last`
    tokens, both among the sizes asked about or found between two of them; `last` is None where that
    holds to the longest asked about. None of the two are known beyond."""

    quantity: Quantity
    dearer: Method
    cheaper: Method
    batch_size: int
    first: int
    last: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossover:
    """All points, in the order of batches and lengths, and the spans on which the more frugal
    method is not: LoRA beside full training, QLoRA beside both.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload, crossover, find_model
        >>> setups = TrainSetup(), TrainSetup(lora=LoraConfig())
        >>> ways = [Workload(model=find_model("gpt2"), setup=setup) for setup in setups]
        >>> crossover(ways, lengths=[64], batch_sizes=[1]).points[0].least("memory")
        'lora'
    """

    workloads: tuple[Workload, ...]
    gpu: Gpu | None
    points: tuple[CrossoverPoint, ...]
    crossings: tuple[Crossing, ...]
    left_out: tuple[str, ...] = ()
    """Which of the sizes asked about have no answer, and why, a sentence each."""


FRUGAL: tuple[tuple[Method, Method], ...] = (("lora", "full"), ("qlora", "full"), ("qlora", "lora"))
"""Pairs of which people take the first for the cheaper."""


def checkpoints_some(workloads: Sequence[Workload]) -> bool:
    """Whether some ways have checkpointing and others not, as guides pass it for adapters alone: a
    comparison of them would be of checkpointing."""
    return len({workload.setup.checkpointing for workload in workloads}) > 1


def crossover(
    workloads: Sequence[Workload],
    gpu: Gpu | str | None = None,
    *,
    lengths: Sequence[int] = LENGTHS,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    engine: str = "auto",
) -> Crossover:
    """Where the ways of `workloads`, each of another method of one model, overtake each other over
    `lengths` and `batch_sizes`; ends of spans are found between two lengths by bisection.

    Times need a card. Lengths beyond the one that the model was made for are left out. Raises
    UsageError for fewer than two methods, and what `predict` raises.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload, crossover, find_model
        >>> model = find_model("Qwen/Qwen2.5-0.5B")
        >>> ways = [
        ...     Workload(model=model, setup=TrainSetup()),
        ...     Workload(model=model, setup=TrainSetup(lora=LoraConfig())),
        ... ]
        >>> spans = crossover(ways, lengths=[128, 2048], batch_sizes=[4]).crossings
        >>> [(span.dearer, span.cheaper) for span in spans]
        [('lora', 'full')]
    """
    gpu = None if gpu is None else as_gpu(gpu)
    ready = [on_card(workload, gpu) for workload in workloads]
    methods = [w.setup.method for w in ready]
    if len(set(methods)) < 2:
        raise UsageError("a crossover is between methods; name at least two: `--method full,lora`")
    engines = engines_for(ready, engine, other_sizes=True)
    answerers = [
        engine_for_search(predict_checked(w, e), e) for w, e in zip(ready, engines, strict=True)
    ]
    trained_for = ready[0].model.trained_length
    kept = sorted({n for n in lengths if trained_for is None or n <= trained_for})
    if not kept or not batch_sizes:
        raise UsageError(
            f"every length exceeds {ready[0].model.id}'s context length, {trained_for}."
        )
    costs = {
        way.setup.method: _Costs(way, answerer, gpu)
        for way, answerer in zip(ready, answerers, strict=True)
    }
    sizes = sorted(set(batch_sizes))

    def point(batch: int, length: int) -> CrossoverPoint:
        peaks = {method: c.peak(batch, length) for method, c in costs.items()}
        seconds = {method: c.seconds(batch, length) for method, c in costs.items()}
        return CrossoverPoint(
            batch_size=batch,
            seq_len=length,
            peak_bytes={method: n for method, n in peaks.items() if n is not None},
            seconds={method: s for method, s in seconds.items() if s is not None},
            highest_rank=_highest_rank(costs, batch, length),
        )

    points = tuple(point(batch, length) for batch in sizes for length in kept)
    beyond = sorted({*lengths} - {*kept}) if tuple(lengths) != LENGTHS else []
    left_out = [
        f"Left out {', '.join(map(count_text, beyond))} tokens: the context length of"
        f" {ready[0].model.id} is {count_text(trained_for or 0)}."
    ] * bool(beyond)
    for method, cost in costs.items():
        if cost.refused:
            at = ", ".join(map(count_text, sorted(cost.refused)))
            left_out.append(
                f"No answer for {method} at {at} tokens: {min(cost.refused.items())[1]}"
            )
    return Crossover(
        workloads=tuple(ready),
        gpu=gpu,
        points=points,
        crossings=tuple(_crossings(costs, sizes, kept, gpu is not None)),
        left_out=tuple(left_out),
    )


def _highest_rank(costs: "Mapping[Method, _Costs]", batch_size: int, seq_len: int) -> int | None:
    if "lora" not in costs or "full" not in costs or not costs["lora"].has_rank:
        return None
    most = costs["full"].peak(batch_size, seq_len)
    if most is None or costs["lora"].peak(batch_size, seq_len) is None:
        return None

    def needs_no_more(rank: int) -> bool:
        peak = costs["lora"].peak(batch_size, seq_len, rank)
        return peak is not None and peak <= most

    return largest(needs_no_more, guess=16, limit=HIGHEST_RANK)


class _Costs:
    """Peak and step time of one way at any size, each worked out once."""

    def __init__(self, workload: Workload, engine: str, gpu: Gpu | None) -> None:
        self._workload, self._engine, self._gpu = workload, engine, gpu
        self.refused: dict[int, str] = {}
        """By length, why no peak is known."""
        self._peaks: dict[tuple[int, int, int | None], int | None] = {}
        self._seconds: dict[tuple[int, int], float | None] = {}

    @property
    def has_rank(self) -> bool:
        return self._workload.setup.lora is not None and self._workload.setup.lora.has_rank

    def _sized(self, batch_size: int, seq_len: int, rank: int | None = None) -> Workload:
        """`rank` None for the one asked about."""
        setup = replace(self._workload.setup, batch_size=batch_size, seq_len=seq_len)
        if rank is not None and setup.lora is not None:
            setup = replace(setup, lora=replace(setup.lora, r=rank))
        return resized(self._workload, setup, self._engine)

    def of(self, quantity: Quantity, batch_size: int, seq_len: int) -> float | None:
        cost = self.peak if quantity == "memory" else self.seconds
        return cost(batch_size, seq_len)

    def peak(self, batch_size: int, seq_len: int, rank: int | None = None) -> int | None:
        key = batch_size, seq_len, rank
        if key not in self._peaks:
            try:
                self._peaks[key] = peak_bytes_checked(self._sized(*key), self._engine)
            except LoraProfilerError as e:  # nobody knows this size
                self._peaks[key] = None
                if rank is None:
                    self.refused.setdefault(seq_len, str(e))
        return self._peaks[key]

    def seconds(self, batch_size: int, seq_len: int) -> float | None:
        key = batch_size, seq_len
        if self._gpu is None:
            return None
        if key not in self._seconds:
            step = step_time(self._sized(*key), self._gpu).step
            self._seconds[key] = step.time.seconds if step else None
        return self._seconds[key]


def _crossings(
    costs: Mapping[Method, _Costs], batch_sizes: Sequence[int], lengths: Sequence[int], timed: bool
) -> list[Crossing]:
    quantities: tuple[Quantity, ...] = ("memory", "time") if timed else ("memory",)
    spans: list[Crossing] = []
    for quantity in quantities:
        for dearer, cheaper in FRUGAL:
            if dearer not in costs or cheaper not in costs:
                continue
            for batch in batch_sizes:
                is_dearer = _is_dearer(costs[dearer], costs[cheaper], quantity, batch)
                spans += (
                    Crossing(
                        quantity=quantity,
                        dearer=dearer,
                        cheaper=cheaper,
                        batch_size=batch,
                        first=first,
                        last=last,
                    )
                    for first, last in _spans(is_dearer, lengths)
                )
    return spans


def _is_dearer(
    dearer: _Costs, cheaper: _Costs, quantity: Quantity, batch_size: int
) -> Callable[[int], bool]:
    def holds(length: int) -> bool:
        one, other = (costs.of(quantity, batch_size, length) for costs in (dearer, cheaper))
        return one is not None and other is not None and one > other

    return holds


def _spans(holds: Callable[[int], bool], lengths: Sequence[int]) -> list[tuple[int, int | None]]:
    """First and last length of each run of `lengths` on which `holds` is true; ends that lie
    between two of them are found to the token, as if `holds` changed once there."""
    spans: list[tuple[int, int | None]] = []
    first = lengths[0] if holds(lengths[0]) else None
    for shorter, longer in pairwise(lengths):
        was, now = holds(shorter), holds(longer)
        if not was and now:
            first = _change(holds, shorter, longer, to=True)
        elif was and not now:
            assert first is not None
            spans.append((first, _change(holds, shorter, longer, to=False) - 1))
            first = None
    if first is not None:
        spans.append((first, None))
    return spans


def _change(holds: Callable[[int], bool], low: int, high: int, *, to: bool) -> int:
    """The first length above `low`, at most `high`, from which `holds` is `to`."""
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle) == to:
            high = middle
        else:
            low = middle
    return high
