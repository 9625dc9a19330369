"""Which weights ZeRO-3 has gathered when: DeepSpeed's coordinator, module by module.

Sources: DeepSpeed 0.19.8, `runtime/zero/partitioned_param_coordinator.py` (fetch_sub_module,
release_sub_module) and `partition_parameters.py` (AllGatherCoalescedHandle). A module's weights are
fetched before it runs, and after them so many that `PREFETCH_ELEMENTS` are on their way, while no
more than `LIVE_ELEMENTS` are there; they are released after it unless one of them is used again
within `REUSE_ELEMENTS`, or was skipped by what fetched ahead because it was there. Weights that are
fetched together come in one buffer, which is there until the last of them is used, beside a copy of
each. What is released is given other data, so that a copy which a graph of autograd's holds stays
as long as that does.
"""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

LIVE_ELEMENTS = 1_000_000_000
"""DeepSpeed's default of `stage3_max_live_parameters`."""
REUSE_ELEMENTS = 1_000_000_000
"""DeepSpeed's default of `stage3_max_reuse_distance`."""
PREFETCH_ELEMENTS = 50_000_000
"""DeepSpeed's default of `stage3_prefetch_bucket_size`."""

Weight = tuple[int, int, int]
"""Number of the layer, its place there, elements."""


class Gathered(NamedTuple):
    """The most elements that are there while a layer runs, in the loss, and in the embedding's
    backward."""

    forward: tuple[int, ...]
    loss: int
    backward: tuple[int, ...]
    embedding: int


def gathered(
    embed: Sequence[int],
    layers: Sequence[Sequence[int]],
    head: Sequence[int],
    *,
    is_tied: bool,
    runs_again: bool,
    into_embedding: bool,
    held_by_graph: Collection[tuple[int, int]] = (),
) -> Gathered:
    """Of a step whose order DeepSpeed knows from the step before. `embed`, `layers` and `head` are
    elements of the weights of modules in the order in which they run, small ones left out, which
    are always there. `is_tied`: the head's are the embedding's, `head` is empty then.
    `runs_again`: layers are checkpointed. `into_embedding`: the embedding has a
    backward pass. `held_by_graph`: (layer, place) of weights whose copy the graph of the forward
    pass holds until backward is over."""
    last = len(layers)
    places = {-1: embed, **dict(enumerate(layers)), last: head}
    of = {i: [(i, j, n) for j, n in enumerate(numels)] for i, numels in places.items()}
    if is_tied:
        of[last] = of[-1][:1]
    order = [(False, i, weight) for i, own in of.items() for weight in own]
    for i in range(last, -1 - into_embedding, -1):
        again = of[i] if runs_again and 0 <= i < last else []
        order += [(True, i, weight) for weight in (*again, *reversed(of[i]))]
    most = {(back, i): 0 for back in (False, True) for i in of}
    kept = [not back and weight[:2] in held_by_graph for back, _, weight in order]
    held = _held([weight for *_, weight in order], kept)
    for (back, i, _), there in zip(order, held, strict=True):
        most[back, i] = max(most[back, i], there)
    return Gathered(
        forward=tuple(most[False, i] for i in range(last)),
        loss=most[False, last],
        backward=tuple(most[True, i] for i in range(last)),
        embedding=most[True, -1],
    )


@dataclass
class _Buffer:
    """What comes together: weights that were not used yet, and the elements of their copies, none
    of a single weight."""

    left: set[Weight]
    elements: int
    is_copied: bool = False


def _held(order: Sequence[Weight], kept: Sequence[bool]) -> list[int]:
    """Elements on the card as each of `order` runs, at the most. `kept`: whether a graph holds what
    it runs on."""
    later: dict[Weight, deque[int]] = {}
    before = [0]
    for step, weight in enumerate(order):
        later.setdefault(weight, deque()).append(step)
        before.append(before[-1] + weight[2])
    queue = deque(enumerate(order))
    last_use: dict[Weight, int] = {}  # the last use that was fetched for, or skipped
    there: set[Weight] = set()
    coming: dict[Weight, _Buffer] = {}
    of_graph: set[Weight] = set()
    held = live = 0
    sizes: list[int] = []
    for step, weight in enumerate(order):
        if weight not in there and weight not in coming:
            there.add(weight)
            held, live = held + weight[2], live + weight[2]
        buffer = coming.pop(weight, None)
        if buffer is not None:
            if not buffer.is_copied:
                there |= buffer.left
                buffer.is_copied = True
                held += buffer.elements
            buffer.left.discard(weight)
            if not buffer.left:
                held -= buffer.elements
        if last_use.get(weight, -1) < step and queue:
            at, _ = queue.popleft()
            last_use[weight] = at
        wanted: list[Weight] = []
        room, sent = min(LIVE_ELEMENTS - live, PREFETCH_ELEMENTS), 0
        while queue and sent < room:
            at, other = queue.popleft()
            last_use[other] = max(last_use.get(other, -1), at)
            if other not in there and other not in coming and other not in wanted:
                wanted.append(other)
                sent += other[2]
        arriving = _Buffer({*wanted}, sent if len(wanted) > 1 else 0)
        coming.update(dict.fromkeys(wanted, arriving))
        held, live = held + sent, live + sent
        sizes.append(held)
        if kept[step]:
            of_graph.add(weight)
        later[weight].popleft()
        again = later[weight][0] if later[weight] else None
        is_near = again is not None and before[again] - before[step + 1] < REUSE_ELEMENTS
        if not is_near and last_use[weight] <= step + 1:
            there.discard(weight)
            live -= weight[2]
            held -= 0 if weight in of_graph else weight[2]
            of_graph.discard(weight)
    return sizes
