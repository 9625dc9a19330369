"""Which of the layers' saved tensors wait on the host, and which are still on the card when.

Unsloth moves the inputs of checkpointed layers but for the last one's. TRL's OffloadActivations
(`trl/models/activation_offloading.py`, 1.x) and torchtune's (`training/_activation_offloading.py`,
0.7), from which it comes, move every saved tensor of 1024 bytes and more that is no parameter, the
head's left out. A tensor that they moved lies on the card until five more were saved: it waits for
its copy. TRL's moves no tensor that is saved again while it waits, so that it stays; torchtune's
moves it again, and is left before the loss, so that nothing goes when that one's backward begins.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from lora_profiler.algebra.polynomial import ZERO, Polynomial, total
from lora_profiler.analytic.liveness import STASH, is_moved, on_host
from lora_profiler.analytic.structure import ForwardPass, LayerRun
from lora_profiler.analytic.tensors import Node, Storage
from lora_profiler.support.offloading import is_offloaded
from lora_profiler.support.unsloth import returns_all_hidden_states
from lora_profiler.workload import Workload


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
        outputs = entry * (forward.num_layers - 2) if returns_all_hidden_states(setup) else ZERO
        return Moved(nothing, at_end=entry, behind=outputs, hosted=others, buffered=True)
    if not setup.offload_activations:
        return Moved(kept)
    norm = list(takewhile(lambda node: forward.hidden not in node.inputs, forward.head.nodes))
    by_torchtune = setup.kernels == "torchtune"
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
