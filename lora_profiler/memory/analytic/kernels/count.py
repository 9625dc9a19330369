"""`counted_kernels`: every kernel of one micro-batch, out of the family's program and the rules of
each operator.

Equal to `trace.kernels.step_kernels` for the families and setups that
`tests/memory/test_counted_kernels.py` compares; no torch, and a few milliseconds instead of
seconds."""

from collections.abc import Iterator
from dataclasses import replace

from lora_profiler.errors import UncountedError
from lora_profiler.memory.analytic.families import Family, unmodelled
from lora_profiler.memory.analytic.kernels.backward import BACKWARD, run_backward
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
    shifted_labels,
    windows_with_masks,
)
from lora_profiler.memory.analytic.ledger import ITEMSIZE
from lora_profiler.memory.analytic.losses import SCALAR, ChunkedHead, LossPath
from lora_profiler.memory.analytic.persistent import rest_dtype
from lora_profiler.memory.analytic.plan import Plan, pass_alone, plan_for
from lora_profiler.memory.analytic.predict import values
from lora_profiler.memory.analytic.structure import ForwardPass
from lora_profiler.memory.kernels import Gemm, StepKernels, merged
from lora_profiler.question.lora_kernel_set import lora_kernel_set
from lora_profiler.question.workload import Workload

# --- a head in chunks -----------------------------------------------------------------------------

# Kernels of a head that multiplies a chunk of tokens at a time, and of the loss in it:
# `modeling/losses.py`, line by line.

_WIDE, _INDEX = ITEMSIZE["float32"], ITEMSIZE["int64"]


def chunks_forward(head: ChunkedHead, launches: Launches) -> None:
    """Labels, the chunks, and the loss; with `head.fused` all gradients too."""
    tokens = launches.tokens
    if head.lowered:
        for given, lowered in zip(head.weights, head.parameters, strict=True):
            launches.memory("_to_copy", launches.bytes(given), launches.bytes(lowered))
    shifted_labels(launches)
    launches.memory("ne", _INDEX * tokens, tokens)
    launches.memory("sum", tokens, _INDEX)
    launches.memory("_to_copy", _INDEX, SCALAR)
    if head.fused:
        launches.memory("reciprocal_", SCALAR, SCALAR)
    launches.memory("zeros_like", 0, SCALAR)
    if head.fused:
        _zeros(head, launches)
    for rows, part in _chunks(head, launches):
        _losses(head, rows, part)
        if head.fused:
            _gradients(head, rows, part)
        part.memory("add_", 2 * SCALAR, SCALAR)
    launches.memory("mul_" if head.fused else "div_", 2 * SCALAR, SCALAR)
    if launches.accumulates:
        launches.memory("div", SCALAR, SCALAR)


def chunks_backward(head: ChunkedHead, launches: Launches) -> None:
    """The chunks again, or what forward has made scaled by the loss's own gradient."""
    if launches.accumulates:
        launches.memory("div", SCALAR, SCALAR)
    if head.fused:
        for tensor in (head.hidden, *head.parameters):
            if tensor.requires_grad:
                size = launches.bytes(tensor)
                launches.memory("mul_", size + SCALAR, size)
    else:
        launches.memory("div", 2 * SCALAR, SCALAR)
        _zeros(head, launches)
        for rows, part in _chunks(head, launches):
            _losses(head, rows, part)
            _gradients(head, rows, part)
    for given, lowered in zip(head.weights, head.parameters, strict=True):
        if given.requires_grad and head.lowered:
            launches.memory("_to_copy", launches.bytes(lowered), launches.bytes(given))
        if given.requires_grad and launches.accumulates:
            launches.memory("add_", 2 * launches.bytes(given), launches.bytes(given))


def path_forward(path: LossPath, launches: Launches) -> None:
    """A trainer's own loss: its products, and one pass over the logits by a kernel of its own, or
    torch's operators on float32 copies of its parts. Copies that shift logits or labels are left
    out, and gradients of parts that LitGPT lays together are added up as torchtune's are."""
    rows, product = _parts(path.products, path, launches)
    _logits(path, rows, product)
    if path.losses:
        rows, part = _parts(path.losses, path, launches)
        logits, wide = _logit_bytes(path, rows)
        if logits != wide:
            part.memory("_to_copy", logits, wide)
        part.memory("_log_softmax", wide, wide)
        part.memory("nll_loss_forward", (_INDEX + _WIDE) * rows, 2 * SCALAR)
        part.memory("add_", 2 * SCALAR, SCALAR)
    else:
        product.memory("_log_softmax", _logit_bytes(path, rows)[0], 0)
    if launches.accumulates:
        launches.memory("div", SCALAR, SCALAR)


def path_backward(path: LossPath, launches: Launches) -> None:
    """The product once more where the logits are made again, and those of the gradients, which
    several parts add up."""
    if path.losses:
        rows, part = _parts(path.losses, path, launches)
        logits, wide = _logit_bytes(path, rows)
        part.memory("nll_loss_backward", _INDEX * rows, wide + _WIDE * rows)
        part.memory("_log_softmax_backward_data", 2 * wide, wide)
        if logits != wide:
            part.memory("_to_copy", wide, logits)
    rows, product = _parts(path.products, path, launches)
    logits, _ = _logit_bytes(path, rows)
    if path.again:
        _logits(path, rows, product)
    if not path.losses:
        product.memory("_log_softmax_backward_data", logits, logits)
    head, dtype = path.head, path.hidden.dtype
    share, weight = launches.bytes(path.hidden) // path.products, launches.bytes(head.weight)
    further = replace(launches, count=path.products - 1)
    if path.hidden.requires_grad:
        back = Gemm(m=rows, n=head.width, k=head.vocab)
        product.product("mm", back, dtype, logits + weight, share)
        if path.products > 1:
            whole = launches.bytes(path.hidden)
            product.memory("slice_backward", share, share + whole)
            further.memory("add_", 2 * whole, whole)
    if head.weight.requires_grad:
        back = Gemm(m=head.vocab, n=head.width, k=rows)
        product.product("mm", back, dtype, logits + share, weight)
        if path.products > 1:
            further.memory("add_", 2 * weight, weight)


def _parts(count: int, path: LossPath, launches: Launches) -> tuple[int, Launches]:
    """(tokens of one, where the kernels of all go)."""
    return -(-launches.size(path.tokens) // max(count, 1)), replace(launches, count=max(count, 1))


def _logit_bytes(path: LossPath, rows: int) -> tuple[int, int]:
    """As the head makes them, and in float32."""
    numbers = rows * path.head.vocab
    return numbers * ITEMSIZE[path.hidden.dtype], numbers * _WIDE


def _logits(path: LossPath, rows: int, launches: Launches) -> None:
    gemm = Gemm(m=rows, n=path.head.vocab, k=path.head.width)
    dtype = path.hidden.dtype
    read = rows * path.head.width * ITEMSIZE[dtype] + launches.bytes(path.head.weight)
    launches.product("mm", gemm, dtype, read, _logit_bytes(path, rows)[0])


def _chunks(head: ChunkedHead, launches: Launches) -> Iterator[tuple[int, Launches]]:
    """(rows, where their kernels go) of the chunks that are full, and of the rest."""
    rows = launches.size(head.rows)
    full, rest = divmod(launches.tokens, rows)
    yield rows, replace(launches, count=full)
    if rest:
        yield rest, launches


def _zeros(head: ChunkedHead, launches: Launches) -> None:
    for tensor in head.parameters:
        if tensor.requires_grad:
            launches.memory("zeros_like", 0, launches.bytes(tensor))


def _losses(head: ChunkedHead, rows: int, launches: Launches) -> None:
    dtype = head.hidden.dtype
    hidden, logits, wide = (rows * n * size for n, size in _sizes(head))
    read = hidden + sum(launches.bytes(t) for t in head.parameters)
    gemm = Gemm(m=rows, n=head.vocab, k=head.width)
    launches.product("addmm" if len(head.parameters) > 1 else "mm", gemm, dtype, read, logits)
    if dtype != "float32":
        launches.memory("_to_copy", logits, wide)
    number, index = _WIDE * rows, _INDEX * rows
    for op, moved_in, moved_out in (
        ("ne", index, rows),
        ("_to_copy", rows, number),
        ("clamp", index, index),
        ("amax", wide, number),
        ("sub_", wide + number, wide),
        ("gather", index + number, number),
        ("exp_", wide, wide),
        ("sum", wide, number),
        ("log", number, number),
        ("sub", 2 * number, number),
        ("mul", 2 * number, number),
        ("sum", number, SCALAR),
    ):
        launches.memory(op, moved_in, moved_out)


def _gradients(head: ChunkedHead, rows: int, launches: Launches) -> None:
    dtype = head.hidden.dtype
    hidden, logits, wide = (rows * n * size for n, size in _sizes(head))
    number, index = _WIDE * rows, _INDEX * rows
    for op, moved_in, moved_out in (
        ("mul", number + SCALAR, number),
        ("div", 2 * number, number),
        ("mul_", wide + number, wide),
        ("neg", number, number),
        ("scatter_add_", index + 2 * number, number),
    ):
        launches.memory(op, moved_in, moved_out)
    if dtype != "float32":
        launches.memory("copy_", wide, logits)
    weight, *biases = head.parameters
    size = launches.bytes(weight)
    if head.hidden.requires_grad:
        gemm = Gemm(m=rows, n=head.width, k=head.vocab)
        launches.product("mm", gemm, dtype, logits + size, hidden)
        launches.memory("copy_", hidden, hidden)
    if weight.requires_grad:
        gemm = Gemm(m=head.vocab, n=head.width, k=rows)
        launches.product("addmm_", gemm, dtype, size + logits + hidden, size)
    for bias in biases:
        if bias.requires_grad:
            own = launches.bytes(bias)
            launches.memory("sum", logits, own)
            launches.memory("add_", 2 * own, own)


def _sizes(head: ChunkedHead) -> tuple[tuple[int, int], ...]:
    """(numbers, bytes of one) of a row of the hidden state, of the logits, and of their float32
    copy."""
    size = ITEMSIZE[head.hidden.dtype]
    return (head.width, size), (head.vocab, size), (head.vocab, _WIDE)


# --- a micro-batch --------------------------------------------------------------------------------

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
