"""The parameters of a model by the unit that gathers them, and so what each of several ranks
holds."""

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from lora_profiler._common.polynomial import constant
from lora_profiler.errors import UsageError
from lora_profiler.memory.analytic.deepspeed import (
    Weights,
    partitioned_parameters,
    partitioned_states,
)
from lora_profiler.memory.analytic.host_memory import kept_on_host
from lora_profiler.memory.analytic.persistent import (
    Persistent,
    TrainableTensor,
    adapter_tensors,
    copy_dtype,
    kept_in_16_bit,
    numel_at,
    trainable_tensors,
    unpacked_dtype,
)
from lora_profiler.memory.analytic.sharding import (
    ShardedParameter,
    ShardState,
    Unit,
    adapted_unit,
    alone,
    chunk,
    first_part,
    flat_unit,
    partitioned,
    replicated,
    unit,
)
from lora_profiler.question.adapters import Adapter
from lora_profiler.question.base import nf4_bytes
from lora_profiler.question.model_spec import LayerStack, ModelSpec, Module
from lora_profiler.question.optimizer import optimizer_facts
from lora_profiler.question.support.bases import adapter_dtype
from lora_profiler.question.support.optimizers import steps_on_shards
from lora_profiler.question.workload import DTYPE_BYTES, FLAT, FULLY_SHARDED, TrainSetup, Workload

Copies = tuple[tuple[str, Module], ...]


def shard_state(
    workload: Workload, state: Persistent, adapters: tuple[Adapter, ...], copies: Copies
) -> ShardState:
    """What rank 0 of `workload` holds of `state`, which is that of a process alone.

    Raises UsageError for a sharding that no rule describes.
    """
    setup, model = workload.setup.as_held, workload.model
    if setup.sharding == "none":
        return alone(state)
    order = tuple(trainable_tensors(model, setup, adapters, copies))
    if setup.sharding == "ddp":
        return replicated(state, order)
    if setup.sharding == "zero1":
        return partitioned(state, order, setup)
    if setup.sharding in ("zero1-deepspeed", "zero2"):
        return partitioned_states(state, setup, order)
    if setup.sharding == "zero3":
        added = tuple(piece for _, piece in _added(setup, adapters, copies))
        return partitioned_parameters(state, setup, order, _as_they_run(model, setup, added))
    if setup.sharding not in FULLY_SHARDED:
        raise UsageError(
            f"sharding {setup.sharding} has no rules yet; ddp, zero1, zero1-deepspeed,"
            " zero2, zero3, fsdp, fsdp-no-reshard, fsdp1, fsdp1-no-prefetch and tp have."
        )
    if not steps_on_shards(setup.optimizer, setup.sharding, setup.offload_params):
        version = "FSDP1" if setup.sharding in FLAT else "FSDP2"
        facts = optimizer_facts(setup.optimizer)
        why = "is not modelled" if facts.matrices_alone else "does not work"
        if facts.matrices_alone and version == "FSDP1":
            raise UsageError(
                f"torch's {facts.label} takes matrices alone, and FSDP1 leaves a rank a vector of"
                " each; take another --optimizer, or --sharding ddp."
            )
        raise UsageError(
            f"{setup.optimizer} {why} on the shards of {version}; take adamw or sgd, or --sharding"
            " ddp."
        )
    places = _ends(model, setup, copies) if setup.sharding in FLAT else {}
    ends: dict[str, ShardedParameter] = {}
    stacks = [part for part in model.parts if isinstance(part, LayerStack)]
    layers: dict[str, list[ShardedParameter]] = {
        f"{stack.name}.{i}": [] for stack in stacks for i in range(len(stack.order))
    }
    root: list[ShardedParameter] = []
    adapted = 0

    def home(name: str) -> list[ShardedParameter]:
        for stack in stacks:
            if name.startswith(stack.name + "."):
                return layers[f"{stack.name}.{name[len(stack.name) + 1 :].partition('.')[0]}"]
        return root

    kept = kept_in_16_bit(model, setup)
    for name, module in model.modules():
        home(name).extend(base_pieces(module, setup, kept))
    for name, piece in _added(setup, adapters, copies):
        if name in places:
            ends[places[name]] = piece
        else:
            home(name).append(piece)
        flat = setup.sharding in FLAT
        parts = -(-prod(piece.shape) // setup.world_size) * piece.itemsize
        adapted += parts if flat else piece.share(setup.world_size)
    shards = _fully_sharded(state, order, list(layers.values()), root, ends, adapted, setup)
    return kept_on_host(shards, setup) if setup.offload_params else shards


def _ends(model: ModelSpec, setup: TrainSetup, copies: Copies) -> dict[str, str]:
    """Whether each of `copies` is the embedding or the head. FSDP1 flattens a copy for itself, as
    PEFT's policy wraps it.

    Raises UsageError for others, and for a loss that runs the head by its own code.
    """
    places: dict[str, str] = {}
    for name, module in copies:
        place = "head" if name == model.output_embedding else "embed"
        is_known = place == "head" or module.kind == "Embedding"
        if not is_known or place in places.values() or len(module.weights) > 1:
            raise UsageError(
                f"FSDP1 with {name} in --modules-to-save is not modelled, only embeddings and heads"
                " without a bias; use --sharding fsdp, or leave it out."
            )
        places[name] = place
    if "head" in places.values() and setup.loss != "plain":
        raise UsageError(
            f"FSDP1 with a trained head and --loss {setup.loss} is not modelled; use --loss"
            f" plain or"
            " --sharding fsdp, or leave it out of --modules-to-save."
        )
    return places


def _as_they_run(
    model: ModelSpec, setup: TrainSetup, added: tuple[ShardedParameter, ...]
) -> Weights:
    """The base's weights by the place where they are used."""
    kept = kept_in_16_bit(model, setup)
    layers: dict[str, list[ShardedParameter]] = {}
    embed: list[ShardedParameter] = []
    head: list[ShardedParameter] = []
    names = [part.name + "." for part in model.parts if isinstance(part, LayerStack)]
    is_tied = False
    for name, module in model.modules():
        stack = next((n for n in names if name.startswith(n)), None)
        if stack is not None:
            at = layers.setdefault(stack + name[len(stack) :].partition(".")[0], [])
        else:
            at = head if layers else embed
        at.extend(base_pieces(module, setup, kept))
        if name == model.output_embedding:
            is_tied = any(weight.tied_to is not None for weight in module.weights)
    return Weights(tuple(embed), tuple(map(tuple, layers.values())), tuple(head), added, is_tied)


def gathered_to_save(
    workload: Workload, shards: ShardState, adapters: tuple[Adapter, ...], copies: Copies
) -> int | None:
    """Bytes that rank 0 of `workload` has on its card at once for a whole state dict, which goes to
    the host piece by piece; None where it has every weight anyway. A part that waits on the host is
    there beside what is made of it.

    FSDP2: one parameter, as accelerate asks torch's get_model_state_dict for it
    (full_state_dict, cpu_offload). FSDP1: one unit, as wide as its shards (FullStateDictConfig with
    offload_to_cpu; torch `distributed/fsdp/_unshard_param_utils.py`). ZeRO-3: one module's own
    parameters (DeepSpeed `runtime/engine.py`, _zero3_consolidated_16bit_state_dict).
    """
    setup, model = workload.setup.as_held, workload.model
    parts = setup.world_size + setup.offload_params
    if setup.sharding in FLAT and shards.root is not None:
        units = (shards.root, shards.embed, shards.head, *shards.units)
        return max(unit.share for unit in units if unit is not None) * parts
    if setup.sharding not in (*FULLY_SHARDED, "zero3"):
        return None
    kept = kept_in_16_bit(model, setup)
    modules = [list(base_pieces(module, setup, kept)) for _, module in model.modules()]
    modules += [[piece] for _, piece in _added(setup, adapters, copies)]
    if setup.sharding in FULLY_SHARDED:
        waiting = setup.world_size if setup.offload_params else None
        return max(
            piece.share(1) + (piece.share(waiting) if waiting else 0)
            for pieces in modules
            for piece in pieces
        )
    return max(sum(piece.share(1) for piece in pieces) for pieces in modules)


def base_pieces(
    module: Module, setup: TrainSetup, kept: frozenset[str]
) -> Iterator[ShardedParameter]:
    """A 4-bit weight is packed in the compute dtype, in one column: other storage does not shard
    beside 16-bit parameters."""
    packs = setup.quantization is not None and module.is_linear and module.name not in kept
    for weight in module.weights:
        if weight.tied_to is not None:
            continue
        if packs and weight.name == "weight":
            itemsize = DTYPE_BYTES[setup.dtype]
            packed, _ = nf4_bytes(weight.numel, False)
            yield ShardedParameter((-(-packed // itemsize), 1), itemsize, False, is_packed=True)
        else:
            dtype = setup.dtype if packs else unpacked_dtype(module.name, setup)
            yield ShardedParameter(weight.shape, DTYPE_BYTES[dtype], setup.lora is None)


def _added(
    setup: TrainSetup, adapters: tuple[Adapter, ...], copies: Copies
) -> Iterator[tuple[str, ShardedParameter]]:
    """The tensors that PEFT adds, by the module that they stand beside."""
    if setup.lora is None:
        return
    dtype, rank = adapter_dtype(setup), setup.lora.r
    made: dict[tuple[object, ...], list[ShardedParameter]] = {}
    for adapter in adapters:
        sizes = adapter[3:]  # all but where it is, and on what
        if sizes not in made:
            shapes = [
                (tuple(size.evaluate(1, 1, rank) for size in tensor.shape), tensor.kind.is_frozen)
                for tensor in adapter_tensors(adapter, dtype, setup)
            ]
            made[sizes] = [
                ShardedParameter(shape, DTYPE_BYTES[dtype], not frozen) for shape, frozen in shapes
            ]
        for piece in made[sizes]:
            yield adapter.module, piece
    for name, module in copies:
        for weight in module.weights:
            yield name, ShardedParameter(weight.shape, DTYPE_BYTES[copy_dtype(name, setup)], True)


def _fully_sharded(
    state: Persistent,
    order: Sequence[TrainableTensor],
    layers: Sequence[Sequence[ShardedParameter]],
    root: Sequence[ShardedParameter],
    ends: Mapping[str, ShardedParameter],
    adapter_share: int,
    setup: TrainSetup,
) -> ShardState:
    """Each layer a unit, the rest the root's but for the flat parameters of `ends`, embed and head.
    `order` are all that trains, `adapter_share` a rank's bytes of adapters. FSDP1's optimizer sees
    what is the rank's of each tensor (use_orig_params)."""
    world, rank = setup.world_size, setup.lora.r if setup.lora else 1
    gathered = DTYPE_BYTES["bfloat16"] if setup.precision == "fsdp-mixed" else None
    known: dict[tuple[ShardedParameter, ...], Unit] = {}
    flat = setup.sharding in FLAT

    def alone(piece: ShardedParameter) -> Unit:
        is_wide = piece.itemsize == 4 and setup.precision == "amp"
        return flat_unit([piece], world, wide=is_wide, from_host=setup.offload_params)

    def made(pieces: Sequence[ShardedParameter]) -> Unit:
        if flat:
            is_apart = setup.lora is not None
            stays = setup.use_orig_params or not is_apart  # else a frozen part goes at once
            base = flat_unit(
                [p for p in pieces if not (is_apart and p.trains)],
                world,
                wide=setup.has_wide_shards,
                from_host=setup.offload_params and stays,
            )
            return adapted_unit(base, [alone(p) for p in pieces if p.trains]) if is_apart else base
        return unit(pieces, world, gathered, from_host=setup.offload_params)

    units = tuple(known.setdefault(key, made(key)) for key in map(tuple, layers))
    base, own_ends = made(root), {name: alone(piece) for name, piece in ends.items()}
    if flat and setup.lora is not None:
        sizes = [(numel_at(t, rank), t.dtype) for t in order]
        own = tuple(TrainableTensor((constant(-(-n // world)),), dtype) for n, dtype in sizes)
    elif flat:
        dtype = order[0].dtype
        numels = [n for pieces in (root, *layers) for n in first_part(pieces, world)]
        own = tuple(TrainableTensor((constant(n),), dtype) for n in numels)
    else:
        chunks = {tensor: chunk(tensor, world, rank) for tensor in set(order)}
        own = tuple(chunks[tensor] for tensor in order)
    share = Persistent(
        parameter_bytes=sum(u.share for u in (base, *units, *own_ends.values())) - adapter_share,
        quantization_bytes=state.quantization_bytes,
        adapter_bytes=constant(adapter_share),
        adapter_parameters=state.adapter_parameters,
        order=own,
    )
    return ShardState(
        state=share,
        stepped=share,
        units=units,
        root=base,
        embed=own_ends.get("embed"),
        head=own_ends.get("head"),
        reshards=setup.sharding != "fsdp-no-reshard",
        flat=flat,
        prefetches=setup.sharding == "fsdp1",
        order=tuple(order),
    )
