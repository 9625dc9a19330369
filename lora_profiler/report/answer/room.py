"""What becomes of a card's memory, in numbers that add up as they stand: usable = peak + reserve +
headroom."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_profiler.planning.fit import Fit
from lora_profiler.units import byte_unit, hundredths, hundredths_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Texts in `unit`. `context`, `workspaces` and `fragmentation` add up to `reserve`."""

    unit: str
    usable: str
    peak: str
    reserve: str
    context: str
    workspaces: str
    fragmentation: str
    headroom: str


def room(fit: Fit) -> Room:
    """Usable memory, peak and headroom are rounded as everywhere; the reserve, an estimate, takes
    up what rounding leaves."""
    unit, size = byte_unit(fit.usable_bytes)
    usable, peak, headroom = (
        hundredths(count, size) for count in (fit.usable_bytes, fit.peak_bytes, fit.headroom_bytes)
    )
    reserve = max(0, usable - peak - headroom)
    exact = fit.reserve.context_bytes, fit.reserve.workspace_bytes, fit.reserve.fragmentation_bytes
    parts = shared(reserve, [100 * count / size for count in exact])
    context, workspaces, fragmentation = (
        hundredths_text(part, count) for part, count in zip(parts, exact, strict=True)
    )
    return Room(
        unit=unit,
        usable=hundredths_text(usable, fit.usable_bytes),
        peak=hundredths_text(peak, fit.peak_bytes),
        reserve=hundredths_text(reserve, fit.reserve_bytes),
        context=context,
        workspaces=workspaces,
        fragmentation=fragmentation,
        headroom=hundredths_text(usable - peak - reserve, fit.headroom_bytes),
    )


def shared(total: int, exact: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `total`, each as near to its exact one as that allows."""
    found = [int(number) for number in exact]
    while (left := total - sum(found)) != 0:
        step = 1 if left > 0 else -1
        able = [place for place, number in enumerate(found) if step > 0 or number > 0]
        place = max(able, key=lambda place: step * (exact[place] - found[place]))
        found[place] += step
    return found
