"""The smallest cards that each method fits, the fastest first."""

from collections.abc import Sequence

from lora_profiler.catalog import Gpu
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.smallest_cards import smallest_cards
from lora_profiler.planning.timing import step_time
from lora_profiler.report.blocks import Row, Table
from lora_profiler.report.labels import method_label
from lora_profiler.units import rate_text


def smallest_cards_table(answers: Sequence[Answer], engine: str = "auto") -> Table | None:
    """A row for each method and card of the smallest memory that is enough, with its tokens a
    second where they are known; None for a device that has no cards, and where nobody knows the
    activations."""
    known = [
        answer
        for answer in answers
        if answer.prediction.saved_activation_bytes is not None
        and answer.prediction.workload.setup.device == "cuda"
    ]
    if not known:
        return None
    return Table(
        title="the smallest memory that is enough, the fastest card first",
        columns=("", "card", "memory", "tokens a second"),
        rows=tuple(row for answer in known for row in _rows(answer, engine)),
        left=2,
    )


def _rows(answer: Answer, engine: str) -> list[Row]:
    label = method_label(answer.prediction)
    cards = smallest_cards(answer.prediction)
    if not cards:
        return [Row(cells=(label, "none alone", "", ""))]
    timed = sorted(((card, _rate(answer, card, engine)) for card in cards), key=lambda it: -it[1])
    return [
        Row(
            cells=(
                label if number == 0 else "",
                card.name,
                f"{card.memory_gib_marketed:g} GB",
                rate_text(rate) if rate else "not known",
            )
        )
        for number, (card, rate) in enumerate(timed)
    ]


def _rate(answer: Answer, card: Gpu, engine: str) -> float:
    """Tokens a second on `card`, 0 where they are not known."""
    step = step_time(answer.prediction.workload, card, engine).step
    return step.time.tokens_per_second if step else 0.0
