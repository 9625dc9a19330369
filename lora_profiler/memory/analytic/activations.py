"""What autograd keeps at the end of the forward pass, by part, what else lives on, and which of it
waits on the host."""

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from lora_profiler._common.polynomial import TOKENS, ZERO, B, Polynomial, S, constant, total
from lora_profiler.memory.analytic.families import Family
from lora_profiler.memory.analytic.ledger import ITEMSIZE, Node, Storage
from lora_profiler.memory.analytic.liveness import STASH, is_moved, on_host
from lora_profiler.memory.analytic.losses import (
    SCALAR,
    ChunkedHead,
    LossOfLogits,
    LossPath,
    cross_entropy,
    shifted_logits,
    smoothing,
)
from lora_profiler.memory.analytic.structure import ForwardPass, LayerRun
from lora_profiler.question.kernel_set import kernel_set
from lora_profiler.question.loop import loop_facts
from lora_profiler.question.support.generations import rotary_tables, shifts_logits
from lora_profiler.question.support.offloading import is_offloaded
from lora_profiler.question.workload import TrainSetup, Workload


class Moved(NamedTuple):
    """Bytes. `layers` are what stays of each distinct layer until its backward. `at_end`: what else
    of the layers is there when the forward pass ends; `freed` of it and of the last norm's goes as
    the loss's backward begins. `behind`: of earlier layers, while one runs forward. `hosted`: all
    that the host has. `buffered`: what comes back from it lies in buffers."""

    layers: tuple[tuple[LayerRun, Polynomial], ...]
    at_end: Polynomial = ZERO
    freed: Polynomial = ZERO
    behind: Polynomial = ZERO
    hosted: Polynomial = ZERO
    buffered: bool = False


def moved(forward: ForwardPass, workload: Workload) -> Moved:
    setup = workload.setup
    kept = tuple(
        (layer, layer.run.input.bytes if setup.checkpointing else layer.run.saved_bytes)
        for layer in forward.layers
    )
    entry = forward.layers[0].run.input.bytes
    if is_offloaded(workload):
        others = entry * (forward.num_layers - 1)
        nothing = tuple((layer, ZERO) for layer, _ in kept)
        outputs = entry * (forward.num_layers - 2) if setup.returns_all_hidden_states else ZERO
        return Moved(nothing, at_end=entry, behind=outputs, hosted=others, buffered=True)
    if not setup.offload_activations:
        return Moved(kept)
    norm = list(takewhile(lambda node: forward.hidden not in node.inputs, forward.head.nodes))
    by_torchtune = kernel_set(setup.kernels).own_offloading
    after, moved_norm = _saved_after(norm, again=by_torchtune)
    if setup.checkpointing:
        # the loss saves one tensor more, where it is inside
        waiting = entry * max(STASH - after - (not by_torchtune), 0)
        return Moved(
            tuple((layer, ZERO) for layer, _ in kept),
            at_end=waiting,
            freed=ZERO if by_torchtune else waiting + _once(norm),
            behind=entry * (STASH - 1),
            hosted=entry * forward.num_layers + moved_norm + total(forward.layers[-1].run.returned),
        )
    hosted = total(
        storage.bytes * len(layer.indices)
        for layer, _ in kept
        for storage in layer.run.saved
        if is_moved(storage)
    )
    stays = tuple((layer, size - _once(layer.run.nodes)) for layer, size in kept)
    return Moved(stays, freed=_once(norm), hosted=moved_norm + hosted)


def _once(nodes: Sequence[Node]) -> Polynomial:
    return total(storage.bytes for storage in on_host(nodes))


def _saved_after(norm: list[Node], *, again: bool) -> tuple[int, Polynomial]:
    """Of the last norm: how many tensors are saved until the last that is moved, its weight among
    them; and the bytes that are moved. `again`: what is saved twice is moved twice."""
    number = last = 0
    seen: set[Storage] = set()
    size = ZERO
    for node in norm:
        weights = sum(t.storage.role == "parameter" for t in node.inputs)
        number += weights if node.packs else 0
        for storage in node.saved:
            number += 1
            if (again or storage not in seen) and is_moved(storage):
                seen.add(storage)
                last, size = number, size + storage.bytes
    return last, size


RNG_STATE_BYTES = 5056
"""torch's CPU generator state, which checkpointing keeps per layer; host memory when the model is
on a GPU."""


class Activations(NamedTuple):
    """What autograd keeps at the end of forward, by part. `labels` are counted in `loss`; `capped`
    is what softcapping keeps of the logits, counted in `head`; `held` and `scalars` live on without
    being saved, `masks` and autocast's `cached` weights only until the forward pass is over.

    `moved` has what is kept of each distinct layer, its own saved set or its input under
    checkpointing, as far as it does not wait on the host.
    """

    embed: Polynomial
    shared: Polynomial
    head: Polynomial
    capped: Polynomial
    loss: Polynomial
    labels: Polynomial
    ids: Polynomial
    held: Polynomial
    scalars: Polynomial
    masks: Polynomial
    cached: Polynomial
    moved: Moved

    @property
    def saved(self) -> Polynomial:
        """As `saved_tensors_hooks` would sum it: `held` is left out, the ids that the embedding
        keeps are in."""
        return self.embed + self.shared + self.stack + self.head + self.loss

    @property
    def stack(self) -> Polynomial:
        layers = total(size * len(layer.indices) for layer, size in self.moved.layers)
        return layers + self.moved.at_end


def has_one_row(setup: TrainSetup) -> bool:
    """Whether a micro-batch is one row, whose labels are shifted without a copy."""
    return setup.batch_size == 1 or setup.is_flattened


def loss_of(forward: ForwardPass, setup: TrainSetup) -> LossOfLogits | LossPath | ChunkedHead:
    """The loss of a training step."""
    if not setup.label_smoothing_factor:
        return forward.chunks or unsmoothed(forward, setup)
    return smoothing(
        forward.logits,
        is_converted=setup.autocast_dtype is not None,
        one_row=has_one_row(setup),
        on_cpu=setup.device == "cpu",
    )


def unsmoothed(forward: ForwardPass, setup: TrainSetup) -> LossOfLogits:
    """Cross-entropy of all logits, by the version of transformers."""
    if shifts_logits(setup.transformers):
        return shifted_logits(forward.logits, setup.transformers, one_row=has_one_row(setup))
    is_shifted = setup.context_parallel_size > 1  # as each rank has a part of the labels
    return cross_entropy(forward.logits, one_row=has_one_row(setup), is_shifted=is_shifted)


def activations(
    forward: ForwardPass, family: Family, workload: Workload, kernel: str
) -> Activations:
    setup, config = workload.setup, workload.model.config
    chunks, loss = forward.chunks, loss_of(forward, setup)
    labels = TOKENS * 8 + 8 if has_one_row(setup) else TOKENS * 8
    if isinstance(chunks, ChunkedHead) and chunks.tokens != TOKENS:
        labels = chunks.tokens * 8 if chunks.is_copied else ZERO
    shared, held = forward.shared(), ZERO
    used = {family.window(config, i) for i in range(forward.num_layers)}

    def mask(windows: set[int | None]) -> Polynomial:
        if has_block_masks(setup, family):
            return ZERO
        return mask_bytes(windows, setup=setup, dtype=forward.embed.output.dtype, kernel=kernel)

    if setup.checkpointing:
        positions, own = S * 8, kernel_set(setup.kernels).position_bytes
        if own:
            positions = TOKENS * own
        elif setup.is_packed or own == 0 or setup.context_parallel_size > 1:
            positions = ZERO  # they came with the batch, or nobody made any
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
        held = held + moved_leaf_bytes(forward, workload)
    elif forward.leaf is not None:
        first = forward.layers[0].run
        held = forward.leaf.bytes if first.input.storage not in first.saved else forward.leaf_copy
    ids = total(s.bytes for s in forward.embed.saved if s.role == "input")
    has_labels = setup.is_packed or setup.is_padded  # else they are the ids
    given = TOKENS * 8 if has_labels or ids == ZERO else ZERO
    return Activations(
        embed=forward.embed.saved_bytes,
        shared=total(shared.values()),
        head=forward.head.saved_bytes,
        capped=_kept_by_softcapping(forward, workload) if chunks is None else ZERO,
        loss=(
            loss.kept + given * loss.keeps_labels
            if not isinstance(loss, ChunkedHead)
            else loss.made + loss.trained
            if loss.fused
            else labels + SCALAR
        ),
        labels=labels,
        ids=ids,
        held=held,
        scalars=_host_scalars(forward, setup),
        masks=mask(used | set(family.masks(config))),
        cached=_cached(forward, setup.checkpointing),
        moved=moved(forward, workload),
    )


def moved_leaf_bytes(forward: ForwardPass, workload: Workload) -> Polynomial:
    """Bytes of the leaf that autograd holds beside what layers keep: where their inputs are moved
    to the host, the embeddings' output is no layer's any more."""
    setup = workload.setup
    moves = is_offloaded(workload) or setup.offload_activations
    if forward.leaf is not None and moves and kernel_set(setup.kernels).makes_leaf:
        return forward.leaf.bytes
    return forward.leaf_copy


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
    factors = sum(run.scalars * times for run, times in forward.runs)
    states = RNG_STATE_BYTES * forward.num_layers if setup.checkpointing else 0
    return constant(8 * factors + states)


def _cached(forward: ForwardPass, checkpointing: bool) -> Polynomial:
    """Autocast's copies of trained weights that nothing saves, or that checkpointing dropped from
    what is saved."""
    runs = [(forward.embed, 1, False), (forward.head, 1, False)]
    runs += [(layer.run, len(layer.indices), checkpointing) for layer in forward.layers]
    return total(
        s.bytes * n for run, n, dropped in runs for s in run.cached if dropped or s not in run.saved
    )


def table_bytes(forward: ForwardPass, family: Family, workload: Workload) -> Polynomial:
    """cos and sin of each rotary set, where a pass makes them once."""
    if rotary_tables(workload) != "once":
        return ZERO
    dtype = family.rotary_dtype or forward.embed.output.dtype
    of_rows = workload.setup.is_packed or workload.setup.context_parallel_size > 1
    positions = TOKENS if of_rows else S
    return total(
        positions * (2 * size * ITEMSIZE[dtype])
        for _, size in family.rotary_sets(workload.model.config)
    )


def has_block_masks(setup: TrainSetup, family: Family) -> bool:
    """Whether attention is FlexAttention's, which has no mask of all pairs of tokens."""
    return family.has_sinks and loop_facts(setup.loop_state).flexes_sinks


def mask_bytes(
    windows: set[int | None], *, setup: TrainSetup, dtype: str, kernel: str
) -> Polynomial:
    """Attention masks of the given kinds of attention: additive ones for eager, one a sample; for
    SDPA a boolean one each packed row or padded sequence, or for all samples where a sliding window
    is filled, none where the causal flag suffices.
    """
    if setup.is_flattened or (setup.is_flash_attention_2 and not setup.is_padded):
        return ZERO
    if (setup.is_packed or setup.is_padded) and kernel != "eager":
        return B * S * S * len(windows)
    if kernel == "eager":
        return B * S * S * (ITEMSIZE[dtype] * len(windows))
    return S * S * sum(w is not None and setup.seq_len >= w for w in windows)
