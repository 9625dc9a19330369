"""The instants on which a peak can fall: live bytes of each, by category, as polynomials in batch,
sequence and rank; inside the layers, in the loss, and around them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from lora_profiler._common.polynomial import (
    TOKENS,
    ZERO,
    B,
    Polynomial,
    S,
    constant,
    total,
    undominated,
)
from lora_profiler.memory.analytic.activations import (
    RNG_STATE_BYTES,
    Activations,
    loss_of,
    moved_leaf_bytes,
)
from lora_profiler.memory.analytic.cut_layers import parted_bytes
from lora_profiler.memory.analytic.families import Family
from lora_profiler.memory.analytic.ledger import ITEMSIZE
from lora_profiler.memory.analytic.losses import SCALAR, ChunkedHead, LossOfLogits, LossPath
from lora_profiler.memory.analytic.persistent import (
    adapter_buffer_bytes,
    stable_embedding_bytes,
    step_temporary_candidates,
    total_state_bytes,
)
from lora_profiler.memory.analytic.sharding import ShardState
from lora_profiler.memory.analytic.structure import ForwardPass
from lora_profiler.memory.prediction import Category, MomentName
from lora_profiler.question.adapters import Adapter
from lora_profiler.question.feature import part
from lora_profiler.question.kernel_set import kernel_set
from lora_profiler.question.loop import loop_facts, of_loop
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.support.bases import base_of
from lora_profiler.question.support.library_memory import (
    batch_columns,
    code_book_bytes,
    copies_adapters,
    has_reference,
    loop_scalar_bytes,
    pass_columns,
    pass_scalar_bytes,
    scaler_holds,
)
from lora_profiler.question.support.losses import head_of
from lora_profiler.question.support.offloading import is_offloaded
from lora_profiler.question.support.packing import lengths
from lora_profiler.question.workload import TrainSetup, Workload

# --- one possible maximum of a moment -------------------------------------------------------------

# One possible maximum of a moment: live bytes by category, as polynomials in batch, sequence and
# rank, and how they are added to.

Breakdown = Mapping[Category, Polynomial]


class Candidate(NamedTuple):
    """One possible maximum of a moment: its live bytes by category, and their sum. `holds_last`:
    what a loop holds of the last pass is among them."""

    bytes: Breakdown
    total: Polynomial
    holds_last: bool = True


Moments = Mapping[MomentName, tuple[Candidate, ...]]


def merged(base: Breakdown, more: Breakdown) -> dict[Category, Polynomial]:
    """The sum of both, category by category."""
    return {**base, **{category: base.get(category, ZERO) + more[category] for category in more}}


def candidate(base: Breakdown, **more: Polynomial) -> Candidate:
    sizes = merged(base, more)  # type: ignore[arg-type]  # keyword names are categories
    return Candidate(bytes=sizes, total=total(sizes.values()))


def with_communication(
    base: dict[Category, Polynomial], size: Polynomial
) -> dict[Category, Polynomial]:
    """`base` with what is there for other ranks' sake, if anything is."""
    return base if size == ZERO else base | {"communication": size}


def largest_of(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    """Those that can be the largest at some size."""
    kept = undominated(c.total for c in candidates)
    return tuple(next(c for c in candidates if c.total is size) for size in kept)


# --- inside the layers ----------------------------------------------------------------------------

# Inside the layers, forward and backward, and in the embedding's backward: worked out by
# `liveness.py`, and estimates.


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
    head = head_of(workload.model)
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


# --- the stages of the loss -----------------------------------------------------------------------

# The stages of the loss, forward and backward: plain, smoothed, in chunks, and a trainer's own.

Both = tuple[tuple[Candidate, ...], tuple[Candidate, ...]]
"""Of the end of forward, and of the loss's backward."""


def loss_candidates(
    forward: ForwardPass,
    kept: Activations,
    shards: ShardState,
    ahead: dict[Category, Polynomial],
    running: dict[Category, Polynomial],
    setup: TrainSetup,
    returned: dict[Category, Polynomial] | None,
) -> Both:
    """What is alive while the loss is made, on `ahead`, and while its backward runs, on
    `running`. `returned`: what it is made on where the loop has a name for the logits before."""
    at_end = kept.saved - kept.ids - kept.capped - kept.loss + kept.held + kept.scalars
    stored = at_end - kept.moved.freed
    last = ZERO if forward.hidden.storage in forward.head.saved else forward.hidden.bytes
    gathered = shards.in_loss, shards.before_layers
    comes_after = loss_facts(setup.loss).after_forward or setup.label_smoothing_factor > 0
    if shards.is_sharded and comes_after:
        gathered = shards.after_forward, shards.after_forward
    before, after = with_communication(ahead, gathered[0]), with_communication(running, gathered[1])
    in_forward = at_end + last + kept.cached
    loss = loss_of(forward, setup)
    if isinstance(loss, LossOfLogits):
        back = largest_of(_stage_candidates(after, stored, kept.capped, loss.back))
        if not setup.label_smoothing_factor:
            stages = (*_gathered(forward), *loss.ahead)
            end = _stage_candidates(before, in_forward, kept.capped, stages)
            if shards.head is not None:  # which is there until it has run
                stages = (forward.logits.bytes, constant(shards.head.sent))
                end += _stage_candidates(before, in_forward, constant(shards.head.held), stages)
            return largest_of(end), back
        logits = kept.capped + forward.logits.bytes
        made = candidate(before, activations=in_forward, logits_and_loss=logits)
        return largest_of([made, *_stage_candidates(before, at_end, kept.capped, loss.ahead)]), back
    if isinstance(loss, LossPath):
        both = _in_path(forward, loss, at_end, kept, before, after, setup, returned)
    else:
        accumulates = setup.accumulation > 1
        both = _in_chunks(forward, loss, at_end, kept, before, after, accumulates)
    cast = ZERO if comes_after else shards.sent_as_backward_begins
    if cast == ZERO:
        return both
    begins = candidate(after, activations=stored, temporaries=cast, **_begun(loss, kept))
    return both[0], largest_of([*both[1], begins])


def _gathered(forward: ForwardPass) -> Iterator[Polynomial]:
    """The stage that brings the logits together where each rank makes a part of them: its part and
    all of them one after the other; a rank with fewer words has a padded copy of its part too."""
    for node in forward.head.nodes:
        if node.op == "all_gather":
            (part,), (parts,) = node.inputs, node.outputs
            copies = 1 + (parts.elements != forward.logits.elements)
            yield forward.logits.bytes + part.bytes * copies + parts.bytes


def _begun(loss: LossPath | ChunkedHead, kept: Activations) -> dict[str, Polynomial]:
    """What there is of a loss without all logits when its backward begins."""
    scalars = constant(2 * SCALAR)
    if isinstance(loss, LossPath):
        return {"logits_and_loss": loss.kept + scalars}
    if loss.fused:
        return {"gradients": loss.trained, "logits_and_loss": loss.made + scalars}
    return {"logits_and_loss": kept.labels + scalars}


def _in_path(
    forward: ForwardPass,
    path: LossPath,
    stored: Polynomial,
    kept: Activations,
    before: Breakdown,
    running: Breakdown,
    setup: TrainSetup,
    returned: Breakdown | None,
) -> Both:
    """(end of forward, loss's backward) of a trainer's own loss. The last two instants of the first
    are the loss's own."""
    ahead = stored
    if not path.is_apart:
        ahead = ahead + kept.cached
        if path.hidden.storage not in forward.head.saved:
            ahead = ahead + path.hidden.bytes
    end = _stage_candidates(before, ahead, ZERO, path.ahead)
    if returned is not None:
        made = _stage_candidates(returned, ahead, ZERO, path.ahead[-2:])
        end[-2:] = [each._replace(holds_last=False) for each in made]
    counted = path.output if path.is_overwritten and setup.hold_outputs else ZERO
    back = _stage_candidates(running, stored - kept.moved.freed, ZERO - counted, path.back)
    return largest_of(end), largest_of(back)


def _in_chunks(
    forward: ForwardPass,
    chunks: ChunkedHead,
    stored: Polynomial,
    kept: Activations,
    before: Breakdown,
    running: Breakdown,
    accumulates: bool,
) -> Both:
    """(end of forward, loss's backward) where the head runs in chunks.

    The gradients of the head's own weights become those of the parameters, unless there are some
    already or autocast lowered the weights: then they are converted at the end of the loss's
    backward, while the lowered ones still exist.
    """
    owned: Category = "logits_and_loss" if accumulates or chunks.lowered else "gradients"
    hidden = chunks.hidden.bytes
    if not chunks.fused:
        stored = stored - chunks.copied  # saved, but the loss's own
    ahead = stored + kept.cached
    if chunks.hidden.storage not in forward.head.saved:
        ahead = ahead + hidden
    stored = stored - kept.moved.freed

    def found(
        base: Breakdown,
        activations: Polynomial,
        rest: Polynomial,
        stages: Iterable[Polynomial],
        makes: bool,
    ) -> list[Candidate]:
        more = {owned: chunks.trained} if makes else {}
        held = candidate(base, activations=activations, **more).bytes
        return [
            candidate(held, logits_and_loss=rest + stage + chunks.made * makes) for stage in stages
        ]

    labels = kept.labels + chunks.copied + 2 * SCALAR
    wide = forward.hidden.bytes if chunks.hidden is not forward.hidden else ZERO
    if forward.hidden.storage not in forward.head.saved:
        ahead = ahead + wide  # the model has a name for it
    scalars = constant((2 + accumulates) * SCALAR)  # the loss, divided or not, and gradients of 1
    if chunks.fused:
        shifted = chunks.shifted if chunks.is_copied else ZERO
        unshifted = hidden if chunks.tokens != TOKENS and chunks.hidden.requires_grad else ZERO
        end = found(before, ahead, labels + shifted, chunks.gradients(), True)
        back = found(running, stored, scalars, [unshifted], True)
    else:
        end = found(before, ahead, labels, [chunks.losses()], False)
        back = found(running, stored, labels + scalars, chunks.gradients(), True)
    if chunks.lowered:
        left = stored if chunks.fused else stored - hidden
        own: dict[Category, Polynomial] = {
            "logits_and_loss" if accumulates else "gradients": chunks.parameter_gradients
        }
        for more in (chunks.trained, wide):
            held = candidate(running, activations=left, **own).bytes
            back.append(candidate(held, logits_and_loss=chunks.made + more + 2 * SCALAR))
    return largest_of(end), largest_of(back)


def _stage_candidates(
    base: Breakdown, activations: Polynomial, rest: Polynomial, stages: Iterable[Polynomial]
) -> list[Candidate]:
    """The stages of a loss, with `rest` of it besides."""
    return [
        candidate(base, activations=activations, logits_and_loss=rest + stage) for stage in stages
    ]


# --- the instants of a step -----------------------------------------------------------------------

_LENGTH_BYTES = 4
"""Of an int32."""
_FLOAT32, _COUNT = 4, 8


def moments(
    forward: ForwardPass, kept: Activations, shards: ShardState, family: Family, workload: Workload
) -> Moments:
    """Steady-state live bytes at every moment; `inputs` are the token ids, which live through the
    step; of packed rows and padded sequences what else
    comes with the batch."""
    setup, state = workload.setup, shards.state
    gradients = state.gradient_bytes
    uncleared = stable_embedding_bytes(workload.model, setup)
    scaler = scaler_holds(setup)
    base: dict[Category, Polynomial] = {
        "parameters": constant(state.parameter_bytes),
        "quantization_state": constant(state.quantization_bytes),
        "adapters": state.adapter_bytes * (1 + copies_adapters(setup)),
        "buffers": constant(
            buffer_bytes(family, workload) * (1 + has_reference(setup))
            + code_book_bytes(setup)
            + scaler.lasting
        )
        + checkpoint_buffer_bytes(forward, workload),
        "gradients": (gradients if shards.gradients_stay else ZERO) + uncleared,
        "optimizer_states": total_state_bytes(shards.stepped.trainable, setup) + shards.masters,
        "inputs": ZERO,
    }
    left = forward.scale_bytes + long_frequency_bytes(family, workload)
    if left != ZERO:
        base["activations"] = left
    base = with_communication(base, shards.always)
    held = held_outputs(forward, setup)
    setup_moment = candidate(merged(base, held))
    base["inputs"] = input_bytes(setup) + completion_bytes(setup)
    accumulated = gradients if setup.accumulation > 1 or shards.gradients_stay else ZERO
    summed = constant(SCALAR if setup.accumulation > 1 else 0)  # losses of micro-batches
    output = _logits_held(forward, setup) + summed
    if setup.hold_outputs and setup.accumulation > 1 and not setup.label_smoothing_factor:
        output = output + SCALAR  # the loss before it is divided
    of_pass: dict[Category, Polynomial] = {
        "inputs": constant(pass_scalar_bytes(setup)) + _boundary_bytes(setup) + parted_bytes(setup)
    }
    in_pass = merged(base | {"gradients": accumulated + uncleared}, of_pass)
    beside_batch = _put_together_bytes(setup)
    begun = merged(in_pass | {"logits_and_loss": summed}, {"inputs": beside_batch})
    ahead = merged(begun, held)
    running = merged(in_pass, {"logits_and_loss": output + scaler.backward})
    if pass_columns(setup):  # trained embeddings keep the ids that were put together for the pass
        running = merged(running, {"inputs": kept.ids})

    # the loss lets reentrant checkpoints' arguments go no sooner than itself
    in_graph = kept.held - moved_leaf_bytes(forward, workload) if setup.is_reentrant else ZERO
    returned = begun if kernel_set(setup.kernels).keeps_logits else None
    in_loss = loss_candidates(forward, kept, shards, ahead, running, setup, returned)
    given = gradients if shards.stepped_gradients is None else shards.stepped_gradients
    if setup.optimizer_in_bwd:
        given = ZERO
    step = [
        candidate(
            base | {"gradients": constant(uncleared)},
            gradients=given,
            activations=_leaf_bytes(forward, setup) + in_graph,
            logits_and_loss=output + SCALAR + scaler.step,
            temporaries=t,
        )
        for t in step_temporary_candidates(shards.at_once or shards.stepped, setup)
    ]
    return {
        "setup": (setup_moment,),
        "end_of_forward": in_loss[0],
        "loss_backward": in_loss[1],
        "optimizer_step": tuple(step),
        **inside_layers(forward, kept, shards, ahead, running, workload),
    }


def checkpoint_buffer_bytes(forward: ForwardPass, workload: Workload) -> Polynomial:
    """Two buffers, to which layers' inputs come back from the host; each as long as one of them,
    those of GRPO's scoring pass over a whole step too, and made when the first is moved."""
    if not is_offloaded(workload):
        return ZERO
    size, setup = forward.layers[0].run.input.bytes * 2, workload.setup
    return size.of_batches(setup.accumulation) if setup.scores_at_once else size


def held_outputs(forward: ForwardPass, setup: TrainSetup) -> dict[Category, Polynomial]:
    """What a loop that holds the output of the last forward pass still has of it, until the next
    one has returned. No dropped loss lets its leaf go."""
    if not setup.hold_outputs:
        return {}
    loss = 0 if setup.label_smoothing_factor else SCALAR  # which is not the model's then
    return {
        "activations": _leaf_bytes(forward, setup) + _kept_inputs(forward, setup),
        "logits_and_loss": _logits_held(forward, setup) + loss,
    }


def _kept_inputs(forward: ForwardPass, setup: TrainSetup) -> Polynomial:
    """Of packed products whose nodes keep their inputs past backward, and live as long as the
    logits that come of them."""
    base = base_of(setup)
    if base is None or not base.keeps_past_backward:
        return ZERO
    size = forward.layers[0].run.output.bytes  # the head's
    for layer in forward.layers:
        kept = {t for node in layer.run.nodes if node.op == "packed" for t in node.saved}
        size = size + total(storage.bytes for storage in kept) * len(layer.indices)
    return size


def _logits_held(forward: ForwardPass, setup: TrainSetup) -> Polynomial:
    """Bytes of the logits in the output that the loop holds; in chunks there are never all of
    them."""
    if not setup.hold_outputs:
        return ZERO
    loss = loss_of(forward, setup)
    return ZERO if isinstance(loss, ChunkedHead) else loss.output


def _leaf_bytes(forward: ForwardPass, setup: TrainSetup) -> Polynomial:
    """The gradient of a leaf that is no parameter stays, and with it the leaf, until the loss is
    dropped."""
    if forward.leaf is None or not kernel_set(setup.kernels).makes_leaf:
        return ZERO
    return forward.leaf.bytes * 2


def input_bytes(setup: TrainSetup) -> Polynomial:
    """Token ids; of padded sequences labels and attention mask too, of packed rows labels and
    position ids; and what else the trainer's loop keeps; of rows that Unsloth lays end to end the
    length of each."""
    columns = batch_columns(setup) * setup.context_parallel_size
    size = TOKENS * (8 * columns) + loop_scalar_bytes(setup)
    loop = loop_facts(setup.loop_state)
    size = size + B * (loop.row_bytes * setup.accumulation)
    if not setup.is_padding_free or loop.generates:
        return size
    return size + B * (_LENGTH_BYTES * len(lengths(setup)) * setup.accumulation)


def completion_bytes(setup: TrainSetup) -> Polynomial:
    """What GRPO has of a step's completions beside ids and masks: an advantage each, how many
    tokens count, log-probabilities of the reference, and with vLLM its own; those of the policy and
    a ratio each where these correct the loss, which Unsloth switches off (TRL 1.16
    `grpo_trainer.py`, _generate_and_score_completions; Unsloth 2026.10.9 `models/rl.py`)."""
    loop = loop_facts(setup.loop_state)
    if not loop.generates:
        return ZERO
    corrects = setup.use_vllm and loop.corrects_generated
    figure_bytes = _FLOAT32 * ((setup.beta > 0) + setup.use_vllm + corrects)
    each = _scored(setup) * figure_bytes + _FLOAT32 * (1 + corrects)
    return B * each * setup.accumulation + _COUNT


def _scored(setup: TrainSetup) -> Polynomial:
    """Tokens of a row that are a completion's."""
    completion = setup.max_completion_length
    return S if completion is None else constant(completion)


def _put_together_bytes(setup: TrainSetup) -> Polynomial:
    """What a loop makes of a micro-batch for its pass, and lets go with it: columns of all tokens,
    and what else it has."""
    own = of_loop(setup.loop_state, "put_together_bytes")
    size = TOKENS * (8 * pass_columns(setup))
    return size + own(setup) if own else size


def _boundary_bytes(setup: TrainSetup) -> Polynomial:
    """Where sequences begin, as attention is told: made in the first layer of a pass (Unsloth
    2026.10.9, `utils/packing.py`, get_packed_info_from_kwargs)."""
    if not setup.is_padding_free:
        return ZERO
    return B * (_LENGTH_BYTES * len(lengths(setup))) + _LENGTH_BYTES


def batch_kept_bytes(setup: TrainSetup) -> Polynomial:
    """Of a step's batch, between steps: a trainer's loop gives it up when the next one is there."""
    if setup.loop_state == "none":
        return ZERO
    columns = batch_columns(setup) * setup.context_parallel_size
    return TOKENS * (8 * columns) + completion_bytes(setup)


def persistent_only(
    shards: ShardState, workload: Workload, adapters: tuple[Adapter, ...]
) -> Moments:
    """The moments that need no activations: what is known of a family, or of adapters, without a
    ledger."""
    state = shards.state
    base: dict[Category, Polynomial] = {
        "parameters": constant(state.parameter_bytes),
        "quantization_state": constant(state.quantization_bytes),
        "adapters": state.adapter_bytes,
        "gradients": ZERO,
        "optimizer_states": total_state_bytes(shards.stepped.trainable, workload.setup)
        + shards.masters,
    }
    frozen = adapter_buffer_bytes(adapters, workload.setup)
    if frozen != ZERO:
        base["buffers"] = frozen
    base = with_communication(base, shards.always)
    given = shards.stepped_gradients or state.gradient_bytes
    step = base | {"gradients": given, "inputs": input_bytes(workload.setup)}
    temporaries = step_temporary_candidates(shards.at_once or shards.stepped, workload.setup)
    return {
        "setup": (candidate(base),),
        "optimizer_step": tuple(candidate(step, temporaries=t) for t in temporaries),
    }


def buffer_bytes(family: Family, workload: Workload) -> int:
    """Two float32 vectors of half the rotary width per rotary set, and what else the family
    registers; or what other kernels have of both. accelerate has FSDP1 hold all in bfloat16
    (`utils/dataclasses.py`, set_mixed_precision)."""
    setup = workload.setup
    widths = sum(size for _, size in family.rotary_sets(workload.model.config))
    own = part("kernels", setup.kernels, "law", "buffer_bytes")
    if own and widths:
        return own(workload, widths)  # type: ignore[no-any-return]
    size = 2 if setup.has_flat_units and setup.precision == "amp" else 4
    return size * widths + family.buffer_bytes(setup.dtype)


def long_frequency_bytes(family: Family, workload: Workload) -> int:
    """Frequencies for long sequences, a float32 vector of half the rotary width, that LongRoPE
    works out in each forward pass and keeps until the next: transformers `modeling_rope_utils.py`,
    longrope_frequency_update."""
    config = workload.model.config
    if (config.get("rope_parameters") or {}).get("rope_type") != "longrope":
        return 0
    return sum(2 * size for _, size in family.rotary_sets(config))
