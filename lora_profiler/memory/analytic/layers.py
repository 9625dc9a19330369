"""The same numbers by module: which layer holds which weights, gradients, states, saved activations
and FLOPs."""

from collections import defaultdict

from lora_profiler._common.polynomial import Values
from lora_profiler.memory.analytic.deepspeed import piece_bytes
from lora_profiler.memory.analytic.ledger import Storage
from lora_profiler.memory.analytic.persistent import (
    TrainableTensor,
    adapter_tensors,
    idled,
    is_idle,
    kept_in_16_bit,
    named_bytes,
    state_bytes,
    total_state_bytes,
    whole_weights,
)
from lora_profiler.memory.analytic.plan import Plan
from lora_profiler.memory.analytic.sharding import ShardedParameter, chunk
from lora_profiler.memory.analytic.sharding_units import base_pieces
from lora_profiler.memory.analytic.structure import LayerPass
from lora_profiler.memory.prediction import LayerCost
from lora_profiler.question.adapters import Adapter
from lora_profiler.question.model_spec import ModelSpec, Module
from lora_profiler.question.support.bases import adapter_dtype, stored_base
from lora_profiler.question.workload import DEEPSPEED_ZERO, DTYPE_BYTES, FULLY_SHARDED, TrainSetup


def layer_costs(plan: Plan, at: Values) -> tuple[LayerCost, ...]:
    """One row per module that owns parameters, then rows for what belongs to no module alone:
    attention cores, activation functions, the loss, the optimizer's shared tables, all its states
    where ZeRO deals them out, and under ZeRO-2 the gradients. Every column but that of trained
    numbers, which counts them whole, sums to the prediction's total for its rank.
    """
    model, setup = plan.workload.model, plan.workload.setup.as_held
    adapted: dict[str, list[Adapter]] = defaultdict(list)
    for adapter in plan.adapters:
        adapted[adapter.module].append(adapter)
    copied, kept = {name for name, _ in plan.copies}, kept_in_16_bit(model, setup)
    stored = stored_base(model, setup)
    activity, world = _activity(plan, at), setup.world_size
    is_sharded = setup.sharding in FULLY_SHARDED

    rows = []
    for name, module in model.modules():
        tensors = _trainable(model, name, module, adapted.get(name, []), name in copied, setup)
        weights, quantization = named_bytes(name, module, setup, kept, stored)
        if is_sharded:
            weights = sum(piece.share(world) for piece in base_pieces(module, setup, kept))
        if setup.sharding == "zero3":
            weights = sum(
                piece_bytes(piece, world, on_host=setup.offload_param_device != "none")
                for piece in base_pieces(module, setup, kept)
            )
        all_own = [chunk(t, world, at.rank) for t in tensors] if is_sharded else tensors
        own = [t for t in all_own if not (t.kind.is_frozen or t.kind.is_idle)]
        states = (
            0
            if setup.sharding in ("zero1", *DEEPSPEED_ZERO)
            else sum(state_bytes(t, setup).evaluate(*at) for t in own)
        )
        gradients = (
            0 if setup.sharding in DEEPSPEED_ZERO else sum(t.bytes.evaluate(*at) for t in own)
        )
        if module.kind == "Embedding":
            gradients += plan.state.unstepped_bytes
        extra = sum(_held(t, setup, at) for t in all_own) if setup.lora else 0
        if setup.offload_params:
            weights = extra = gradients = states = 0
        saved, flops = activity.pop(name, (0, 0))
        rows.append(
            LayerCost(
                name=name,
                kind=module.kind,
                in_features=module.in_features,
                out_features=module.out_features,
                num_parameters=module.num_parameters,
                num_trainable_parameters=sum(
                    t.numel.evaluate(*at) for t in tensors if not t.kind.is_frozen
                ),
                parameter_bytes=weights + quantization + extra,
                gradient_bytes=gradients,
                optimizer_state_bytes=states,
                saved_activation_bytes=saved,
                flops=flops,
            )
        )
    states_of_all = total_state_bytes(plan.shards.stepped.trainable, setup) + plan.shards.masters
    shared_states = states_of_all.evaluate(*at) - sum(r.optimizer_state_bytes for r in rows)
    rows += [_rest(name, "activation", saved, flops) for name, (saved, flops) in activity.items()]
    is_dealt = setup.sharding in DEEPSPEED_ZERO
    dealt = plan.state.gradient_bytes.evaluate(*at) if is_dealt else 0
    if shared_states or is_dealt:
        state = plan.state
        held = state.parameter_bytes + state.quantization_bytes + state.adapter_bytes.evaluate(*at)
        padding = held - sum(r.parameter_bytes for r in rows)
        rows.append(_rest("optimizer", "optimizer", 0, 0, shared_states, dealt, padding))
    return tuple(rows)


def _held(tensor: TrainableTensor, setup: TrainSetup, at: Values) -> int:
    """Bytes that a rank has of a tensor of an adapter, which FSDP has cut before."""
    if setup.sharding != "zero3":
        return tensor.bytes.evaluate(*at)
    shape = tuple(size.evaluate(*at) for size in tensor.shape)
    piece = ShardedParameter(shape, DTYPE_BYTES[setup.dtype], True)
    return piece_bytes(piece, setup.world_size, on_host=setup.offload_param_device != "none")


def _rest(
    name: str,
    kind: str,
    saved: int,
    flops: int,
    states: int = 0,
    gradients: int = 0,
    padding: int = 0,
) -> LayerCost:
    return LayerCost(
        name=name,
        kind=kind,
        in_features=None,
        out_features=None,
        num_parameters=0,
        num_trainable_parameters=0,
        parameter_bytes=padding,
        gradient_bytes=gradients,
        optimizer_state_bytes=states,
        saved_activation_bytes=saved,
        flops=flops,
    )


def _trainable(
    model: ModelSpec,
    name: str,
    module: Module,
    adapters: list[Adapter],
    copied: bool,
    setup: TrainSetup,
) -> list[TrainableTensor]:
    tensors = []
    if setup.lora is None or copied:
        tensors = list(whole_weights(model, name, module, setup, copied=copied))
    for adapter in adapters:
        assert setup.lora is not None
        own = adapter_tensors(adapter, adapter_dtype(setup), setup)
        tensors += map(idled, own) if is_idle(adapter.module, setup) else own
    return tensors


def _activity(plan: Plan, at: Values) -> dict[str, tuple[int, int]]:
    """(saved bytes, FLOPs) by full name of the module or part that they belong to."""
    result: dict[str, tuple[int, int]] = {}
    if plan.forward is None or plan.kept is None or plan.family is None:
        return result

    def note(name: str, saved: int, flops: int) -> None:
        before = result.get(name, (0, 0))
        if saved or flops:
            result[name] = (before[0] + saved, before[1] + flops)

    model, setup = plan.workload.model, plan.workload.setup
    checkpointing = setup.checkpointing
    for run in (plan.forward.embed, plan.forward.head):
        for scope, (saved, flops) in _by_scope(run, at, keeps=True, repeats=False).items():
            note(scope or "model", saved, flops)
    moved = plan.kept.moved
    for layer, size in moved.layers:
        scopes = _by_scope(
            layer.run, at, keeps=not checkpointing, repeats=checkpointing, leaves=layer.run.moved
        )
        whole = size.evaluate(*at) if checkpointing else 0
        for index in layer.indices:
            name = f"{plan.family.stack}.{index}"
            note(name, whole, 0)
            for scope, (saved, flops) in scopes.items():
                note(f"{name}.{scope}" if scope else name, saved, flops)
    note(f"{plan.family.stack}.{plan.forward.num_layers - 1}", moved.at_end.evaluate(*at), 0)
    note("attention_mask" if checkpointing else "rotary_emb", plan.kept.shared.evaluate(*at), 0)
    note("loss", plan.kept.loss.evaluate(*at), 0)
    if (chunks := plan.forward.chunks) is not None:
        note(
            model.output_embedding or "loss",
            0,
            (chunks.forward_flops + chunks.backward_flops).evaluate(*at),
        )
    return result


def _by_scope(
    run: LayerPass,
    at: Values,
    *,
    keeps: bool,
    repeats: bool,
    leaves: frozenset[Storage] = frozenset(),
) -> dict[str, tuple[int, int]]:
    saved: dict[str, int] = defaultdict(int)
    flops: dict[str, int] = defaultdict(int)
    if keeps:
        for storage, scope in run.saved.items():
            if storage.role != "shared" and storage not in leaves:
                saved[scope] += storage.bytes.evaluate(*at)
    repeated = run.nodes[: run.repeated] if repeats else []
    for node in run.nodes:
        flops[node.module] += (node.forward_flops + node.backward_flops).evaluate(*at)
    for node in repeated:
        flops[node.module] += node.forward_flops.evaluate(*at)
    return {scope: (saved[scope], flops[scope]) for scope in dict.fromkeys((*flops, *saved))}
