"""The instants on which a peak can fall: live bytes of each, by category, as polynomials in batch,
sequence and rank.

Exact by construction: setup, end_of_forward, loss_backward, optimizer_step. What happens inside the
last and the first layers is worked out by `liveness.py`, and an estimate.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

from lora_profiler.algebra.front import undominated
from lora_profiler.algebra.polynomial import TOKENS, ZERO, B, Polynomial, S, constant, total
from lora_profiler.analytic.families import Family
from lora_profiler.analytic.loss_paths import LossPath, Smoothing, smoothing
from lora_profiler.analytic.losses import SCALAR, ChunkedHead
from lora_profiler.analytic.optimizers import step_temporary_candidates, total_state_bytes
from lora_profiler.analytic.sharding import ShardState
from lora_profiler.analytic.structure import ForwardPass, LayerRun
from lora_profiler.analytic.tensors import ITEMSIZE
from lora_profiler.prediction import Category, MomentName
from lora_profiler.support.library_memory import code_book_bytes
from lora_profiler.workload import TrainSetup, Workload

Breakdown = Mapping[Category, Polynomial]
RNG_STATE_BYTES = 5056
"""torch's CPU generator state, which checkpointing keeps per layer; host memory when the model is
on a GPU."""


class Candidate(NamedTuple):
    """One possible maximum of a moment: its live bytes by category, and their sum."""

    bytes: Breakdown
    total: Polynomial


Moments = Mapping[MomentName, tuple[Candidate, ...]]


def merged(base: Breakdown, more: Breakdown) -> dict[Category, Polynomial]:
    """The sum of both, category by category."""
    return {**base, **{category: base.get(category, ZERO) + more[category] for category in more}}


def candidate(base: Breakdown, **more: Polynomial) -> Candidate:
    sizes = merged(base, more)  # type: ignore[arg-type]  # keyword names are categories
    return Candidate(bytes=sizes, total=total(sizes.values()))


def beside(base: dict[Category, Polynomial], size: Polynomial) -> dict[Category, Polynomial]:
    """`base` with what is there for other ranks' sake, if anything is."""
    return base if size == ZERO else base | {"communication": size}


class Activations(NamedTuple):
    """What autograd keeps at the end of forward, by part. `labels` are counted in `loss`; `capped`
    is what softcapping keeps of the logits, counted in `head`; `held` and `scalars` live on without
    being saved, `masks` and autocast's `cached` weights only until the forward pass is over.

    `layers` holds (bytes, count) per distinct layer: the layer's own saved set, or its input under
    checkpointing.
    """

    embed: Polynomial
    shared: Polynomial
    layers: tuple[tuple[LayerRun, Polynomial], ...]
    head: Polynomial
    capped: Polynomial
    loss: Polynomial
    labels: Polynomial
    ids: Polynomial
    held: Polynomial
    scalars: Polynomial
    masks: Polynomial
    cached: Polynomial

    @property
    def saved(self) -> Polynomial:
        """As `saved_tensors_hooks` would sum it: `held` is left out, the ids that the embedding
        keeps are in."""
        return self.embed + self.shared + self.stack + self.head + self.loss

    @property
    def stack(self) -> Polynomial:
        return total(size * len(layer.indices) for layer, size in self.layers)


def has_one_row(setup: TrainSetup) -> bool:
    """Whether a micro-batch is one row, whose labels are shifted without a copy."""
    return setup.batch_size == 1 or setup.is_flattened


def activations(
    forward: ForwardPass, family: Family, workload: Workload, kernel: str
) -> Activations:
    setup, config = workload.setup, workload.model.config
    vocab, chunks = forward.logits.elements, forward.chunks
    labels = TOKENS * 8 + 8 if has_one_row(setup) else TOKENS * 8
    shared, held = forward.shared(), ZERO
    used = {family.window(config, i) for i in range(forward.num_layers)}
    mask = partial(mask_bytes, setup=setup, dtype=forward.embed.output.dtype, kernel=kernel)
    if setup.checkpointing:
        positions = S * 8
        if setup.is_packed:
            positions = ZERO  # they came with the batch
        elif family.positions_per_sample:
            positions = TOKENS * 8
        elif any(storage.bytes == positions for storage in forward.embed.saved):
            positions = ZERO  # a trained position embedding keeps them already
        held = table_bytes(forward, family, workload) + positions
        shared = {}
        if family.mask_is_positional:
            shared["attention_mask"] = mask(used)
        else:
            held = held + mask(used)
        if forward.leaf is not None and forward.leaf.storage is not forward.embed.output.storage:
            held = held + forward.leaf.bytes
    layers = tuple(
        (layer, layer.run.input.bytes if setup.checkpointing else layer.run.saved_bytes)
        for layer in forward.layers
    )
    return Activations(
        embed=forward.embed.saved_bytes,
        shared=total(shared.values()),
        layers=layers,
        head=forward.head.saved_bytes,
        capped=_kept_by_softcapping(forward, workload),
        loss=(
            _smoothing(forward, setup).kept
            if setup.label_smoothing_factor
            else vocab * 4 + labels + 4
            if chunks is None
            else chunks.kept
            if isinstance(chunks, LossPath)
            else chunks.made + chunks.trained
            if chunks.fused
            else labels + SCALAR
        ),
        labels=labels,
        ids=total(s.bytes for s in forward.embed.saved if s.role == "input"),
        held=held,
        scalars=_host_scalars(forward, setup),
        masks=mask(used | set(family.masks(config))),
        cached=_cached(forward, setup.checkpointing),
    )


def table_bytes(forward: ForwardPass, family: Family, workload: Workload) -> Polynomial:
    """cos and sin of each rotary set."""
    dtype = family.rotary_dtype or forward.embed.output.dtype
    positions = TOKENS if workload.setup.is_packed else S
    return total(
        positions * (2 * size * ITEMSIZE[dtype])
        for _, size in family.rotary_sets(workload.model.config)
    )


def moments(
    forward: ForwardPass, kept: Activations, shards: ShardState, family: Family, workload: Workload
) -> Moments:
    """Steady-state live bytes at every moment; `inputs` are the token ids, which live through the
    step; of packed rows and padded sequences what else
    comes with the batch."""
    setup, state = workload.setup, shards.state
    gradients = state.gradient_bytes
    base: dict[Category, Polynomial] = {
        "parameters": constant(state.parameter_bytes),
        "quantization_state": constant(state.quantization_bytes),
        "adapters": state.adapter_bytes,
        "buffers": constant(buffer_bytes(family, workload) + code_book_bytes(setup)),
        "gradients": ZERO,
        "optimizer_states": total_state_bytes(shards.stepped.trainable, setup),
        "inputs": ZERO,
    }
    if left := long_frequency_bytes(family, workload):
        base["activations"] = constant(left)
    base = beside(base, shards.always)
    held = held_outputs(forward, setup)
    setup_moment = candidate(merged(base, held))
    base["inputs"] = input_bytes(setup)
    accumulated = gradients if setup.accumulation > 1 else ZERO
    summed = constant(SCALAR if setup.accumulation > 1 else 0)  # losses of micro-batches
    output = _logits_held(forward, setup) + summed
    if setup.hold_outputs and setup.accumulation > 1 and not setup.label_smoothing_factor:
        output = output + SCALAR  # the loss before it is divided
    ahead = merged(base | {"gradients": accumulated, "logits_and_loss": summed}, held)
    running = merged(base | {"gradients": accumulated}, {"logits_and_loss": output})

    logits = forward.logits
    stored = kept.saved - kept.ids - kept.capped - kept.loss + kept.held + kept.scalars
    kept_of_logits = kept.loss + kept.capped
    copy = logits.elements * 4 if ITEMSIZE[logits.dtype] != 4 else ZERO
    hidden_is_saved = forward.hidden.storage in forward.head.saved
    last_hidden = ZERO if hidden_is_saved else forward.hidden.bytes
    padded = ZERO if has_one_row(setup) else B * (S + 1) * 8
    end_of_forward = candidate(
        beside(ahead, shards.in_loss),
        activations=stored + last_hidden + kept.cached,
        logits_and_loss=kept_of_logits + logits.bytes + copy + padded + 4,
    )
    loss_backward = candidate(
        beside(running, shards.before_layers),
        activations=stored,
        logits_and_loss=kept_of_logits - kept.labels + logits.elements * 8 + 4,
    )
    in_loss: tuple[tuple[Candidate, ...], tuple[Candidate, ...]] = (
        (end_of_forward,),
        (loss_backward,),
    )
    if setup.label_smoothing_factor:
        smoothed = _smoothing(forward, setup)
        made = candidate(
            beside(ahead, shards.in_loss),
            activations=stored + last_hidden + kept.cached,
            logits_and_loss=kept.capped + logits.bytes,
        )
        in_loss = (
            _undominated(
                [made, *_each(beside(ahead, shards.in_loss), stored, kept.capped, smoothed.ahead)]
            ),
            _undominated(
                [*_each(beside(running, shards.before_layers), stored, kept.capped, smoothed.back)]
            ),
        )
    elif isinstance(forward.chunks, LossPath):
        in_loss = _in_path(forward, stored, kept, ahead, running)
    elif forward.chunks is not None:
        in_loss = _in_chunks(forward, stored, kept, ahead, running, setup.accumulation > 1)

    step = [
        candidate(
            base,
            gradients=gradients,
            activations=_leaf_bytes(forward),
            logits_and_loss=output + SCALAR,
            temporaries=t,
        )
        for t in step_temporary_candidates(shards.stepped, setup)
    ]
    return {
        "setup": (setup_moment,),
        "end_of_forward": in_loss[0],
        "loss_backward": in_loss[1],
        "optimizer_step": tuple(step),
        **_inside_layers(forward, kept, shards, ahead, running, workload),
    }


def held_outputs(forward: ForwardPass, setup: TrainSetup) -> dict[Category, Polynomial]:
    """What a loop that holds the output of the last forward pass still has of it, until the next
    one has returned. No dropped loss lets its leaf go."""
    if not setup.hold_outputs:
        return {}
    loss = 0 if setup.label_smoothing_factor else SCALAR  # which is not the model's then
    return {
        "activations": _leaf_bytes(forward),
        "logits_and_loss": _logits_held(forward, setup) + loss,
    }


def _logits_held(forward: ForwardPass, setup: TrainSetup) -> Polynomial:
    """Bytes of the logits in the output that the loop holds; in chunks there are never all of
    them."""
    if not setup.hold_outputs or forward.chunks is not None:
        return ZERO
    return (
        _smoothing(forward, setup).output if setup.label_smoothing_factor else forward.logits.bytes
    )


def _leaf_bytes(forward: ForwardPass) -> Polynomial:
    """The gradient of a leaf that is no parameter stays, and with it the leaf, until the loss is
    dropped."""
    return forward.leaf.bytes * 2 if forward.leaf is not None else ZERO


def input_bytes(setup: TrainSetup) -> Polynomial:
    """Token ids; of padded sequences labels and attention mask too, of packed rows labels and
    position ids."""
    return TOKENS * (24 if setup.is_packed or setup.is_padded else 8)


def _smoothing(forward: ForwardPass, setup: TrainSetup) -> Smoothing:
    return smoothing(
        forward.logits,
        is_converted=setup.precision == "amp",
        one_row=has_one_row(setup),
        on_cpu=setup.device == "cpu",
    )


def _each(
    base: Breakdown, activations: Polynomial, rest: Polynomial, stages: Iterable[Polynomial]
) -> list[Candidate]:
    """The stages of a loss, with `rest` of it besides."""
    return [
        candidate(base, activations=activations, logits_and_loss=rest + stage) for stage in stages
    ]


def _in_path(
    forward: ForwardPass,
    stored: Polynomial,
    kept: Activations,
    before: Breakdown,
    running: Breakdown,
) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...]]:
    """(end of forward, loss's backward) of a trainer's own loss."""
    path = forward.chunks
    assert isinstance(path, LossPath)
    ahead = stored + kept.cached
    if path.hidden.storage not in forward.head.saved:
        ahead = ahead + path.hidden.bytes
    end = _each(before, ahead, ZERO, path.ahead)
    back = _each(running, stored, ZERO, path.back)
    return _undominated(end), _undominated(back)


def _in_chunks(
    forward: ForwardPass,
    stored: Polynomial,
    kept: Activations,
    before: Breakdown,
    running: Breakdown,
    accumulates: bool,
) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...]]:
    """(end of forward, loss's backward) where the head runs in chunks.

    The gradients of the head's own weights become those of the parameters, unless there are some
    already or autocast lowered the weights: then they are converted at the end of the loss's
    backward, while the lowered ones still exist.
    """
    chunks = forward.chunks
    assert isinstance(chunks, ChunkedHead)
    owned: Category = "logits_and_loss" if accumulates or chunks.lowered else "gradients"
    hidden = chunks.hidden.bytes
    if not chunks.fused:
        stored = stored - chunks.copied  # saved, but the loss's own
    ahead = stored + kept.cached
    if chunks.hidden.storage not in forward.head.saved:
        ahead = ahead + hidden

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
    if chunks.fused:
        end = found(before, ahead, labels, chunks.gradients(), True)
        back = found(running, stored, constant(2 * SCALAR), [ZERO], True)
    else:
        end = found(before, ahead, labels, [chunks.losses()], False)
        back = found(running, stored, labels + 2 * SCALAR, chunks.gradients(), True)
    if chunks.lowered:
        left = stored if chunks.fused else stored - hidden
        own: dict[Category, Polynomial] = {
            "logits_and_loss" if accumulates else "gradients": chunks.parameter_gradients
        }
        wide = forward.hidden.bytes if chunks.hidden is not forward.hidden else ZERO
        for more in (chunks.trained, wide):
            held = candidate(running, activations=left, **own).bytes
            back.append(candidate(held, logits_and_loss=chunks.made + more + 2 * SCALAR))
    return _undominated(end), _undominated(back)


def _kept_by_softcapping(forward: ForwardPass, workload: Workload) -> Polynomial:
    """The capped logits that tanh keeps for its gradient, where the family caps them."""
    if workload.model.config.get("final_logit_softcapping") is None:
        return ZERO
    return total(
        storage.bytes for storage in forward.head.saved if storage.bytes == forward.logits.bytes
    )


def _host_scalars(forward: ForwardPass, setup: TrainSetup) -> Polynomial:
    """What only counts where host memory is counted: Python factors that autograd keeps,
    checkpointing's generator states."""
    if setup.device != "cpu":
        return ZERO
    factors = (
        forward.embed.scalars
        + forward.head.scalars
        + sum(x.run.scalars * len(x.indices) for x in forward.layers)
    )
    return constant(
        8 * factors + (RNG_STATE_BYTES * forward.num_layers if setup.checkpointing else 0)
    )


def persistent_only(shards: ShardState, workload: Workload) -> Moments:
    """The moments that need no activations: what is known of a family without a ledger."""
    state = shards.state
    base: dict[Category, Polynomial] = {
        "parameters": constant(state.parameter_bytes),
        "quantization_state": constant(state.quantization_bytes),
        "adapters": state.adapter_bytes,
        "gradients": ZERO,
        "optimizer_states": total_state_bytes(shards.stepped.trainable, workload.setup),
    }
    base = beside(base, shards.always)
    step = base | {"gradients": state.gradient_bytes, "inputs": input_bytes(workload.setup)}
    temporaries = step_temporary_candidates(shards.stepped, workload.setup)
    return {
        "setup": (candidate(base),),
        "optimizer_step": tuple(candidate(step, temporaries=t) for t in temporaries),
    }


def _cached(forward: ForwardPass, checkpointing: bool) -> Polynomial:
    """Autocast's copies of trained weights that nothing saves, or that checkpointing dropped from
    what is saved."""
    runs = [(forward.embed, 1, False), (forward.head, 1, False)]
    runs += [(layer.run, len(layer.indices), checkpointing) for layer in forward.layers]
    return total(
        s.bytes * n for run, n, dropped in runs for s in run.cached if dropped or s not in run.saved
    )


def mask_bytes(
    windows: set[int | None], *, setup: TrainSetup, dtype: str, kernel: str
) -> Polynomial:
    """Attention masks of the given kinds of attention: additive ones for eager, one a sample; for
    SDPA a boolean one each packed row or padded sequence, or for all samples where a sliding window
    is filled, none where the causal flag suffices.
    """
    if setup.is_flattened:
        return ZERO
    if (setup.is_packed or setup.is_padded) and kernel != "eager":
        return B * S * S * len(windows)
    if kernel == "eager":
        return B * S * S * (ITEMSIZE[dtype] * len(windows))
    return S * S * sum(w is not None and setup.seq_len >= w for w in windows)


def buffer_bytes(family: Family, workload: Workload) -> int:
    """Two float32 vectors of half the rotary width per rotary set, and what else the family
    registers."""
    return sum(
        4 * size for _, size in family.rotary_sets(workload.model.config)
    ) + family.buffer_bytes(workload.setup.dtype)


def long_frequency_bytes(family: Family, workload: Workload) -> int:
    """Frequencies for long sequences, a float32 vector of half the rotary width, that LongRoPE
    works out in each forward pass and keeps until the next: transformers `modeling_rope_utils.py`,
    longrope_frequency_update."""
    config = workload.model.config
    if (config.get("rope_parameters") or {}).get("rope_type") != "longrope":
        return 0
    return sum(2 * size for _, size in family.rotary_sets(config))


def _inside_layers(
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
    state = constant(
        RNG_STATE_BYTES if workload.setup.device == "cpu" else 0
    )  # that of before, while a layer runs again
    per_layer = {id(layer): size for layer, size in kept.layers}
    ends = kept.embed - kept.ids + kept.shared + kept.held + kept.scalars

    def made(*, above: int) -> Polynomial:
        """Gradients of the head and of all layers with an index over `above`; with accumulation
        they exist already."""
        if shards.is_sharded:
            return ZERO if workload.setup.accumulation > 1 else shards.reduced_above(above)
        if shards.dealt > 1:
            rank = workload.setup.lora.r if workload.setup.lora else 1
            whole = total(
                x.run.gradient_bytes * sum(i > above for i in x.indices) for x in forward.layers
            )
            return constant(
                -(-(whole + forward.head_gradient_bytes).evaluate(1, 1, rank) // shards.dealt)
            )
        if workload.setup.accumulation > 1:
            return ZERO
        layers = total(
            x.run.gradient_bytes * sum(i > above for i in x.indices) for x in forward.layers
        )
        return forward.head_gradient_bytes + layers

    def stored(*, below: int) -> Polynomial:
        return total(per_layer[id(x)] * sum(i < below for i in x.indices) for x in forward.layers)

    def found(
        base: dict[Category, Polynomial],
        index: int,
        inside: Iterable[Polynomial],
        own: Polynomial,
        sent: Polynomial,
        **more: Polynomial,
    ) -> list[Candidate]:
        below = ends + stored(below=index) + own
        alive = beside(base, sent)
        return [candidate(alive, activations=below, temporaries=size, **more) for size in inside]

    of_loss = constant(2 * SCALAR)  # the loss, and the gradient of 1 that autograd begins with
    unreduced = forward.head.gradient_bytes if shards.is_sharded else ZERO
    from_chunks = (
        forward.chunks.parameter_gradients
        if forward.chunks and workload.setup.accumulation == 1
        else ZERO
    )
    ahead: list[Candidate] = []
    last = [
        candidate(
            beside(running, shards.before_layers),
            activations=ends + stored(below=forward.num_layers),
            temporaries=inside,
            gradients=from_chunks,
            logits_and_loss=of_loss,
        )
        for inside in forward.head.backward_candidates
    ]
    first: list[Candidate] = []
    for layer in forward.layers:
        run, newest, oldest = layer.run, layer.indices[-1], layer.indices[0]
        running_forward = run.checkpointed_candidates if checkpointing else run.forward_candidates
        ahead += found(
            before,
            newest,
            running_forward,
            run.input.bytes + kept.masks + kept.cached,
            shards.in_forward(newest),
        )
        checkpoint = (
            run.input.bytes if checkpointing and run.input.storage not in run.saved else ZERO
        )
        places = [(newest, last), (oldest, first)]
        if shards.is_sharded:  # neither the last nor the first layer has both neighbours' buffers
            places += [(index, last) for index in layer.indices[-2:-1]] + [
                (index, first) for index in layer.indices[1:2]
            ]
        for index, where in places:
            sent, extra = (
                shards.in_backward(index),
                {"gradients": made(above=index), "logits_and_loss": of_loss},
            )
            within = [size + unreduced for size in run.backward_candidates]
            where += found(running, index, within, checkpoint, sent, **extra)
            if checkpointing:
                again = [size + unreduced for size in run.recompute_candidates]
                rerun = run.input.bytes + run.waiting_gradients + state
                where += found(running, index, again, rerun, sent, **extra)
    if forward.embed.gradient_bytes != ZERO:
        first += _embedding_backward(forward, shards, running, workload)
    inside = {
        "last_layer_forward": ahead,
        "last_layer_backward": last,
        "first_layer_backward": first,
    }
    return {name: _undominated(found_) for name, found_ in inside.items() if found_}  # type: ignore[misc]


def _embedding_backward(
    forward: ForwardPass,
    shards: ShardState,
    running: dict[Category, Polynomial],
    workload: Workload,
) -> list[Candidate]:
    """All gradients, with the one of the embedding's output while the embedding's own is made.

    A tied head's gradient, the embedding's and their sum coexist afterwards; where autocast
    converted the head's gradient or chunks made it, it belongs to nobody else and takes the
    embedding's in.
    """
    head = next(
        (
            module
            for name, module in workload.model.modules()
            if name == workload.model.output_embedding
        ),
        None,
    )
    tied = head is not None and head.weights[0].tied_to is not None
    owned = bool(forward.head.cached) or forward.chunks is not None
    size = head.weights[0].numel * ITEMSIZE[forward.embed.output.dtype] if head and tied else 0
    gradients, unreduced = shards.state.gradient_bytes, ZERO
    if shards.is_sharded:
        gradients = shards.reduced_above(-1)
        unreduced = forward.embed.gradient_bytes + forward.head.gradient_bytes - size
    hidden, tied_sum = forward.embed.output.bytes + size, constant(0 if owned else 2 * size)
    return [
        candidate(
            beside(running, shards.in_embedding),
            gradients=ZERO if workload.setup.accumulation > 1 else gradients,
            logits_and_loss=constant(2 * SCALAR),
            temporaries=unreduced + temporary,
        )
        for temporary in (hidden, tied_sum)
    ]


def _undominated(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    kept = undominated(c.total for c in candidates)
    return tuple(next(c for c in candidates if c.total is size) for size in kept)
