"""ZeRO-1, 2 and 3 as DeepSpeed makes them: what a rank holds, on its card and on the host.

Sources: DeepSpeed 0.19.8, `runtime/zero/stage_1_and_2.py`, `stage3.py`, `partition_parameters.py`
and `config.py` (its defaults). What lives through the step was measured with DeepSpeed over gloo
(`benchmarks/truth/deepspeed_ranks.py`) and is equal to the byte; what lives for a while was
rehearsed (`benchmarks/rehearsed/deepspeed_rank.py`).
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from math import prod
from typing import NamedTuple

from lora_profiler._common.polynomial import ZERO, Polynomial, constant
from lora_profiler.memory.analytic.persistent import (
    Persistent,
    TrainableTensor,
    numel_at,
    total_state_bytes,
)
from lora_profiler.memory.analytic.sharding import ShardedParameter, ShardState
from lora_profiler.memory.analytic.zero3_fetching import Gathered, gathered
from lora_profiler.memory.prediction import Category, Collective, Phase, Traffic
from lora_profiler.question.workload import DTYPE_BYTES, TrainSetup

PERSISTENT_ELEMENTS = 100_000
"""DeepSpeed's default of `stage3_param_persistence_threshold`: no larger weight stays whole."""
SUB_GROUP_ELEMENTS = 1_000_000_000
"""DeepSpeed's default of `sub_group_size`: ZeRO-3 updates no more at once."""
ALIGNMENT = 2
"""Elements to which a rank's part of the flat weights is padded (`nccl_start_alignment_factor`)."""
OPTIMIZER_BUFFERS = 4
"""DeepSpeed's default of `offload_optimizer.buffer_count`, each as long as a sub-group."""
PARAM_BUFFER_ELEMENTS = 5 * 100_000_000
"""DeepSpeed's defaults of `offload_param.buffer_count` and `buffer_size`."""
PARAM_HOST_ELEMENTS = 1_000_000_000
"""DeepSpeed's default of `offload_param.max_in_cpu`."""

_STAGE_2: tuple[tuple[Collective, Phase], ...] = (
    ("reduce_scatter", "backward"),
    ("all_gather", "optimizer"),
)
_STAGE_3: tuple[tuple[Collective, Phase], ...] = (
    ("all_gather", "forward"),
    ("all_gather", "backward"),
    ("reduce_scatter", "backward"),
)


class Weights(NamedTuple):
    """A model's parameters in the order in which they run: of the embedding, each layer, the head,
    and what PEFT adds. `is_tied`: the head has the embedding's."""

    embed: tuple[ShardedParameter, ...]
    layers: tuple[tuple[ShardedParameter, ...], ...]
    head: tuple[ShardedParameter, ...]
    added: tuple[ShardedParameter, ...]
    is_tied: bool


def partitioned_states(
    state: Persistent, setup: TrainSetup, order: Sequence[TrainableTensor]
) -> ShardState:
    """ZeRO-1 and ZeRO-2: weights whole, those that train in one flat tensor, of which each rank
    updates a part in float32. Gradients of the part stay once they are reduced, those that it cuts
    through whole; the bucket is there in the layers' backward, and a copy of what it holds while
    that is reduced, after backward where it has room for all.

    With the optimizer on the host the part is updated there, in float32, and goes back through a
    copy in 16 bit; gradients go there through one buffer on each side, as long as the longest.

    Under ZeRO-1 gradients stay whole, and the bucket beside them, until the last micro-batch's
    backward is over; then they go through it, and those of the part to a buffer of their own
    (reduce_gradients, copy_grads_in_partition)."""
    rank, size = setup.lora.r if setup.lora else 1, DTYPE_BYTES[setup.dtype]
    numels = [numel_at(tensor, rank) for tensor in order]
    whole = sum(numels)
    unit = ALIGNMENT * setup.world_size
    part = -(-whole // unit) * unit // setup.world_size
    kept = max(_overlapping(numels, part))
    padded = part * setup.world_size - whole
    reduced = min(setup.reduce_bucket_size, whole)
    bucket = constant(setup.reduce_bucket_size * size)
    is_once = whole <= setup.reduce_bucket_size
    shards = replace(
        _stepping(state, part),
        state=replace(
            state,
            parameter_bytes=state.parameter_bytes + padded * size,
            order=_flat(kept, setup.dtype),
        ),
        back=bucket if is_once else bucket + reduced * size,
        reducing=constant(reduced * size if is_once else 0),
        dealt=setup.world_size,
        order=tuple(order),
        exchanged=tuple(_sent(collective, phase, whole * size) for collective, phase in _STAGE_2),
    )
    is_on_host = setup.offload_optimizer_device != "none"
    if setup.sharding == "zero1-deepspeed":
        beside = max(reduced, 0 if is_on_host else kept) * size
        shards = replace(
            shards,
            state=replace(shards.state, order=_flat(whole, setup.dtype)),
            dealt=1,
            back=ZERO if setup.accumulation > 1 else bucket,
            meanwhile=bucket if setup.accumulation > 1 else ZERO,
            reducing=constant(beside),
        )
    if not is_on_host:
        return shards
    longest = max(numels) * size
    stay = setup.sharding == "zero1-deepspeed"
    waiting = kept * size if setup.accumulation > 1 and not stay else 0
    moved = _updated_on_host(
        replace(shards, always=constant(longest)),
        setup,
        group=part,
        weights=part * size,
        gradients=part * 4 + longest + waiting,
    )
    return replace(moved, state=shards.state) if stay else moved


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


def partitioned_parameters(
    state: Persistent, setup: TrainSetup, order: Sequence[TrainableTensor], weights: Weights
) -> ShardState:
    """ZeRO-3: of each weight a part; small ones stay whole beside it once they were gathered. The
    buffer of gradients and the bucket are there from the beginning.

    With weights on the host their parts are there, with the optimizer there the buffer of gradients
    and a float32 copy of it too; the bucket is on the card, and so is what was gathered."""
    world, size = setup.world_size, DTYPE_BYTES[setup.dtype]
    rank = setup.lora.r if setup.lora else 1
    base = [*weights.embed, *(p for layer in weights.layers for p in layer), *weights.head]
    parts = [-(-numel_at(t, rank) // world) for t in order]
    own, group = sum(parts), _longest_group(parts)
    whole = sum(_numel(p) * p.itemsize for p in (*base, *weights.added) if _is_gathered(p))
    reduced = sum(numel_at(t, rank) for t in order) * size
    on_host = setup.offload_param_device != "none"
    shards = replace(
        _stepping(state, own),
        state=replace(
            state,
            parameter_bytes=sum(piece_bytes(p, world, on_host=on_host) for p in base),
            adapter_bytes=constant(
                sum(piece_bytes(p, world, on_host=on_host) for p in weights.added)
            ),
            order=_flat(own, setup.dtype),
        ),
        at_once=replace(state, order=_flat(group, "float32")),
        stepped_gradients=constant(own * size + group * 4),
        always=constant(setup.reduce_bucket_size * size),
        fetched=_fetched(weights, setup) if on_host or world > 1 else None,
        dealt=world,
        gradients_stay=True,
        order=tuple(order),
        exchanged=tuple(
            _sent(collective, phase, total)
            for (collective, phase), total in zip(_STAGE_3, (whole, whole, reduced), strict=True)
        ),
    )
    if on_host:
        waiting: dict[Category, int] = {
            "parameters": sum(_part(p, world) for p in base),
            "adapters": sum(_part(p, world) for p in weights.added),
        }
        if setup.offload_param_device == "nvme":
            pool = PARAM_BUFFER_ELEMENTS + min(own, PARAM_HOST_ELEMENTS)
            waiting = {"parameters": pool * size}
        shards = replace(shards, host={c: constant(n) for c, n in waiting.items() if n})
    if setup.offload_optimizer_device == "none":
        return shards
    in_float32 = 4 if setup.offload_optimizer_device == "cpu" else 0
    gradients = own * (size + in_float32)
    return _updated_on_host(shards, setup, group=group, weights=0, gradients=gradients)


def _updated_on_host(
    shards: ShardState, setup: TrainSetup, *, group: int, weights: int, gradients: int
) -> ShardState:
    """`shards` with the optimizer, its float32 weights and its states on the host, beside bytes of
    `weights` and `gradients` there. ZeRO-3 takes those of a sub-group, at most `group` elements, to
    NVMe and back through buffers; ZeRO-2 knows no NVMe, and takes it for the host."""
    more: dict[Category, Polynomial] = {
        "gradients": constant(gradients),
        "optimizer_states": shards.masters + total_state_bytes(shards.stepped.trainable, setup),
    }
    if setup.offload_optimizer_device == "nvme" and setup.sharding == "zero3":
        more["optimizer_states"] = constant(group * 4 * OPTIMIZER_BUFFERS)
    if weights:
        more["adapters" if setup.lora else "parameters"] = constant(weights)
    nothing = replace(shards.state, order=())
    return replace(
        shards,
        state=nothing,
        stepped=nothing,
        at_once=None,
        masters=ZERO,
        stepped_gradients=ZERO,
        host={**shards.host, **more},
    )


def _longest_group(parts: Sequence[int]) -> int:
    """Elements of the largest sub-group, which ends with the tensor that fills it."""
    groups = [0]
    for part in parts:
        if groups[-1] >= SUB_GROUP_ELEMENTS:
            groups.append(0)
        groups[-1] += part
    return max(groups)


def piece_bytes(piece: ShardedParameter, world_size: int, *, on_host: bool = False) -> int:
    """Bytes of a weight on each rank's card under ZeRO-3: its part, padded, where that is not
    `on_host`, and the parts of all ranks if it is small; a rank alone has its part whole."""
    copies = (not on_host) + (0 if _is_gathered(piece) else world_size)
    return _part(piece, world_size) * (copies if world_size > 1 else min(copies, 1))


def _part(piece: ShardedParameter, world_size: int) -> int:
    return -(-_numel(piece) // world_size) * piece.itemsize


def _is_gathered(piece: ShardedParameter) -> bool:
    return _numel(piece) > PERSISTENT_ELEMENTS


def _numel(piece: ShardedParameter) -> int:
    return prod(piece.shape)


def _fetched(weights: Weights, setup: TrainSetup) -> Gathered:
    """Bytes of what is gathered when. bitsandbytes' product has its packed weight among its own
    attributes (0.50 `autograd/_functions.py`, MatMul4Bit), where no hook of a checkpoint sees it:
    only the reentrant kind, without a graph, does not hold it."""
    fetched = [
        [piece for piece in pieces if _is_gathered(piece)]
        for pieces in (weights.embed, *weights.layers, weights.head)
    ]
    numels = [[_numel(piece) for piece in pieces] for pieces in fetched]
    elements = gathered(
        numels[0],
        numels[1:-1],
        numels[-1],
        is_tied=weights.is_tied,
        runs_again=setup.checkpointing,
        into_embedding=setup.lora is None or setup.has_input_gradients,
        held_by_graph={
            (i, j)
            for i, pieces in enumerate(fetched[1:-1])
            for j, piece in enumerate(pieces)
            if piece.is_packed and not setup.is_reentrant
        },
    )
    size = DTYPE_BYTES[setup.dtype]
    return Gathered(
        forward=tuple(n * size for n in elements.forward),
        loss=elements.loss * size,
        backward=tuple(n * size for n in elements.backward),
        embedding=elements.embedding * size,
    )


def _stepping(state: Persistent, part: int) -> ShardState:
    """The rank's float32 part, its states, and the float32 gradient that its optimizer is given."""
    wide = constant(part * 4)
    return ShardState(
        state=state,
        stepped=replace(state, order=_flat(part, "float32")),
        masters=wide,
        stepped_gradients=wide,
    )


def _flat(numel: int, dtype: str) -> tuple[TrainableTensor, ...]:
    return (TrainableTensor((constant(numel),), dtype),)


def _sent(collective: Collective, phase: Phase, size_bytes: int) -> Traffic:
    """Of one micro-batch, as if in one piece."""
    return Traffic(collective=collective, phase=phase, count=1, size_bytes=size_bytes)
