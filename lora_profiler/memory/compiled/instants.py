"""The instants of a step at which a moment can peak, as a profile has them: what is live at each,
by category and size, as the change since the one before."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from lora_profiler._common.polynomial import ZERO, Exponents, Polynomial
from lora_profiler.memory.prediction import Category, MomentName

Kind = tuple[Category, int]
"""Of a storage: its category, and the number of its size."""
InTurn = Mapping[int, Sequence[Polynomial]]
"""Of a size, by its number, those that its storages have one after another."""


class Instant(NamedTuple):
    """An instant of step 1 or of the steady state (step 2). `changes` since the instant before:
    the number of a kind, how many storages more of it are live, and how many more with every
    unit."""

    step: int
    moment: MomentName
    changes: tuple[tuple[int, int, int], ...]


class LivePeak(NamedTuple):
    """The live bytes of instant `number`; `turn`: which of the sizes that storages have in turn."""

    number: int
    turn: int
    total: Polynomial


class Instants:
    """Those of a profile at a depth of `units`, with the sizes of a model."""

    def __init__(
        self,
        instants: Sequence[Instant],
        kinds: Sequence[Kind],
        sizes: Sequence[Polynomial],
        units: int,
        in_turn: InTurn,
    ) -> None:
        self._instants, self._kinds, self._units = instants, kinds, units
        self._sizes, self._in_turn = sizes, in_turn

    def _counts(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Of each instant its number, and (kind, storages more) since the one before."""
        for number, instant in enumerate(self._instants):
            yield (
                number,
                [(kind, base + slope * self._units) for kind, base, slope in instant.changes],
            )

    def peaks(self) -> Iterator[LivePeak]:
        """One for each instant, and for each size that a storage has in turn there."""
        weights = [tuple(self._sizes[size].nonzero().items()) for _, size in self._kinds]
        turning = [kind for kind, (_, size) in enumerate(self._kinds) if size in self._in_turn]
        live: dict[Exponents, int] = {}
        alive = dict.fromkeys(turning, 0)
        for number, changes in self._counts():
            for kind, count in changes:
                if kind in alive:
                    alive[kind] += count
                    continue
                for exponents, size in weights[kind]:
                    live[exponents] = live.get(exponents, 0) + count * size
            here = Polynomial(live.copy())
            at = next((kind for kind, count in alive.items() if count), None)
            if at is None:
                yield LivePeak(number, 0, here)
                continue
            for turn, one in enumerate(self._in_turn[self._kinds[at][1]]):
                yield LivePeak(number, turn, here + one * alive[at])

    def live_at(self, few: Sequence[LivePeak]) -> list[dict[Category, Polynomial]]:
        """Bytes by category at each of a `few` of the peaks."""
        wanted = {peak.number for peak in few}
        live = [0] * len(self._kinds)
        at: dict[int, list[int]] = {}
        for number, changes in self._counts():
            for kind, count in changes:
                live[kind] += count
            if number in wanted:
                at[number] = live.copy()
        return [self._by_category(at[peak.number], peak.turn) for peak in few]

    def _by_category(self, live: Sequence[int], turn: int) -> dict[Category, Polynomial]:
        found: dict[Category, Polynomial] = {}
        for (category, number), count in zip(self._kinds, live, strict=True):
            if count:
                turns = self._in_turn.get(number)
                size = turns[turn] if turns else self._sizes[number]
                found[category] = found.get(category, ZERO) + size * count
        return found
