"""A bar a method, in the frame of the card: the peak, the reserve behind it, and what leaves the
frame."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_profiler.catalog import Gpu
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.reserve import Verdict, judge, reserve_for
from lora_profiler.prediction import Prediction
from lora_profiler.report import labels
from lora_profiler.report.labels import method_label
from lora_profiler.report.palette import VERDICT_SIGNS
from lora_profiler.units import byte_unit, in_unit

FRAMES = 2.0
"""Where the scale ends, in memories of the card, whatever the bars are: so the frame stays where it
is while they change. What needs more is cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBar:
    """One method: its peak and what the card wants free beside it, in bytes; no verdict without a
    card."""

    label: str
    method: str
    peak_bytes: int
    reserve_bytes: int
    verdict: Verdict | None
    is_at_least: bool
    is_chosen: bool

    @property
    def total_bytes(self) -> int:
        return self.peak_bytes + self.reserve_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Bars on one scale, which ends at `scale_bytes`; `usable_bytes` is the card's, None without
    one."""

    card: str
    usable_bytes: int | None
    is_estimated: bool
    scale_bytes: int
    bars: tuple[MemoryBar, ...]

    def percent(self, size: int) -> float:
        """A size as a share of the scale, cut off where that ends."""
        return round(min(100.0, 100 * size / self.scale_bytes), 3)

    def parts(self, bar: MemoryBar) -> tuple[tuple[str, float, float], ...]:
        """(kind, from, to) in per cent of the scale: the peak, the reserve, and of either what is
        over the frame."""
        ends = (("peak", 0, bar.peak_bytes), ("reserve", bar.peak_bytes, bar.total_bytes))
        edge = self.usable_bytes if self.usable_bytes is not None else bar.total_bytes
        found = []
        for kind, start, end in ends:
            for name, low, high in (
                (kind, start, min(end, edge)),
                (f"{kind}-over", max(start, edge), end),
            ):
                if low < high:
                    found.append((name, self.percent(low), self.percent(high)))
        return tuple(found)

    def is_cut(self, bar: MemoryBar) -> bool:
        """Whether it goes on beyond the scale."""
        return bar.total_bytes > self.scale_bytes

    @property
    def unit(self) -> tuple[str, int]:
        """(name, bytes): of the card's memory, or of the largest bar."""
        return byte_unit(self.usable_bytes or max(bar.peak_bytes for bar in self.bars))

    def number(self, bar: MemoryBar) -> str:
        """The peak in the unit of all, with the verdict's sign before it."""
        sign = f"{VERDICT_SIGNS[bar.verdict]} " if bar.verdict else ""
        return f"{sign}{'≥ ' if bar.is_at_least else ''}{in_unit(bar.peak_bytes, self.unit[1])}"

    @property
    def card_words(self) -> str:
        """'NVIDIA GeForce RTX 4090, 23.50'."""
        about = "~" if self.is_estimated else ""
        return f"{self.card}, {about}{in_unit(self.usable_bytes or 0, self.unit[1])}"

    @property
    def words(self) -> str:
        """The same for people who do not see it."""
        unit = self.unit[0]
        each = "; ".join(
            f"{bar.label}: {'at least ' if bar.is_at_least else ''}"
            f"{in_unit(bar.peak_bytes, self.unit[1])} {unit}"
            + (f", {labels.VERDICT_LABELS[bar.verdict]}" if bar.verdict else "")
            for bar in self.bars
        )
        return f"Bars of the peak of each method{f' on {self.card}' if self.card else ''}. {each}."


def frame(answers: Sequence[Answer], chosen: Prediction) -> Frame:
    """The bars of `answers`, that of `chosen` marked."""
    gpu = answers[0].gpu
    bars = tuple(_bar(answer, gpu, answer.prediction is chosen) for answer in answers)
    return framed(bars, gpu)


def framed(bars: Sequence[MemoryBar], gpu: Gpu | None, largest: int | None = None) -> Frame:
    """`bars` on the scale of the card; without one on that of the largest bar, or of `largest`
    bytes."""
    usable = gpu.usable_bytes if gpu else None
    most = largest or max(1, *(bar.total_bytes for bar in bars))
    return Frame(
        card=gpu.name if gpu else "",
        usable_bytes=usable,
        is_estimated=gpu is not None and gpu.usable_is_estimated,
        scale_bytes=most if usable is None else int(FRAMES * usable),
        bars=tuple(bars),
    )


def _bar(answer: Answer, gpu: Gpu | None, is_chosen: bool) -> MemoryBar:
    prediction = answer.prediction
    peak = prediction.peak.total_bytes
    return MemoryBar(
        label=method_label(prediction),
        method=prediction.workload.setup.method,
        peak_bytes=peak,
        reserve_bytes=answer.fit.reserve_bytes if answer.fit else 0,
        verdict=answer.fit.verdict if answer.fit else None,
        is_at_least=prediction.saved_activation_bytes is None,
        is_chosen=is_chosen,
    )


def judged(peak: int, held: int, gpu: Gpu | None) -> tuple[int, Verdict | None]:
    """What to keep free on the card beside a peak of so many bytes, `held` of them through every
    step, by the bound on fragmentation, and its verdict; 0 and None without a card whose memory is
    known."""
    if gpu is None or gpu.usable_bytes is None:
        return 0, None
    return reserve_for(gpu, peak, held).total_bytes, judge(peak, gpu.usable_bytes, gpu, held)
