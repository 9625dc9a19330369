"""ZeRO-2 and ZeRO-3 as DeepSpeed makes them: what a rank holds.

Sources: DeepSpeed 0.19.8, `runtime/zero/stage_1_and_2.py`, `stage3.py`, `partition_parameters.py`
and `config.py` (its defaults). What lives through the step was measured with DeepSpeed over gloo
(`benchmarks/deepspeed_ranks.py`) and is equal to the byte; what lives for a while is read off the
source.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from math import prod

from lora_profiler.algebra.polynomial import constant
from lora_profiler.analytic.gathered_units import Piece
from lora_profiler.analytic.persistent import Persistent, TrainableTensor
from lora_profiler.analytic.sharding import ShardState
from lora_profiler.prediction import Collective, Phase, Traffic
from lora_profiler.workload import DTYPE_BYTES, TrainSetup

LIVE_ELEMENTS = 1_000_000_000
"""DeepSpeed's default of `stage3_max_live_parameters`."""
PERSISTENT_ELEMENTS = 100_000
"""DeepSpeed's default of `stage3_param_persistence_threshold`: no larger weight stays whole."""
SUB_GROUP_ELEMENTS = 1_000_000_000
"""DeepSpeed's default of `sub_group_size`: ZeRO-3 updates no more at once."""
ALIGNMENT = 2
"""Elements to which a rank's part of the flat weights is padded (`nccl_start_alignment_factor`)."""

_STAGE_2: tuple[tuple[Collective, Phase], ...] = (
    ("reduce_scatter", "backward"),
    ("all_gather", "optimizer"),
)
_STAGE_3: tuple[tuple[Collective, Phase], ...] = (
    ("all_gather", "forward"),
    ("all_gather", "backward"),
    ("reduce_scatter", "backward"),
)


def dealt_out(state: Persistent, setup: TrainSetup, order: Sequence[TrainableTensor]) -> ShardState:
    """ZeRO-2: weights whole, those that train in one flat tensor, of which each rank updates a part
    in float32. Gradients of the part stay once they are reduced, those that it cuts through whole;
    the bucket is there through backward."""
    rank, size = setup.lora.r if setup.lora else 1, DTYPE_BYTES[setup.dtype]
    numels = [tensor.numel.evaluate(1, 1, rank) for tensor in order]
    whole = sum(numels)
    unit = ALIGNMENT * setup.world_size
    part = -(-whole // unit) * unit // setup.world_size
    kept = max(_overlapping(numels, part))
    padded = part * setup.world_size - whole
    return replace(
        _stepping(state, [part], kept, setup),
        state=replace(
            state,
            parameter_bytes=state.parameter_bytes + padded * size,
            order=_flat([kept], setup.dtype),
        ),
        back=constant(setup.reduce_bucket_size * size),
        dealt=setup.world_size,
        order=tuple(order),
        exchanged=tuple(_sent(collective, phase, whole * size) for collective, phase in _STAGE_2),
    )


def _overlapping(numels: Sequence[int], part: int) -> list[int]:
    """For each part of the flat tensor the elements of all tensors that have some in it."""
    ends = list(accumulate(numels))
    starts = [end - size for end, size in zip(ends, numels, strict=True)]
    return [
        sum(
            size
            for start, end, size in zip(starts, ends, numels, strict=True)
            if start < low + part and end > low
        )
        for low in range(0, max(ends[-1], 1), part)
    ]


def partitioned_whole(
    state: Persistent,
    setup: TrainSetup,
    order: Sequence[TrainableTensor],
    base: Iterable[Piece],
    added: Iterable[Piece],
) -> ShardState:
    """ZeRO-3: of each weight a part; small ones stay whole beside it once they were gathered. The
    buffer of gradients and the bucket are there from the beginning.

    Gathered weights are kept as long as `LIVE_ELEMENTS` allow, since each is used again within
    `stage3_max_reuse_distance`: all of a model that is smaller.
    """
    world, size = setup.world_size, DTYPE_BYTES[setup.dtype]
    rank = setup.lora.r if setup.lora else 1
    base, added = list(base), list(added)
    trained = [-(-t.numel.evaluate(1, 1, rank) // world) for t in order]
    gathered = [n for n in map(_numel, (*base, *added)) if n > PERSISTENT_ELEMENTS]
    live = constant(min(sum(gathered), LIVE_ELEMENTS) * size)
    whole = sum(gathered) * size
    reduced = sum(t.numel.evaluate(1, 1, rank) for t in order) * size
    groups = [min(sum(trained), SUB_GROUP_ELEMENTS)]
    found = _stepping(state, [sum(trained)], sum(trained), setup)
    return replace(
        found,
        state=replace(
            state,
            parameter_bytes=sum(piece_bytes(piece, world) for piece in base),
            adapter_bytes=constant(sum(piece_bytes(piece, world) for piece in added)),
            order=_flat([sum(trained)], setup.dtype),
        ),
        stepped_gradients=constant(sum(trained) * size + groups[0] * 4),
        always=constant(setup.reduce_bucket_size * size),
        ahead=live,
        back=live,
        dealt=world,
        gradients_stay=True,
        order=tuple(order),
        exchanged=tuple(
            _sent(collective, phase, total)
            for (collective, phase), total in zip(_STAGE_3, (whole, whole, reduced), strict=True)
        ),
    )


def piece_bytes(piece: Piece, world_size: int) -> int:
    """Bytes of a weight on each rank under ZeRO-3: its part, padded, and the parts of all ranks if
    it is small."""
    numel = _numel(piece)
    parts = 1 + (world_size if numel <= PERSISTENT_ELEMENTS else 0)
    return -(-numel // world_size) * parts * piece.itemsize


def _numel(piece: Piece) -> int:
    return prod(piece.shape)


def _stepping(
    state: Persistent, parts: Sequence[int], gradients: int, setup: TrainSetup
) -> ShardState:
    """The rank's float32 part, its states, and the float32 gradient that its optimizer is given."""
    wide = constant(sum(parts) * 4)
    return ShardState(
        state=state,
        stepped=replace(state, order=_flat(parts, "float32")),
        masters=wide,
        stepped_gradients=wide,
    )


def _flat(numels: Sequence[int], dtype: str) -> tuple[TrainableTensor, ...]:
    return tuple(TrainableTensor((constant(numel),), dtype) for numel in numels)


def _sent(collective: Collective, phase: Phase, size_bytes: int) -> Traffic:
    """Of one micro-batch, as if in one piece."""
    return Traffic(collective=collective, phase=phase, count=1, size_bytes=size_bytes)
