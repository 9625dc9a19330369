"""A bar a method in the frame of the card, which faces draw; and an answer as a picture to share:
the question, the verdict, these bars, three numbers, and the command that asks it."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Final

from lora_profiler._common.packages import __version__
from lora_profiler.catalog import Gpu
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.reserve import Verdict, judge, reserve_for
from lora_profiler.prediction import Prediction
from lora_profiler.report import labels
from lora_profiler.report import picture as svg
from lora_profiler.report.charts.plot import shortened, width_px
from lora_profiler.report.first_screen import (
    Run,
    ThreeNumber,
    VerdictWords,
    offers,
    three_numbers,
    verdict_words,
)
from lora_profiler.report.labels import method_label
from lora_profiler.report.palette import FONT, VERDICT_SIGNS
from lora_profiler.units import byte_unit, count_text, in_unit

FRAMES = 2.0
"""Where the scale ends, in memories of the card, whatever the bars are: so the frame stays where it
is while they change. What needs more is cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBar:
    """One method: its peak and what the card wants free beside it; no verdict without a card."""

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
    """Bars on one scale up to `scale_bytes`; `usable_bytes` is the card's, None without one."""

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
    bars = [
        MemoryBar(
            label=method_label(answer.prediction),
            method=answer.prediction.workload.setup.method,
            peak_bytes=answer.prediction.peak.total_bytes,
            reserve_bytes=answer.fit.reserve_bytes if answer.fit else 0,
            verdict=answer.fit.verdict if answer.fit else None,
            is_at_least=not answer.prediction.is_whole,
            is_chosen=answer.prediction is chosen,
        )
        for answer in answers
    ]
    return framed(bars, answers[0].gpu)


def framed(bars: Sequence[MemoryBar], gpu: Gpu | None, largest: int | None = None) -> Frame:
    """`bars` on the card's scale; without one on that of the largest bar, or `largest` bytes."""
    usable = gpu.usable_bytes if gpu else None
    most = largest or max(1, *(bar.total_bytes for bar in bars))
    return Frame(
        card=gpu.name if gpu else "",
        usable_bytes=usable,
        is_estimated=gpu is not None and gpu.usable_is_estimated,
        scale_bytes=most if usable is None else int(FRAMES * usable),
        bars=tuple(bars),
    )


def judged(peak: int, held: int, gpu: Gpu | None) -> tuple[int, Verdict | None]:
    """The reserve that the verdict on a peak of so many bytes rests on, `held` of them through
    every step, by the bound on fragmentation, and this verdict; 0 and None without a card whose
    memory is known."""
    if gpu is None or gpu.usable_bytes is None:
        return 0, None
    reserve, verdict = reserve_for(gpu, peak, held), judge(peak, gpu.usable_bytes, gpu, held)
    return (reserve.least if verdict == "does_not_fit" else reserve).total_bytes, verdict


# --- a picture to share ---------------------------------------------------------------------------

WIDTH, HEIGHT = 1200, 630
"""As wide and high as pages that show a card of a link expect it."""
_EDGE, _BARS_PX, _TRACK = 64, 46, (240, 880)
_WORDS_PX: Final = (60, 36)
"""Of the verdict's words: usually, and where its numbers are long."""
_ROLES: Final = {"fits": "ink", "tight": "warning", "does_not_fit": "warning"}


def share_card(answers: Sequence[Answer], answer: Answer, run: Run, command: Sequence[str]) -> str:
    """SVG of `answer`, one of `answers`; `command` are the words after `lora-profile`."""
    verdict, bars = verdict_words(answer), frame(answers, answer.prediction)
    question = card_question(answer)
    words = f"{question[0]} {question[1]}. {verdict.words}: {verdict.numbers}. {bars.words}"
    return svg.picture(
        WIDTH,
        HEIGHT,
        [
            _HATCHES,
            svg.box(0, 0, WIDTH, HEIGHT, "paper"),
            svg.box(0, 0, WIDTH, 10, "accent"),
            svg.text(_EDGE, 76, _fitting(question[0], 30), "ink", look=_look(30, 600)),
            svg.text(_EDGE, 112, _fitting(question[1], 24), "faint", look=_look(24)),
            *_verdict(verdict, answer),
            *_drawn_bars(bars),
            *_numbers(three_numbers(answer, run)),
            *_command(command),
        ],
        says=words,
        theme="light",
    )


def card_question(answer: Answer) -> tuple[str, str]:
    """("Fine-tune openai-community/gpt2", "with LoRA r16 on NVIDIA L4, 1 × 2,048 tokens")."""
    workload = answer.prediction.workload
    setup = workload.setup
    on = f" on {answer.gpu.name}" if answer.gpu else ""
    size = f"{count_text(setup.batch_size)} × {count_text(setup.seq_len)} tokens"
    also = ", checkpointing" if setup.checkpointing else ""
    ranks = f", {setup.sharding} over {setup.world_size}" if setup.world_size > 1 else ""
    method = method_label(answer.prediction)
    return f"Fine-tune {workload.model.id}", f"with {method}{on}, {size}{also}{ranks}"


def _verdict(it: VerdictWords, answer: Answer) -> Iterator[str]:
    role = _ROLES[it.verdict] if it.verdict else "ink"
    whole = width_px(it.words, _WORDS_PX[0]) + width_px(it.numbers, 26)
    size = _WORDS_PX[whole > WIDTH - 3 * _EDGE]
    words = svg.text(_EDGE, 196, it.words, role, look=_look(size, 700))
    yield svg.behind(words, it.numbers, "ink", look=_look(26), gap=18)
    found = offers(answer)
    if found and answer.fit and answer.fit.verdict != "fits":
        yield svg.text(_EDGE, 240, _fitting(f"→ {found[0].text}", 24), "accent", look=_look(24))


def _drawn_bars(it: Frame) -> Iterator[str]:
    """As on the first screen: what is over the frame in another colour, the reserve hatched."""
    left, right = _TRACK
    scale = (right - left) / 100
    top = 290.0
    if it.usable_bytes is not None:
        edge = left + scale * it.percent(it.usable_bytes)
        words = f"{it.card_words} {it.unit[0]}"
        yield svg.text(edge, top - 12, words, "faint", look=f"{_look(18)};text-anchor:end")
    height = _BARS_PX - 16
    for y, bar in ((top + _BARS_PX * place, bar) for place, bar in enumerate(it.bars)):
        look = _look(20, 700 if bar.is_chosen else 400)
        yield svg.text(_EDGE, y + 22, shortened(bar.label, 18), "ink", look=look)
        for kind, low, high in it.parts(bar):
            role = "warning" if kind.endswith("-over") else "accent"
            x, width = left + scale * low, scale * (high - low)
            hatched = (
                f'<rect x="{x:.6g}" y="{y:g}" width="{width:.6g}" height="{height:g}"'
                f' fill="url(#lp-{role})"/>'
            )
            is_reserve = kind.startswith("reserve")
            yield hatched if is_reserve else svg.box(x, y, width, height, role)
        if it.usable_bytes is not None:
            width = scale * it.percent(it.usable_bytes)
            yield (
                f'<rect x="{left:g}" y="{y:g}" width="{width:.6g}" height="{height:g}" rx="2"'
                ' class="frame" fill="none" stroke-width="3"/>'
            )
        number = f"{it.number(bar)} {it.unit[0]}"
        yield svg.text(WIDTH - _EDGE, y + 22, number, "ink", look=f"{look};text-anchor:end")


def _numbers(items: Sequence[ThreeNumber]) -> Iterator[str]:
    for place, it in enumerate(items):
        x = _EDGE + place * 360
        yield svg.text(x, 462, it.label, "faint", look=_look(18))
        yield svg.text(x, 500, it.value, "ink", look=_look(34, 600))
        yield svg.text(x, 528, _fitting(it.note, 16, 350), "faint", look=_look(16))


def _command(words: Sequence[str]) -> Iterator[str]:
    lines = wrap(shlex.join(["lora-profile", *words]), 104, break_on_hyphens=False)
    for place, line in enumerate(lines[:2]):
        shown = f"{line} …" if place == 1 and len(lines) > 2 else line
        look = "font:16px ui-monospace,Menlo,Consolas,monospace"
        yield svg.text(_EDGE, 574 + 24 * place, shown, "ink", look=look)
    made = f"lora-profiler {__version__}"
    yield svg.text(WIDTH - _EDGE, 76, made, "faint", look=f"{_look(18)};text-anchor:end")


def _look(px: int, weight: int = 400) -> str:
    return f"font:{weight} {px}px {FONT}".replace('"', "'")


def _fitting(text: str, px: int, room: float = WIDTH - 2 * _EDGE) -> str:
    """As much of the text as there is room for, its middle left out first."""
    longest = len(text)
    while longest > 8 and width_px(shortened(text, longest), px) > room - 40:
        longest -= 1
    return shortened(text, longest)


_HATCHES: Final = "<defs>{}</defs>".format(
    "".join(
        f'<pattern id="lp-{role}" width="8" height="8" patternUnits="userSpaceOnUse"'
        f' patternTransform="rotate(45)"><path d="M0 0V8" class="{role}-line" stroke-width="5"/>'
        "</pattern>"
        for role in ("accent", "warning")
    )
)
