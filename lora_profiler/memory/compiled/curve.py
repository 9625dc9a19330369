"""Memory over a step, read off the tape: few points for a picture, and never without the highest of
each stretch."""

from collections import Counter

from lora_profiler._common.polynomial import Values
from lora_profiler.memory.compiled.evaluation import Evaluation, events_of
from lora_profiler.memory.prediction import PHASES, Category, CurvePoint, Phase

MOST_POINTS = 400
"""About as many as a picture has columns to spare; a step of 70 layers has 40,000 events."""


def curve(evaluation: Evaluation, at: Values) -> tuple[CurvePoint, ...]:
    """One steady step (step 2) in about `MOST_POINTS` stretches, none across two phases: the
    highest instant of each."""
    sizes = [size.evaluate(*at) for size in evaluation.profile.sizes]
    events = events_of(evaluation)
    length = sum(1 for event in events if event.mark is None) // 2
    width = max(1, length // MOST_POINTS)
    live: Counter[Category] = Counter()
    births: list[tuple[Category, int, str]] = []
    points: list[CurvePoint] = []
    step, phase, module = 0, "", ""
    highest: tuple[int, CurvePoint] | None = None
    total = num_events = 0

    def close() -> None:
        nonlocal highest, num_events
        if highest is not None:
            points.append(highest[1])
        highest, num_events = None, 0

    for event in events:
        if event.mark is not None:
            if not event.mark.note:
                close()
                step, phase = event.mark.step, event.mark.phase
        elif event.birth is not None:
            birth = event.birth
            module = birth.module
            births.append((birth.category, sizes[birth.size], module))
            live[birth.category] += sizes[birth.size]
            total += sizes[birth.size]
        else:
            category, size, _ = births[event.dies]
            live[category] -= size
            total -= size
        if step != 2 or phase not in PHASES:
            continue
        if highest is None or total > highest[0]:
            highest = (
                total,
                CurvePoint(
                    phase=_PHASES[phase], module=module, bytes={c: n for c, n in live.items() if n}
                ),
            )
        num_events += 1
        if num_events == width:
            close()
    close()
    return tuple(points)


_PHASES: dict[str, Phase] = {phase: phase for phase in PHASES}
