"""`counted_kernels`: every kernel of one micro-batch, out of the family's program and the rules of
each operator.

Equal to `trace.kernels.step_kernels` for the families and setups that
`tests/memory/test_counted_kernels.py` compares; no torch, and a few milliseconds instead of
seconds.
"""

from dataclasses import replace

from lora_profiler.errors import UncountedError
from lora_profiler.memory.analytic.families import Family, unmodelled
from lora_profiler.memory.analytic.kernels.backward import BACKWARD, run_backward
from lora_profiler.memory.analytic.kernels.chunks import (
    chunks_backward,
    chunks_forward,
    path_backward,
    path_forward,
)
from lora_profiler.memory.analytic.kernels.forward import FORWARD, run_forward, run_up_to
from lora_profiler.memory.analytic.kernels.launches import Launches
from lora_profiler.memory.analytic.kernels.outside_layers import (
    count_ones,
    count_up,
    find_sequences,
    loss_backward,
    loss_forward,
    mask,
    rotary_tables,
    windows_with_masks,
)
from lora_profiler.memory.analytic.losses import LossPath
from lora_profiler.memory.analytic.persistent import rest_dtype
from lora_profiler.memory.analytic.plan import Plan, pass_alone, plan_for
from lora_profiler.memory.analytic.predict import values
from lora_profiler.memory.analytic.structure import ForwardPass
from lora_profiler.memory.analytic.tensors import ITEMSIZE
from lora_profiler.memory.kernels import StepKernels, merged
from lora_profiler.question.lora_kernel_set import lora_kernel_set
from lora_profiler.question.workload import Workload

_KERNELS = frozenset({"cudnn", "flash", "efficient", "math", "eager"})
_ROTARY_IN_STEPS = frozenset({"dynamic", "longrope"})
"""Rotary tables whose frequencies are worked out anew in each forward pass."""


def counted_kernels(workload: Workload) -> StepKernels:
    """The kernels of one micro-batch of `workload` on a CUDA card, in the terms of
    `trace.kernels.step_kernels`.

    Raises UncountedError, with what there is no rule for; a trace of the real model has one. Raises
    what `plan_for` raises.
    """
    plan = plan_for(workload)
    forward = _countable(plan, workload)
    setup = workload.setup
    launches = Launches(
        at=values(workload),
        rows=1 if setup.is_flattened else setup.batch_size,
        packed=setup.is_packed,
        padded=setup.is_padded,
        compute=setup.dtype,
        double_quant=setup.quantization is not None and setup.quantization.is_nested,
        accumulates=setup.accumulation > 1,
        unpacks_at_once=lora_kernel_set(
            setup.lora.lora_kernels if setup.lora else "peft"
        ).unpacks_at_once,
    )
    assert plan.family is not None
    is_eager = "eager" in plan.kernels
    if setup.runs_reference:  # the reference, without a gradient
        reference = pass_alone(workload, plan.family, (), frozenset())
        for _ in range(setup.passes_beside):
            _ahead(reference, plan.family, workload, is_eager, launches)
    _ahead(forward, plan.family, workload, is_eager, launches)
    _back(forward, plan.family, workload, launches)
    trainable, tensors = _trainable(workload)
    return StepKernels(
        kernels=merged(launches.kernels),
        tokens=setup.batch_size * setup.seq_len,
        trainable=trainable,
        trained_tensors=tensors,
    )


def _trainable(workload: Workload) -> tuple[dict[int, int], int]:
    """Elements of the whole model, of which whoever updates a share takes that, and how many
    tensors they are; under tensor parallelism those of the rank's part."""
    setup = workload.setup
    if setup.sharding not in ("none", "tp"):
        workload = replace(workload, setup=setup.of_one_process)
    at, trainable = values(workload), dict[int, int]()
    tensors = plan_for(workload).state.trainable
    for tensor, count in tensors.items():
        size = ITEMSIZE[tensor.dtype]
        trainable[size] = trainable.get(size, 0) + tensor.numel.evaluate(*at) * count
    return trainable, sum(tensors.values())


def _ahead(
    forward: ForwardPass, family: Family, workload: Workload, eager: bool, launches: Launches
) -> None:
    """The forward pass and the loss."""
    model, setup = workload.model, workload.setup
    config, body = model.config, family.stack.rpartition(".")[0]
    run_forward(forward.embed.nodes, launches)
    launches.scope = body
    if not setup.is_packed:
        (count_ones if family.positions_per_sample else count_up)(launches)
    used = {family.window(config, i) for i in range(forward.num_layers)} | set(family.masks(config))
    if setup.is_packed:
        for _ in used:
            find_sequences(launches)
    if not setup.is_flattened and (setup.is_padded or not setup.is_flash_attention_2):
        always = eager or setup.is_packed or setup.is_padded
        for window in windows_with_masks(used, always, setup.seq_len):
            mask(window, rest_dtype(setup) if eager else None, launches)
    launches.scope = f"{body}.rotary_emb"
    for _, features in family.rotary_sets(config):
        rotary_tables(features, family.rotary_dtype or forward.embed.output.dtype, launches)
    for layer in forward.layers:
        run_forward(layer.run.nodes, launches.under(f"{family.stack}.*", len(layer.indices)))
    run_forward(forward.head.nodes, launches)
    launches.scope = ""
    if forward.chunks is None:
        loss_forward(forward.logits, launches)
    elif isinstance(forward.chunks, LossPath):
        path_forward(forward.chunks, launches)
    else:
        chunks_forward(forward.chunks, launches)


def _back(forward: ForwardPass, family: Family, workload: Workload, launches: Launches) -> None:
    """The backward pass; under checkpointing each layer runs forward again before it."""
    # the loss's own gradient, which autograd makes outside of the backward pass
    launches.scope, launches.phase = "", "recompute"
    launches.memory("ones_like", 0, 4)
    launches.phase = "backward"
    if forward.chunks is None:
        loss_backward(forward.logits, launches)
    elif isinstance(forward.chunks, LossPath):
        path_backward(forward.chunks, launches)
    else:
        chunks_backward(forward.chunks, launches)
    run_backward(forward.head.nodes, forward.logits, launches)
    for layer in forward.layers:
        inside = launches.under(f"{family.stack}.*", len(layer.indices))
        if workload.setup.checkpointing and layer.run.output.requires_grad:
            inside.phase = "recompute"
            run_up_to(layer.run.nodes, layer.run.repeated, inside)
            inside.phase = "backward"
        run_backward(layer.run.nodes, layer.run.output, inside)
    run_backward(forward.embed.nodes, forward.embed.output, launches)
    _tied(workload, launches)


def _tied(workload: Workload, launches: Launches) -> None:
    """A weight that embeds and makes the logits gets two gradients. Later micro-batches add both
    onto what is there."""
    model = workload.model
    if workload.setup.lora is not None or launches.accumulates:
        return
    for name, module in model.modules():
        weight = next((w for w in module.weights if w.tied_to is not None), None)
        if weight is not None and name == model.output_embedding:
            size = weight.numel * ITEMSIZE[rest_dtype(workload.setup)]
            launches.scope = (weight.tied_to or "").rpartition(".")[0]
            launches.memory("add", 2 * size, size)


def _countable(plan: Plan, workload: Workload) -> ForwardPass:
    """The forward pass to count. Raises UncountedError where something in it has no rule."""
    model, setup = workload.model, workload.setup
    why = None
    if plan.forward is None or plan.family is None:
        why = f"model type {model.model_type}"
    elif unmodelled(model):
        why = f"the config's {unmodelled(model)[0]}"
    elif setup.device != "cuda":
        why = f"device {setup.device}"
    elif not _KERNELS.issuperset(plan.kernels):
        why = f"attention {plan.kernel_text}"
    elif plan.masks_in_math:
        why = "a mask in SDPA's math kernel"
    elif any(a.parameter is not None or a.kind not in ("Linear", "Conv1D") for a in plan.adapters):
        why = "LoRA on something else than a linear layer"
    elif (model.config.get("rope_parameters") or {}).get("rope_type") in _ROTARY_IN_STEPS:
        why = "rotary tables that depend on the sequence"
    else:
        layers = (layer.run for layer in plan.forward.layers)
        runs = [plan.forward.embed, *layers, plan.forward.head]
        unknown = [
            node.op
            for run in runs
            for node in run.nodes
            if node.op not in FORWARD or (node.outputs[0].requires_grad and node.op not in BACKWARD)
        ]
        why = f"the operator {unknown[0]} of {model.model_type}" if unknown else None
    if why is not None or plan.forward is None:
        raise UncountedError(
            f"the kernels of {model.id} are not counted: {why} has no rule here; a trace knows"
            " them."
        )
    return plan.forward
