"""The verdict, in a few large words."""

from dataclasses import dataclass

from lora_profiler.planning.answers import Answer
from lora_profiler.planning.reserve import Verdict
from lora_profiler.planning.smallest_cards import smallest_cards
from lora_profiler.report import labels
from lora_profiler.report.answer.room import room
from lora_profiler.units import bytes_text


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictWords:
    """`words` first and large, `numbers` behind them; `verdict` None where no card was asked about,
    or nobody can tell."""

    words: str
    numbers: str
    verdict: Verdict | None


def verdict_words(answer: Answer) -> VerdictWords:
    """Whether it fits the card; without a card, how large a one is enough.

    Peak, reserve and what is left add up to the card's memory as they stand.
    """
    peak = bytes_text(answer.prediction.peak.total_bytes)
    known = answer.prediction.saved_activation_bytes is not None
    if answer.gpu is None:
        return VerdictWords(
            words=f"Needs {peak}" if known else f"Needs more than {peak}",
            numbers=_enough(answer) if known else "activations are not known",
            verdict=None,
        )
    if answer.fit is None:
        usable = bytes_text(answer.gpu.usable_bytes or 0)
        return VerdictWords(
            words="May fit or not", numbers=f"at least {peak} of {usable}", verdict=None
        )
    parts = room(answer.fit)
    about = "~" if answer.gpu.usable_is_estimated else ""
    held = f"{parts.peak} and {parts.reserve} reserve, of {about}{parts.usable} {parts.unit}"
    return VerdictWords(
        words=labels.VERDICT_LABELS[answer.fit.verdict].capitalize(),
        numbers=held,
        verdict=answer.fit.verdict,
    )


def _enough(answer: Answer) -> str:
    if answer.prediction.workload.setup.device != "cuda":
        return "for tensors"
    cards = smallest_cards(answer.prediction)
    if not cards:
        return "more than any single card has"
    return f"a card of {cards[0].memory_gib_marketed:g} GB is enough"
