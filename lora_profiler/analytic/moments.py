"""The instants on which a peak can fall, as polynomials by category: `facts` of the step in the order in which it runs.

Exact by construction: setup, end_of_forward, loss_backward, optimizer_step. The backward of the last and the first layers is
worked out by `backward.py`, and an estimate.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lora_profiler.analytic.families import Family
from lora_profiler.analytic.ledger import ITEMSIZE
from lora_profiler.analytic.optimizers import step_temporary_candidates, total_state_bytes
from lora_profiler.analytic.persistent import Persistent
from lora_profiler.analytic.polynomial import TOKENS, ZERO, B, Polynomial, S, constant, total
from lora_profiler.analytic.structure import ForwardPass, LayerRun
from lora_profiler.prediction import Category, MomentName
from lora_profiler.workload import TrainSetup, Workload

Breakdown = Mapping[Category, Polynomial]
RNG_STATE_BYTES = 5056
"""torch's CPU generator state, which checkpointing keeps per layer; host memory when the model is on a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One possible maximum of a moment: its live bytes by category, and their sum."""

    bytes: Breakdown
    total: Polynomial


Moments = Mapping[MomentName, tuple[Candidate, ...]]


def candidate(base: Breakdown, **more: Polynomial) -> Candidate:
    merged: dict[Category, Polynomial] = dict(base)
    for category, size in more.items():
        merged[category] = merged.get(category, ZERO) + size  # type: ignore[index, call-overload]  # keyword names are categories
    return Candidate(bytes=merged, total=total(merged.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """What autograd keeps at the end of forward, by part. `labels` are counted in `loss`; `held` lives on without being saved.

    `layers` holds (bytes, count) per distinct layer: the layer's own saved set, or its input under checkpointing.
    """

    embed: Polynomial
    shared: Polynomial
    layers: tuple[tuple[LayerRun, Polynomial], ...]
    head: Polynomial
    loss: Polynomial
    labels: Polynomial
    ids: Polynomial
    held: Polynomial

    @property
    def saved(self) -> Polynomial:
        """As `saved_tensors_hooks` would sum it: `held` is left out, the ids that the embedding keeps are in."""
        return self.embed + self.shared + self.stack + self.head + self.loss

    @property
    def stack(self) -> Polynomial:
        return total(size * len(layer.indices) for layer, size in self.layers)


def activations(
    forward: ForwardPass, family: Family, workload: Workload, kernel: str, batch_is_one: bool
) -> Activations:
    setup, config = workload.setup, workload.model.config
    vocab = forward.logits.elements
    labels = (S + 1) * 8 if batch_is_one else TOKENS * 8
    shared = forward.shared()
    held = ZERO
    if setup.checkpointing:
        dtype = family.rotary_dtype or forward.embed.output.dtype
        held = total(S * (2 * size * ITEMSIZE[dtype]) for _, size in family.rotary_sets(config)) + S * 8
        shared = {}
        if kernel == "eager":
            mask = B * S * S * ITEMSIZE[forward.embed.output.dtype]
            if family.mask_is_positional:
                shared["attention_mask"] = mask
            else:
                held = held + mask
    layers = tuple(
        (layer, layer.run.input.bytes if setup.checkpointing else layer.run.saved_bytes) for layer in forward.layers
    )
    trains_ids = any(s.bytes == TOKENS * 8 and s is forward.embed.input.storage for s in forward.embed.saved)
    return Activations(
        embed=forward.embed.saved_bytes,
        shared=total(shared.values()),
        layers=layers,
        head=forward.head.saved_bytes,
        loss=vocab * 4 + labels + 4,
        labels=labels,
        ids=TOKENS * 8 if trains_ids else ZERO,
        held=held,
    )


def moments(
    forward: ForwardPass,
    kept: Activations,
    state: Persistent,
    family: Family,
    workload: Workload,
    kernel: str,
    adapted: int,
    batch_is_one: bool,
) -> Moments:
    """Steady-state live bytes at every moment; `inputs` are the token ids, which live through the step.

    `adapted` is the number of linear layers with an adapter.
    """
    setup = workload.setup
    gradients = state.gradient_bytes
    base: dict[Category, Polynomial] = {
        "parameters": constant(state.parameter_bytes),
        "quantization_state": constant(state.quantization_bytes),
        "adapters": state.adapter_bytes,
        "buffers": constant(buffer_bytes(family, workload)),
        "gradients": ZERO,
        "optimizer_states": total_state_bytes(state.trainable, setup),
        "inputs": ZERO,
    }
    setup_moment = candidate(base)
    base["inputs"] = TOKENS * 8
    accumulated = gradients if setup.accumulation > 1 else ZERO
    running = base | {"gradients": accumulated}

    logits = forward.logits
    stored = kept.saved - kept.ids - kept.loss + kept.held
    copy = logits.elements * 4 if ITEMSIZE[logits.dtype] != 4 else ZERO
    hidden_is_saved = forward.hidden.storage in forward.head.saved
    stored = stored + _host_scalars(forward, workload, kernel, adapted)
    last_hidden = ZERO if hidden_is_saved else forward.hidden.bytes
    padded = ZERO if batch_is_one else B * (S + 1) * 8
    end_of_forward = candidate(
        running, activations=stored + last_hidden, logits_and_loss=kept.loss + logits.bytes + copy + padded + 4
    )
    loss_backward = candidate(running, activations=stored, logits_and_loss=kept.loss - kept.labels + logits.elements * 8 + 4)

    step = [
        candidate(base, gradients=gradients, activations=_leaf_inputs(forward, setup), logits_and_loss=constant(4), temporaries=t)
        for t in step_temporary_candidates(state, setup)
    ]
    last, first = _layer_backward(forward, kept, gradients, running, workload)
    return {
        "setup": (setup_moment,),
        "end_of_forward": (end_of_forward,),
        "loss_backward": (loss_backward,),
        "last_layer_backward": last,
        "first_layer_backward": first,
        "optimizer_step": tuple(step),
    }


def _host_scalars(forward: ForwardPass, workload: Workload, kernel: str, adapted: int) -> Polynomial:
    """What only counts where host memory is counted: scaling factors as 8-byte scalars, checkpointing's generator states."""
    setup = workload.setup
    if setup.device != "cpu":
        return ZERO
    size = 8 * adapted + (8 * forward.num_layers if kernel == "eager" else 0)
    return constant(size + (RNG_STATE_BYTES * forward.num_layers if setup.checkpointing else 0))


def persistent_only(state: Persistent, workload: Workload) -> Moments:
    """The moments that need no activations: what is known of a family without a ledger."""
    base: dict[Category, Polynomial] = {
        "parameters": constant(state.parameter_bytes),
        "quantization_state": constant(state.quantization_bytes),
        "adapters": state.adapter_bytes,
        "gradients": ZERO,
        "optimizer_states": total_state_bytes(state.trainable, workload.setup),
    }
    step = base | {"gradients": state.gradient_bytes, "inputs": TOKENS * 8}
    temporaries = step_temporary_candidates(state, workload.setup)
    return {"setup": (candidate(base),), "optimizer_step": tuple(candidate(step, temporaries=t) for t in temporaries)}


def _leaf_inputs(forward: ForwardPass, setup: TrainSetup) -> Polynomial:
    """With checkpointing and a frozen embedding, its output is a leaf whose gradient stays until the loss is dropped."""
    if setup.checkpointing and setup.lora is not None:
        return forward.embed.output.bytes * 2
    return ZERO


def buffer_bytes(family: Family, workload: Workload) -> int:
    """Two float32 vectors of half the rotary width per rotary set, and what else the family registers."""
    return sum(4 * size for _, size in family.rotary_sets(workload.model.config)) + family.buffer_bytes(workload.setup.dtype)


def _layer_backward(
    forward: ForwardPass, kept: Activations, gradients: Polynomial, running: Breakdown, workload: Workload
) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...]]:
    """Candidates inside the backward of each distinct layer where it occurs last and first, and of head and embedding."""
    checkpointing = workload.setup.checkpointing
    accumulates = workload.setup.accumulation > 1
    per_layer = {id(layer): size for layer, size in kept.layers}
    grads = {id(layer): layer.run.gradient_bytes for layer in forward.layers}
    head_gradients, embed_gradients = forward.head.gradient_bytes, forward.embed.gradient_bytes
    ends = kept.embed - kept.ids + kept.shared + kept.held + 4

    def made(*, above: int) -> Polynomial:
        """Gradients of the head and of all layers with an index over `above`."""
        layers = total(grads[id(x)] * sum(i > above for i in x.indices) for x in forward.layers)
        return ZERO if accumulates else head_gradients + layers

    def stored(*, below: int) -> Polynomial:
        return total(per_layer[id(x)] * sum(i < below for i in x.indices) for x in forward.layers)

    last = [
        candidate(running, activations=ends + stored(below=forward.num_layers), temporaries=inside)
        for inside in forward.head.backward_candidates
    ]
    first = []
    for layer in forward.layers:
        for index, found in ((layer.indices[-1], last), (layer.indices[0], first)):
            own = layer.run.input.bytes if checkpointing and layer.run.input.storage not in layer.run.saved else ZERO
            for inside in layer.run.backward_candidates:
                found.append(
                    candidate(
                        running,
                        gradients=made(above=index),
                        activations=ends + stored(below=index) + own,
                        temporaries=inside,
                    )
                )
    if embed_gradients != ZERO:
        head = next((m for name, m in workload.model.modules() if name == "lm_head"), None)
        tied = head is not None and head.weights[0].tied_to is not None
        doubled = constant(head.weights[0].numel * ITEMSIZE[forward.embed.output.dtype] * 2) if head and tied else ZERO
        first.append(
            candidate(
                running,
                gradients=ZERO if accumulates else gradients,
                activations=forward.embed.output.bytes + constant(12),
                temporaries=doubled,
            )
        )
    return tuple(last), tuple(first)
