"""Whose each storage of a trace is: by identity where an owner was seen, else by when it was born
and when it died.

The rules are those of measured attributions (`harness/categories.py`), so that comparing is a join.
"""

from bisect import bisect_right

from lora_profiler.prediction import Category
from lora_profiler.traced.tracer import Trace

LOGITS, LOGITS_GRADIENT = "logits", "logits_gradient"


def completed(trace: Trace) -> None:
    """Gives a category to every birth that has none."""
    births = trace.births
    born, died = [0] * len(births), [len(trace.events)] * len(births)
    for position, event in enumerate(trace.events):
        if event >= 0:
            born[event] = position
        else:
            died[~event] = position
    starts = [m for m in trace.marks if not m.note]
    positions = [m.position for m in starts]
    gradients = [m.position for m in trace.marks if m.note == LOGITS_GRADIENT]
    end = len(trace.events)
    for i, birth in enumerate(births):
        if birth.category is not None:
            continue
        index = bisect_right(positions, born[i]) - 1
        mark = starts[index]
        stop = positions[index + 1] if index + 1 < len(starts) else end
        category: Category = "temporaries"
        if mark.phase == "setup":
            category = "inputs"
        elif mark.phase == "loss":
            category = "logits_and_loss"
        elif mark.phase == "forward":
            backward = next(
                (m.position for m in starts[index:] if m.phase in ("backward", "end")), end
            )
            category = "activations" if died[i] > backward else "temporaries"
        elif mark.phase == "backward":
            reached = next((p for p in gradients if mark.position <= p <= stop), None)
            if reached is not None and born[i] < reached:
                category = "logits_and_loss"
            elif died[i] > stop:
                category = "activations"
        birth.category = category
