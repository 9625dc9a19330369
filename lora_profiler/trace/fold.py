"""Folds the flat tape of four units into runs of blocks. Nothing here is taken on trust: the
compiler expands and compares."""

from collections.abc import Mapping, Sequence

from lora_profiler.memory.compiled.tape import (
    LEAST_UNITS,
    Anchor,
    BlockRun,
    Death,
    Event,
    FlatEvent,
    Layout,
    Tape,
)

MARK = "<mark>"
"""Where a mark stands in a list of module names."""
Label = int | None
"""The unit that an event belongs to, None outside the stack."""


def fold(events: Sequence[FlatEvent], labels: Sequence[Label], layout: Layout) -> Tape:
    """The folded tape of `LEAST_UNITS` units."""
    runs = _runs(_turned(_segments(labels), events))
    home: dict[int, tuple[int, Label, int]] = {}
    births: dict[tuple[int, Label], int] = {}
    folded = []
    for q, (direction, segments) in enumerate(runs):
        blocks: dict[int, tuple[Event, ...]] = {}
        for label, start, stop in segments:
            unit = label if direction else None
            block: list[Event] = []
            ordinal = 0
            for event in events[start:stop]:
                if event.birth is not None:
                    home[len(home)] = (q, unit, ordinal)
                    ordinal += 1
                    block.append(
                        event.birth._replace(module=template(event.birth.module, unit, layout))
                    )
                elif event.mark is not None:
                    block.append(event.mark)
                else:
                    block.append(_reference(home[event.dies], q, unit, births))
            blocks[unit or 0] = tuple(block)
            births[q, unit] = ordinal
        folded.append(BlockRun(direction, tuple(blocks[unit] for unit in sorted(blocks))))
    return Tape(tuple(folded), layout)


def unfolded(events: Sequence[FlatEvent]) -> Tape:
    """A tape of one run, for the depth that it was traced at."""
    born = 0
    block: list[Event] = []
    for event in events:
        if event.birth is not None:
            born += 1
            block.append(event.birth)
        else:
            block.append(
                event.mark if event.mark is not None else Death(0, "single", 0, event.dies)
            )
    return Tape((BlockRun(0, (tuple(block),)),), None)


def _segments(labels: Sequence[Label]) -> list[tuple[Label, int, int]]:
    segments: list[tuple[Label, int, int]] = []
    for i, label in enumerate(labels):
        if segments and segments[-1][0] == label:
            segments[-1] = (label, segments[-1][1], i + 1)
        else:
            segments.append((label, i, i + 1))
    return segments


def _turned(
    segments: Sequence[tuple[Label, int, int]], events: Sequence[FlatEvent]
) -> list[tuple[Label, int, int]]:
    """Segments cut where a pass over the stack turns back: an optimizer's list of tensors is born
    forth and dies back."""
    cut: list[tuple[Label, int, int]] = []
    for i, (label, start, stop) in enumerate(segments):
        around = [segments[k][0] for k in (i - 1, i + 1) if 0 <= k < len(segments)]
        if label is not None and len(around) == 2 and around[0] == around[1] is not None:
            turn = next((k for k in range(start, stop) if events[k].birth is None), start)
            if start < turn and all(event.birth is None for event in events[turn:stop]):
                cut += [(label, start, turn), (label, turn, stop)]
                continue
        cut.append((label, start, stop))
    return cut


def _runs(
    segments: Sequence[tuple[Label, int, int]],
) -> list[tuple[int, list[tuple[Label, int, int]]]]:
    """Segments gathered into whole passes over the stack (direction 1 or -1); every other stretch
    is a run of its own."""
    runs: list[tuple[int, list[tuple[Label, int, int]]]] = []
    i = 0
    while i < len(segments):
        taken = segments[i : i + LEAST_UNITS]
        labels = [label for label, _, _ in taken]
        if labels == list(range(LEAST_UNITS)):
            runs.append((1, list(taken)))
        elif labels == list(range(LEAST_UNITS - 1, -1, -1)):
            runs.append((-1, list(taken)))
        else:
            _, start, stop = segments[i]
            if runs and runs[-1][0] == 0:
                _, before, _ = runs[-1][1][0]
                runs[-1] = (0, [(None, before, stop)])
            else:
                runs.append((0, [(None, start, stop)]))
            i += 1
            continue
        i += LEAST_UNITS
    return runs


def _reference(
    home: tuple[int, Label, int], q: int, unit: Label, births: Mapping[tuple[int, Label], int]
) -> Death:
    """`births`: how many each block has that is whole. The first unit may have fewer than the
    others, for want of an input that requires a gradient: what the next one gives back of it counts
    from its end."""
    run, there, ordinal = home
    back = q - run
    if there is None:
        return Death(back, "single", 0, ordinal)
    if unit is not None and abs(there - unit) < LEAST_UNITS - 1:
        if run < q and there < unit and births[run, there] != births[run, unit]:
            ordinal -= births[run, there]
        return Death(back, "here", there - unit, ordinal)
    anchor: Anchor = "first" if there < LEAST_UNITS // 2 else "last"
    return Death(back, anchor, there if anchor == "first" else LEAST_UNITS - 1 - there, ordinal)


def template(module: str, unit: Label, layout: Layout) -> str:
    """`module` with its layer counted from the first layer of `unit`; outside the units from the
    nearer end of the stack."""
    place = layout.place(module)
    if place is None:
        return module
    head, index, rest = place
    if unit is not None:
        return f"{head}{{{index - layout.prefix - unit * layout.period}}}{rest}"
    if index < layout.prefix + LEAST_UNITS // 2 * layout.period:
        return module
    return f"{head}{{~{layout.layers(LEAST_UNITS) - index}}}{rest}"


def labels_of(where: Sequence[str], layout: Layout, units: int) -> list[Label]:
    """The unit of each module name."""
    known: dict[str, Label] = {}

    def label(name: str) -> Label:
        place = layout.place(name)
        index = -1 if place is None else place[1] - layout.prefix
        return index // layout.period if 0 <= index < units * layout.period else None

    for name in where:
        if name not in known:
            known[name] = label(name)
    around = {"", *(s[:i] for s in layout.stacks for i, letter in enumerate(s) if letter == ".")}
    return _joined(
        [known[name] for name in where],
        [known[name] is None and name not in around for name in where],
    )


def _joined(labels: list[Label], apart: Sequence[bool]) -> list[Label]:
    """What the modules around the stack do between two neighbouring units belongs to the one
    before, whose output gets its name there. `apart` are marks and what other modules do."""
    joined = list(labels)
    start: int | None = None
    before: Label = None
    for i, label in enumerate(labels):
        if apart[i]:
            start, before = None, None
        elif label is None:
            start = i if start is None else start
        else:
            if start is not None and before is not None and abs(label - before) <= 1:
                joined[start:i] = [before] * (i - start)
            start, before = None, label
    return joined
