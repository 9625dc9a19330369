"""Inside the layers, forward and backward, and in the embedding's backward: worked out by
`liveness.py`, and estimates."""

from collections.abc import Iterable

from lora_profiler._common.polynomial import ZERO, Polynomial, constant, total
from lora_profiler.memory.analytic.activations import RNG_STATE_BYTES, Activations
from lora_profiler.memory.analytic.candidates import (
    Candidate,
    candidate,
    largest_of,
    merged,
    with_communication,
)
from lora_profiler.memory.analytic.losses import SCALAR
from lora_profiler.memory.analytic.sharding import ShardState
from lora_profiler.memory.analytic.structure import ForwardPass
from lora_profiler.memory.analytic.tensors import ITEMSIZE
from lora_profiler.memory.prediction import Category, MomentName
from lora_profiler.question.workload import Workload


def inside_layers(
    forward: ForwardPass,
    kept: Activations,
    shards: ShardState,
    before: dict[Category, Polynomial],
    running: dict[Category, Polynomial],
    workload: Workload,
) -> dict[MomentName, tuple[Candidate, ...]]:
    """Candidates inside the layers: each distinct one where it occurs last and first, then head and
    embedding. `before` lies beside the forward pass, `running` beside backward.

    Under checkpointing a layer's forward pass runs again at the start of its backward, and counts
    there.
    """
    checkpointing = workload.setup.checkpointing
    # that of before, while a layer runs again
    state = constant(RNG_STATE_BYTES if workload.setup.device == "cpu" else 0)
    per_layer = {id(layer): size for layer, size in kept.moved.layers}
    ends = kept.embed - kept.ids + kept.shared + kept.held + kept.scalars

    came_back = {  # for the layer above, if it stays until this one's backward is over
        index - 1: total((layer.run.input.bytes, *layer.run.returned))
        for layer in forward.layers
        if layer.run.returned
        for index in layer.indices
    }
    waiting = _tied_gradient(forward, workload)

    def made(*, above: int) -> Polynomial:
        """Gradients of the head and of all layers with an index over `above`; with accumulation
        they exist already. What steps in backward leaves a tied head's, which waits for the
        embedding's."""
        if workload.setup.optimizer_in_bwd:
            return waiting
        if shards.is_sharded:
            return ZERO if workload.setup.accumulation > 1 else shards.reduced_above(above)
        if shards.gradients_stay:
            return ZERO
        if shards.dealt <= 1 and workload.setup.accumulation > 1:
            return ZERO
        layers = total(
            x.run.gradient_bytes * sum(i > above for i in x.indices) for x in forward.layers
        )
        whole = forward.head_gradient_bytes + layers
        if shards.dealt <= 1:
            return whole
        rank = workload.setup.lora.r if workload.setup.lora else 1
        return constant(-(-whole.evaluate(1, 1, rank) // shards.dealt))

    def stored(*, below: int) -> Polynomial:
        at_end = kept.moved.at_end - kept.moved.freed if below == forward.num_layers else ZERO
        layers = (per_layer[id(x)] * sum(i < below for i in x.indices) for x in forward.layers)
        return total(layers) + at_end

    def found(
        base: dict[Category, Polynomial],
        index: int,
        inside: Iterable[Polynomial],
        own: Polynomial,
        sent: Polynomial,
        **more: Polynomial,
    ) -> list[Candidate]:
        below = ends + stored(below=index) + own
        alive = with_communication(base, sent)
        rest = candidate(alive, activations=below, **more)
        return [
            Candidate(merged(rest.bytes, {"temporaries": size}), rest.total + size)
            for size in inside
        ]

    of_loss = constant(2 * SCALAR)  # the loss, and the gradient of 1 that autograd begins with
    is_whole = shards.is_sharded and shards.head is None
    unreduced = forward.head_gradient_bytes if is_whole else ZERO
    from_chunks = (
        forward.chunks.parameter_gradients
        if forward.chunks and (workload.setup.accumulation == 1 or shards.is_sharded)
        else ZERO
    )
    if workload.setup.optimizer_in_bwd and forward.chunks:
        from_chunks = waiting
    ahead: list[Candidate] = []
    last = [
        candidate(
            with_communication(running, shards.in_head),
            activations=ends + stored(below=forward.num_layers),
            temporaries=inside,
            gradients=from_chunks,
            logits_and_loss=of_loss,
        )
        for inside in (*forward.head.backward_candidates, *_collected(forward, shards))
    ]
    first: list[Candidate] = []
    for layer in forward.layers:
        run, newest, oldest = layer.run, layer.indices[-1], layer.indices[0]
        running_forward = run.checkpointed_candidates if checkpointing else run.forward_candidates
        fullest_ahead, fullest_back = shards.fullest(layer.indices)
        for index in {newest, *fullest_ahead}:
            ahead += found(
                before,
                index,
                running_forward,
                run.input.bytes + kept.masks + kept.cached + kept.moved.behind,
                shards.in_forward(index),
            )
        if shards.is_sharded:
            for index in {oldest, newest}:
                own = run.input.bytes + kept.masks + kept.cached
                ahead += found(before, index, [ZERO], own, shards.before_forward(index))
        checkpoint = (
            run.input.bytes if checkpointing and run.input.storage not in run.saved else ZERO
        )
        places = [(newest, last), (oldest, first), *((index, last) for index in fullest_back)]
        if shards.is_sharded or came_back:  # the last and the first have one neighbour each
            places += [(index, last) for index in layer.indices[-2:-1]] + [
                (index, first) for index in layer.indices[1:2]
            ]
        for index, where in places:
            sent = shards.in_backward(index)
            extra = {"gradients": made(above=index), "logits_and_loss": of_loss}
            within = [size + unreduced for size in run.backward_candidates]
            in_buffer = kept.moved.buffered and index < forward.num_layers - 1
            buffered = run.input.bytes if in_buffer else ZERO  # it lies where buffers are counted
            above = came_back.get(index, ZERO)
            where += found(running, index, within, checkpoint - buffered + above, sent, **extra)
            if lingers := shards.lingering(index):
                comes = [run.output.bytes]
                where += found(running, index, comes, checkpoint, sent + lingers, **extra)
            if checkpointing:
                again = [size + unreduced for size in run.recompute_candidates]
                rerun = run.input.bytes - buffered + run.waiting_gradients + state + above
                where += found(running, index, again, rerun, sent, **extra)
    if forward.embed.gradient_bytes != ZERO:
        first += _embedding_backward(forward, shards, running, workload)
    if shards.reducing != ZERO:
        whole = shards.state.gradient_bytes if workload.setup.accumulation == 1 else ZERO
        alive = with_communication(running, shards.in_embedding + shards.reducing)
        first.append(candidate(alive, gradients=whole, logits_and_loss=of_loss))
    if shards.root is not None and shards.root.reduced and not shards.flat:
        reduced = with_communication(running, shards.in_root_reduction(workload.setup.world_size))
        of_root = constant(shards.root.reduced_share)
        sharded = ZERO if workload.setup.accumulation > 1 else shards.reduced_above(-1)
        first.append(
            candidate(
                reduced,
                gradients=sharded + of_root,
                logits_and_loss=constant(2 * SCALAR),
                temporaries=forward.embed.gradient_bytes,  # autograd has it still, traces show
            )
        )
    inside = {
        "last_layer_forward": ahead,
        "last_layer_backward": last,
        "first_layer_backward": first,
    }
    return {name: largest_of(found_) for name, found_ in inside.items() if found_}  # type: ignore[misc]


def _collected(forward: ForwardPass, shards: ShardState) -> tuple[Polynomial, ...]:
    """Live bytes while the gradient of a flat parameter's one view is written into its own, where
    the head is one (torch `distributed/fsdp/_flat_param.py`, _get_unflat_views: a split)."""
    return () if shards.head is None else (forward.after_head + forward.head_gradient_bytes,)


def _tied_gradient(forward: ForwardPass, workload: Workload) -> Polynomial:
    """Bytes of the gradient of a head that is the embedding too; PEFT's copies are two."""
    if workload.setup.lora is not None:
        return ZERO
    name = workload.model.output_embedding
    head = next((module for full, module in workload.model.modules() if full == name), None)
    if head is None or head.weights[0].tied_to is None:
        return ZERO
    return constant(head.weights[0].numel * ITEMSIZE[forward.embed.output.dtype])


def _embedding_backward(
    forward: ForwardPass,
    shards: ShardState,
    running: dict[Category, Polynomial],
    workload: Workload,
) -> list[Candidate]:
    """All gradients, with the one of the embedding's output while the embedding's own is made.

    A tied head's gradient, the embedding's and their sum coexist afterwards; where autocast
    converted the head's gradient or chunks made it, it belongs to nobody else and takes the
    embedding's in. With accumulation all gradients are there from before, and the embedding's fresh
    one is made beside them.
    """
    size = _tied_gradient(forward, workload)
    owned = bool(forward.head.cached) or forward.chunks is not None
    gradients, unreduced = shards.state.gradient_bytes, ZERO
    if shards.is_sharded:
        gradients = shards.reduced_above(-1)
        unreduced = forward.embed.gradient_bytes + forward.head_gradient_bytes - size
    if workload.setup.accumulation > 1 or shards.gradients_stay or workload.setup.optimizer_in_bwd:
        gradients = ZERO
        if not shards.is_sharded:  # else it is among the unreduced
            unreduced = constant(
                max(node.gradients.evaluate(1, 1, 1) for node in forward.embed.nodes)
            )
    if shards.embed is not None:  # a flat parameter, whose gradient is written into its own
        unreduced, size, owned = forward.embed.gradient_bytes, ZERO, False
    hidden, tied_sum = forward.embed.output.bytes + size, ZERO if owned else size * 2
    tied_sum = tied_sum if shards.embed is None else forward.embed.gradient_bytes
    return [
        candidate(
            with_communication(running, shards.in_embedding),
            gradients=gradients,
            logits_and_loss=constant(2 * SCALAR),
            temporaries=unreduced + temporary,
        )
        for temporary in (hidden, tied_sum)
    ]
