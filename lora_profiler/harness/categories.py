"""Which category each live allocation belongs to, by evidence: what owns it, or when it was born
and when it died.

The rules are those of the predictor's categories, so that comparing is a join: what the model or
the optimizer owns is claimed by identity; forward's memory is an activation if it lives on into
backward, else a temporary; the logits, and all that is born from then on until the gradient of the
logits exists, belong to the loss; backward's memory is a temporary unless it is a gradient, or
outlives backward (the gradient of a leaf that is no parameter). Where DDP keeps buckets, what
forward leaves behind for the next step is theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lora_profiler.harness.timeline import Allocation, Timeline
from lora_profiler.prediction import CATEGORIES, Category, Phase

LOGITS_GRADIENT = "logits_gradient"
"""The note at which backward has come to the logits: everything of the loss lies before."""


@dataclass(slots=True)
class Claims:
    """Owners by allocation key: `before` for what was alive at the start, `later` for what was seen
    at a position.

    `has_buckets`: DDP keeps memory that no Python object holds, and makes it anew in the second
    step's forward pass.
    """

    before: dict[int, Category] = field(default_factory=dict)
    later: list[tuple[int, int, Category]] = field(default_factory=list)
    has_buckets: bool = False

    def take_buckets(self, buckets: Mapping[int, int]) -> None:
        self.before |= dict.fromkeys(buckets, "communication")
        self.has_buckets = bool(buckets)

    def by_allocation(self, timeline: Timeline) -> dict[int, Category]:
        """Category by the id of each claimed allocation; the last claim holds."""
        by_key: dict[int, list[Allocation]] = {}
        for a in timeline.allocations:
            by_key.setdefault(a.key, []).append(a)
        found = {
            id(a): self.before[a.key]
            for a in timeline.allocations
            if a.born < 0 and a.key in self.before
        }
        for position, key, category in self.later:
            for a in by_key.get(key, ()):
                if a.alive_at(position):
                    found[id(a)] = category
        return found


def composition(timeline: Timeline, position: int, claims: Claims) -> dict[Category, int]:
    """Bytes alive at `position` by category; they add up to the live bytes exactly. Nobody's is
    `unattributed`."""
    owned = claims.by_allocation(timeline)
    spans = list(timeline.spans())
    found: dict[Category, int] = {}
    for a in timeline.allocations:
        if a.alive_at(position):
            category = owned.get(id(a)) or _by_lifetime(timeline, a, spans, claims.has_buckets)
            found[category] = found.get(category, 0) + a.size_bytes
    return {c: found[c] for c in CATEGORIES if c in found}


def _by_lifetime(
    timeline: Timeline,
    a: Allocation,
    spans: list[tuple[int, Phase, int, int]],
    has_buckets: bool = False,
) -> Category:
    index = next((i for i, (_, _, start, stop) in enumerate(spans) if start <= a.born < stop), None)
    if index is None:
        return "unattributed"
    step, phase, start, stop = spans[index]
    if phase == "setup":
        return "inputs"
    if phase == "loss":
        return "logits_and_loss"
    if phase == "forward":
        over = next(
            (begin for later, _, begin, _ in spans[index:] if later > step), timeline.end - 1
        )
        if has_buckets and a.alive_at(over):
            return "communication"
        backward = next(
            (begin for _, name, begin, _ in spans[index:] if name == "backward"), timeline.end
        )
        return "activations" if a.alive_at(backward) else "temporaries"
    if phase == "backward":
        notes = [
            m.position
            for m in timeline.marks
            if m.note == LOGITS_GRADIENT and start <= m.position < stop
        ]
        if notes and a.born < notes[0]:
            return "logits_and_loss"
        return "activations" if a.alive_at(stop) else "temporaries"
    return "temporaries"


def completed(found: Mapping[Category, int], peak_bytes: int) -> dict[Category, int]:
    """`found` with what is missing to `peak_bytes`, more or less than nothing, as
    `unattributed`."""
    known: dict[Category, int] = {c: n for c, n in found.items() if c != "unattributed"}
    known["unattributed"] = peak_bytes - sum(known.values())
    return known
