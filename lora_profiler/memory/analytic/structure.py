"""One forward pass of the whole model through the ledger, each distinct layer run once.

Layers that have equal modules, equal adapters, the same kind of attention and the same kind of
input are one `LayerRun` with a list of indices, so an 80-layer model costs two or three runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

from lora_profiler._common.polynomial import TOKENS, ZERO, Polynomial, total
from lora_profiler.memory.analytic.families import Family
from lora_profiler.memory.analytic.ledger import Ledger, Node, Rules, Storage, Tensor
from lora_profiler.memory.analytic.liveness import (
    backward_bytes,
    forward_bytes,
    on_host,
    returned,
    waiting_gradients,
)
from lora_profiler.memory.analytic.losses import ChunkedHead, LossPath, chunked_head
from lora_profiler.memory.analytic.matmuls import scale_bytes
from lora_profiler.question.adapters import Adapter
from lora_profiler.question.feature import part
from lora_profiler.question.model_spec import LayerStack, ModelSpec, Module


@dataclass(eq=False)
class LayerPass:
    """What one part of the model (embeddings, a distinct layer, norm and head) did to the ledger.

    `promotes`: see `liveness.forward_bytes`; `scalars`: see `Ledger.scale`; `cached`: see `Ledger`.
    `reentrant`: checkpointing runs it again to its end, and keeps its output and that one's
    gradient until its backward is over (torch `utils/checkpoint.py`, CheckpointFunction.backward).
    `moved`: what it saves that waits on the host; `returned`: bytes that come back for each node
    and stay until the layer below has run backward (`liveness.returned`).
    """

    nodes: list[Node]
    saved: Mapping[Storage, str]
    input: Tensor
    output: Tensor
    promotes: bool
    scalars: int
    cached: tuple[Storage, ...]
    reentrant: bool
    steps_in_backward: bool
    moved: frozenset[Storage]
    returned: Sequence[Polynomial]

    @property
    def saved_bytes(self) -> Polynomial:
        """Kept for backward, parameters and tensors shared by the whole model left out."""
        return total(s.bytes for s in self.saved if s.role != "shared")

    @property
    def shared(self) -> dict[str, Polynomial]:
        return {s.name: s.bytes for s in self.saved if s.role == "shared"}

    @property
    def gradient_bytes(self) -> Polynomial:
        return total(node.gradients for node in self.nodes if node.outputs[0].requires_grad)

    @cached_property
    def backward_candidates(self) -> tuple[Polynomial, ...]:
        candidates, _ = backward_bytes(
            self.nodes,
            self.output,
            keeps_gradient=self.reentrant,
            keeps_parameters=not self.steps_in_backward,
            moved=self.moved,
            returned=self.returned,
        )
        if not self.reentrant:
            return candidates
        return tuple(size + self.output.bytes for size in candidates)

    def _ahead(self, stop: int, *, keeps: bool = True) -> tuple[Polynomial, ...]:
        return forward_bytes(
            self.nodes,
            self.input,
            self.output,
            stop=stop,
            promotes=self.promotes,
            keeps=keeps,
            moved=self.moved,
        )

    @cached_property
    def forward_candidates(self) -> tuple[Polynomial, ...]:
        return self._ahead(len(self.nodes))

    @cached_property
    def checkpointed_candidates(self) -> tuple[Polynomial, ...]:
        """The forward pass inside a checkpoint."""
        return self._ahead(len(self.nodes), keeps=False)

    @cached_property
    def recompute_candidates(self) -> tuple[Polynomial, ...]:
        return self._ahead(self.repeated)

    @cached_property
    def waiting_gradients(self) -> Polynomial:
        if self.reentrant:
            return self.output.bytes
        return waiting_gradients(self.nodes, self.output)

    @property
    def repeated(self) -> int:
        """How many nodes checkpointing runs again: all, or where it is not reentrant up to the last
        tensor that must be saved again."""
        if self.reentrant:
            return len(self.nodes)
        last = max((i for i, node in enumerate(self.nodes) if node.packs), default=-1)
        return last + (self.nodes[last].saves_output if last >= 0 else 1)

    @property
    def recompute_flops(self) -> Polynomial:
        return total(node.forward_flops for node in self.nodes[: self.repeated])


@dataclass(slots=True, eq=False)
class LayerRun:
    """A distinct layer and the indices at which it occurs."""

    run: LayerPass
    indices: list[int] = field(default_factory=list)


class ForwardPass(NamedTuple):
    """The whole forward pass: embeddings, distinct layers in order of first occurrence, norm and
    head up to the logits.

    `leaf` is the embeddings' output where checkpointing makes it require grad although nothing
    before it trains. `hidden` is the last hidden state, which the model's output object keeps alive
    until the loss is known. With `chunks` there are never all `logits`, and what stands for them is
    the hidden state.
    """

    family: Family
    embed: LayerPass
    leaf: Tensor | None
    layers: tuple[LayerRun, ...]
    head: LayerPass
    hidden: Tensor
    logits: Tensor
    num_layers: int
    chunks: ChunkedHead | LossPath | None

    @property
    def runs(self) -> list[tuple[LayerPass, int]]:
        """Each, and how often it occurs."""
        layers = ((layer.run, len(layer.indices)) for layer in self.layers)
        return [(self.embed, 1), *layers, (self.head, 1)]

    @property
    def scale_bytes(self) -> Polynomial:
        """Of fake-quantised layers, which keep them between steps."""
        return total(scale_bytes(run.nodes) * times for run, times in self.runs)

    @property
    def leaf_copy(self) -> Polynomial:
        """Bytes of a leaf that is a tensor beside the embeddings' output."""
        if self.leaf is None or self.leaf.storage is self.embed.output.storage:
            return ZERO
        return self.leaf.bytes

    @property
    def head_gradient_bytes(self) -> Polynomial:
        return self.head.gradient_bytes + (self.chunks.parameter_gradients if self.chunks else ZERO)

    @property
    def after_head(self) -> Polynomial:
        """Live bytes once the output layer has run backward, gradients of its weights among them;
        the norm's are still to come."""
        number = next(i for i, node in enumerate(self.head.nodes) if node.gradients != ZERO)
        before, own = self.head.nodes[:number], self.head.nodes[number:]
        saved = {s for node in before for s in node.saved if s.role != "shared"}
        return total(s.bytes for s in saved) + backward_bytes(own, self.head.output)[1]

    def shared(self) -> dict[str, Polynomial]:
        result: dict[str, Polynomial] = {}
        for layer in self.layers:
            result.update(layer.run.shared)
        return result


@lru_cache(maxsize=64)
def forward_pass(
    spec: ModelSpec,
    family: Family,
    rules: Rules,
    adapters: tuple[Adapter, ...],
    trainable: frozenset[str],
) -> ForwardPass:
    """Runs `spec` through its family's program. `trainable` are the full names of modules whose own
    weights train. Kept for the plans of this process, which differ in optimizer, checkpointing and
    loop too."""
    of_layers = rules._replace(chunk_rows=None, loss="plain")
    below = _layers(spec, family, of_layers, adapters, trainable)
    root = {part.name: part for part in spec.parts if isinstance(part, Module)}
    _, outside = _adapters_by_layer(adapters, _stack(spec, family).name)
    op, x = Ledger(rules, root, outside, trainable), below.output
    start = Tensor(x.elements, x.dtype, x.requires_grad, Storage(x.bytes))
    hidden = family.norm(op, start, spec.config)
    chunks: ChunkedHead | LossPath | None = None
    if rules.chunk_rows is None:
        logits = family.head(op, hidden, spec.config)
    else:
        if price := part("losses", rules.loss, "law", "price"):
            chunks = price(op, hidden, spec, rules.chunk_rows)
        else:
            chunks = chunked_head(
                op, hidden, spec, fused=rules.loss == "fused", rows=rules.chunk_rows
            )
        logits = chunks.hidden
    return ForwardPass(
        family=family,
        embed=below.embed,
        leaf=below.leaf,
        layers=below.layers,
        head=_ran(op, start, logits),
        hidden=hidden,
        logits=logits,
        num_layers=spec.num_layers,
        chunks=chunks,
    )


class _Layers(NamedTuple):
    """What runs before the norm and the head; `output` is the last layer's."""

    embed: LayerPass
    leaf: Tensor | None
    layers: tuple[LayerRun, ...]
    output: Tensor


@lru_cache(maxsize=64)
def _layers(
    spec: ModelSpec,
    family: Family,
    rules: Rules,
    adapters: tuple[Adapter, ...],
    trainable: frozenset[str],
) -> _Layers:
    """The same for every number of tokens that the loss takes at a time."""
    config, stack = spec.config, _stack(spec, family)
    root = {part.name: part for part in spec.parts if isinstance(part, Module)}
    by_layer, outside = _adapters_by_layer(adapters, stack.name)
    trains = _trainable_by_layer(stack, trainable)

    op = Ledger(rules, root, outside, trainable)
    ids = Tensor(TOKENS, "int64", False, Storage(TOKENS * (8 * rules.ring), "input"))
    x = family.embed(op, ids, config)
    embed, leaf = _ran(op, ids, x), op.leaf

    runs: dict[object, LayerRun] = {}
    for index, kind in enumerate(stack.order):
        mine = by_layer.get(index, {})
        sliding = family.window(config, index) is not None
        key = (
            kind,
            sliding,
            index in rules.masked_layers,
            tuple((n, len(a)) for n, a in mine.items()),
            x.requires_grad,
            x.dtype,
        )
        layer = runs.get(key)
        if layer is None:
            modules = {module.name: module for module in stack.kinds[kind]}
            op = Ledger(rules, modules, mine, trains[kind])
            start = Tensor(x.elements, x.dtype, x.requires_grad, Storage(x.bytes))
            end = family.layer(op, start, config, index)
            if not rules.trains:  # what trains is saved
                op.keep(*op.returned)
            layer = runs[key] = LayerRun(_ran(op, start, end, is_layer=True))
        layer.indices.append(index)
        x = layer.run.output
    return _Layers(embed, leaf, tuple(runs.values()), x)


def _stack(spec: ModelSpec, family: Family) -> LayerStack:
    return next(
        part for part in spec.parts if isinstance(part, LayerStack) and part.name == family.stack
    )


def _ran(op: Ledger, start: Tensor, end: Tensor, *, is_layer: bool = False) -> LayerPass:
    rules, moves = op.rules, is_layer and op.rules.moves_activations
    comes_back = moves and rules.reentrant
    return LayerPass(
        nodes=op.nodes,
        saved=op.saved,
        input=start,
        output=end,
        promotes=rules.device == "cpu",
        scalars=op.scalars,
        cached=tuple(copy.storage for copy in op.cached.values()),
        reentrant=is_layer and rules.reentrant,
        steps_in_backward=rules.steps_in_backward,
        moved=on_host(op.nodes) if moves else frozenset(),
        returned=returned(op.nodes, by_axolotl=rules.by_axolotl) if comes_back else (),
    )


@lru_cache(maxsize=16)
def _adapters_by_layer(
    adapters: tuple[Adapter, ...], stack: str
) -> tuple[dict[int, dict[str, list[Adapter]]], dict[str, list[Adapter]]]:
    """Adapters keyed by layer index and name inside the layer; and those outside the stack by full
    name."""
    by_layer: dict[int, dict[str, list[Adapter]]] = {}
    outside: dict[str, list[Adapter]] = {}
    prefix = stack + "."
    for adapter in adapters:
        if adapter.module.startswith(prefix):
            index, _, name = adapter.module[len(prefix) :].partition(".")
            by_layer.setdefault(int(index), {}).setdefault(name, []).append(adapter)
        else:
            outside.setdefault(adapter.module, []).append(adapter)
    return by_layer, outside


def _trainable_by_layer(stack: LayerStack, trainable: frozenset[str]) -> list[frozenset[str]]:
    """Names inside the layer that train, per kind of layer; full fine-tuning trains all,
    `modules_to_save` some."""
    result = []
    for number, kind in enumerate(stack.kinds):
        first = stack.order.index(number)
        result.append(
            frozenset(m.name for m in kind if f"{stack.name}.{first}.{m.name}" in trainable)
        )
    return result
