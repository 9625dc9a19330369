"""An answer as a picture to share: the question, the verdict, a bar a method, three numbers, and
the command that asks it."""

import shlex
from collections.abc import Iterator, Sequence
from itertools import count
from textwrap import wrap
from typing import Final

from lora_profiler._common.versions import __version__
from lora_profiler.planning.answers import Answer
from lora_profiler.report.charts.plot import shortened, width_px
from lora_profiler.report.first_screen.frame import Frame, MemoryBar, frame
from lora_profiler.report.first_screen.offers import offers
from lora_profiler.report.first_screen.texts import (
    Run,
    ThreeNumber,
    VerdictWords,
    three_numbers,
    verdict_words,
)
from lora_profiler.report.labels import method_label
from lora_profiler.report.palette import FONT
from lora_profiler.report.svg import picture as svg
from lora_profiler.units import count_text

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
            *_verdict(verdict, _first_offer(answer)),
            *_bars(bars),
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


def _first_offer(answer: Answer) -> str:
    found = offers(answer)
    return found[0].text if found and answer.fit and answer.fit.verdict != "fits" else ""


def _verdict(it: VerdictWords, offer: str) -> Iterator[str]:
    role = _ROLES[it.verdict] if it.verdict else "ink"
    whole = width_px(it.words, _WORDS_PX[0]) + width_px(it.numbers, 26)
    size = _WORDS_PX[whole > WIDTH - 3 * _EDGE]
    words = svg.text(_EDGE, 196, it.words, role, look=_look(size, 700))
    yield svg.behind(words, it.numbers, "ink", look=_look(26), gap=18)
    if offer:
        yield svg.text(_EDGE, 240, _fitting(f"→ {offer}", 24), "accent", look=_look(24))


def _bars(it: Frame) -> Iterator[str]:
    """As on the first screen: what is over the frame in another colour, the reserve hatched."""
    left, right = _TRACK
    scale = (right - left) / 100
    top = 290.0
    if it.usable_bytes is not None:
        edge = left + scale * it.percent(it.usable_bytes)
        words = f"{it.card_words} {it.unit[0]}"
        yield svg.text(edge, top - 12, words, "faint", look=f"{_look(18)};text-anchor:end")
    for bar, place in zip(it.bars, count(), strict=False):
        yield from _bar(it, bar, top + _BARS_PX * place, scale)


def _bar(it: Frame, bar: MemoryBar, y: float, scale: float) -> Iterator[str]:
    left, height = _TRACK[0], _BARS_PX - 16
    weight = 700 if bar.is_chosen else 400
    yield svg.text(_EDGE, y + 22, shortened(bar.label, 18), "ink", look=_look(20, weight))
    for kind, low, high in it.parts(bar):
        role = "warning" if kind.endswith("-over") else "accent"
        x, width = left + scale * low, scale * (high - low)
        if kind.startswith("reserve"):
            yield (
                f'<rect x="{x:.6g}" y="{y:g}" width="{width:.6g}" height="{height:g}"'
                f' fill="url(#lp-{role})"/>'
            )
        else:
            yield svg.box(x, y, width, height, role)
    if it.usable_bytes is not None:
        width = scale * it.percent(it.usable_bytes)
        yield (
            f'<rect x="{left:g}" y="{y:g}" width="{width:.6g}" height="{height:g}" rx="2"'
            ' class="frame" fill="none" stroke-width="3"/>'
        )
    number = f"{it.number(bar)} {it.unit[0]}"
    yield svg.text(
        WIDTH - _EDGE, y + 22, number, "ink", look=f"{_look(20, weight)};text-anchor:end"
    )


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
