"""What a rank holds of a model that several train together, and what it holds only because they are
several; and the units that FSDP gathers.

The rank is 0, which never holds less than another. Sources: torch 2.13
`distributed/fsdp/_fully_shard/_fsdp_param.py` (a shard is a chunk of the first dimension, rounded
up), `_fsdp_collectives.py` and `_fsdp_param_group.py` (which buffers live when),
`csrc/distributed/c10d/reducer.cpp` (DDP's buckets),
`distributed/optim/zero_redundancy_optimizer.py` (whose states are whose).
`tests/memory/test_ranks.py` compares with traces of the real wrappers under a fake process group.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal, NamedTuple

from lora_profiler._common.polynomial import ZERO, Polynomial, constant, total
from lora_profiler.memory.analytic.persistent import (
    Persistent,
    TrainableTensor,
    numel_at,
    state_bytes,
)
from lora_profiler.memory.analytic.zero3_fetching import Gathered
from lora_profiler.memory.prediction import Category, Collective, MomentName, Phase, Traffic
from lora_profiler.question.workload import DEEPSPEED_ZERO, TrainSetup


class Unit(NamedTuple):
    """What one all-gather brings. Bytes: `share` of a rank, `whole` of all, both with padding;
    `reduced` of the gradients that one reduce-scatter takes, `reduced_share` of what it leaves;
    `sent` of the part that a rank casts, or copies from the host, before it is gathered; `kept` of
    it while the unit is whole. So many `adapters` are gathered and reduced each for itself:
    `within` is what of `whole` is theirs, `widest` of the largest."""

    share: int
    whole: int
    reduced: int
    reduced_share: int
    sent: int = 0
    kept: int = 0
    adapters: int = 0
    within: int = 0
    widest: int = 0

    @property
    def held(self) -> int:
        return self.coming + self.widest

    @property
    def coming(self) -> int:
        """What is there of a unit that was fetched ahead."""
        return self.whole - self.within + self.kept


class ShardedParameter(NamedTuple):
    """One parameter of a unit: its shape and bytes an element, whether it trains, and whether it is
    packed in 4 bit."""

    shape: tuple[int, ...]
    itemsize: int
    trains: bool
    is_packed: bool = False

    def share(self, world_size: int) -> int:
        """Bytes of rank 0's chunk of the first dimension."""
        return -(-self.shape[0] // world_size) * prod(self.shape[1:]) * self.itemsize


def flat_unit(
    pieces: Iterable[ShardedParameter], world_size: int, *, wide: bool, from_host: bool = False
) -> Unit:
    """A flat parameter of FSDP1: `pieces` end to end, a part each; gathered and reduced in half of
    its bytes where shards are `wide` (torch `distributed/fsdp/_flat_param.py`). A part `from_host`
    lies on the card as long as the whole, but for a wide one, of which that is a copy in half."""
    shares = [(prod(p.shape) * p.itemsize, p.trains) for p in pieces]
    share = -(-sum(size for size, _ in shares) // world_size)
    reduced = -(-sum(size for size, trains in shares if trains) // world_size)
    parts = 2 if wide else 1
    return Unit(
        share=share,
        whole=share * world_size // parts,
        reduced=reduced * world_size // parts,
        reduced_share=reduced,
        kept=share if from_host and not wide else 0,
        sent=share // 2 if wide else 0,
    )


def first_part(pieces: Iterable[ShardedParameter], world_size: int) -> Iterator[int]:
    """Elements of each tensor that rank 0 has of a flat parameter, of those of which it has any."""
    numels = [prod(piece.shape) for piece in pieces]
    left = -(-sum(numels) // world_size)
    for numel in numels:
        if left:
            yield min(numel, left)
            left -= min(numel, left)


def adapted_unit(base: Unit, own: Sequence[Unit]) -> Unit:
    """A frozen flat parameter and those of the adapters within it, each of which is gathered for
    itself, as it runs (PEFT `utils/other.py`, fsdp_auto_wrap_policy)."""
    wholes = [one.whole for one in own]
    return base._replace(
        share=base.share + sum(one.share for one in own),
        whole=base.whole + sum(wholes),
        reduced=sum(one.reduced for one in own),
        reduced_share=sum(one.reduced_share for one in own),
        adapters=len(own),
        within=sum(wholes),
        widest=max(wholes, default=0),
    )


def unit(
    pieces: Iterable[ShardedParameter],
    world_size: int,
    itemsize: int | None = None,
    *,
    from_host: bool = False,
) -> Unit:
    """The unit of some parameters. `itemsize`: bytes of an element once it is gathered, and of its
    gradient until that is reduced (`MixedPrecisionPolicy.param_dtype`); None as it is stored.
    `from_host`: shards are copied to the card to be gathered (`CPUOffloadPolicy`)."""
    pieces = list(pieces)
    gathered = [p if itemsize is None else p._replace(itemsize=itemsize) for p in pieces]
    return Unit(
        share=sum(p.share(world_size) for p in pieces),
        whole=world_size * sum(p.share(world_size) for p in gathered),
        reduced=world_size * sum(p.share(world_size) for p in gathered if p.trains),
        reduced_share=sum(p.share(world_size) for p in pieces if p.trains),
        sent=sum(
            low.share(world_size)
            for low, stored in zip(gathered, pieces, strict=True)
            if from_host or low.itemsize != stored.itemsize
        ),
    )


def chunk(tensor: TrainableTensor, world_size: int, rank: int) -> TrainableTensor:
    """Rank 0's part of a tensor, the rank of the adapters put in."""
    first, *rest = (size.evaluate(1, 1, rank) for size in tensor.shape)
    return TrainableTensor(
        tuple(constant(size) for size in (-(-first // world_size), *rest)), tensor.dtype
    )


Part = Literal["root", "layers", "buffer", "buckets"]
"""Gathered weights of the root's unit and of layers, the buffer that brought or brings a layer's,
DDP's buckets of gradients."""


@dataclass(frozen=True, slots=True)
class ShardState:
    """Bytes that a rank holds at each instant because there are others.

    `state` is the rank's share of weights, adapters and gradients, `stepped` that of what its
    optimizer works on, `at_once` the most in one step of it where that is less; `always` lives from
    the wrapping on. `units` are the layers that are gathered one by one, `root` is the unit of the
    rest; without units gradients stay whole. `flat` are FSDP1's units, of which none is on its way
    beside the one that runs, but in backward the next where it `prefetches`; `embed` and `head` are
    those of an embedding and an output layer that train whole beside adapters. `reshards` says
    whether a layer's weights go again after its forward pass. `order` are all tensors that train,
    whole. `dealt` is over how many ranks gradients are dealt out as they come. `back` lives beside
    `always` in the layers' backward pass; `fetched` are weights that ZeRO-3 has gathered. `masters`
    are float32 copies of what the rank updates, counted among optimizer states, and
    `stepped_gradients` what the optimizer is given where that is no gradient of `state`. With
    `gradients_stay` the buffer of gradients is there from the beginning. `meanwhile` lives beside
    gradients that accumulate, `reducing` beside all of them after backward. `host` is what lies in
    the host's memory.
    """

    state: Persistent
    stepped: Persistent
    at_once: Persistent | None = None
    always: Polynomial = ZERO
    dealt: int = 1
    units: tuple[Unit, ...] = ()
    root: Unit | None = None
    embed: Unit | None = None
    head: Unit | None = None
    reshards: bool = True
    flat: bool = False
    prefetches: bool = False
    order: tuple[TrainableTensor, ...] = ()
    exchanged: tuple[Traffic, ...] = ()
    back: Polynomial = ZERO
    fetched: Gathered | None = None
    masters: Polynomial = ZERO
    stepped_gradients: Polynomial | None = None
    gradients_stay: bool = False
    meanwhile: Polynomial = ZERO
    reducing: Polynomial = ZERO
    host: Mapping[Category, Polynomial] = field(default_factory=dict)

    @property
    def trained(self) -> Polynomial:
        """Elements that train, on all ranks together."""
        return (
            total(tensor.numel * count for tensor, count in Counter(self.order).items())
            if self.order
            else self.state.trainable_parameters
        )

    @property
    def is_sharded(self) -> bool:
        return self.root is not None

    @property
    def _in_pass(self) -> Polynomial:
        return self.always + self.meanwhile

    def in_forward(self, layer: int) -> Polynomial:
        """The root's weights, those of the layer, and the buffer that brought them, kept until the
        next layer's has come."""
        if self.root is None:
            return self._in_pass + (self.fetched.forward[layer] if self.fetched else 0)
        if self.flat:
            return constant(self.root.held + self.units[layer].held)
        unsharded = self.units[layer : layer + 1] if self.reshards else self.units[: layer + 1]
        return constant(self.root.held + sum(u.held for u in unsharded) + self.units[layer].held)

    def before_forward(self, layer: int) -> Polynomial:
        """As `in_forward`, while the buffer of the unit before is still there; before the first
        layer that is the root's."""
        if self.root is None or self.flat:
            return self.in_forward(layer)
        earlier = self.units[layer - 1] if layer else self.root
        return self.in_forward(layer) + earlier.held

    @property
    def in_loss(self) -> Polynomial:
        """As the last layer's forward pass leaves it: the loss is part of the root's."""
        if self.root is None:
            return self._in_pass + (self.fetched.loss if self.fetched else 0)
        buffer = 0 if self.flat else self.units[-1].held
        return constant(self.root.held + self._left + buffer)

    @property
    def before_layers(self) -> Polynomial:
        """While backward is in the loss and the head: the last layer is on its way already."""
        if self.root is None:
            return self.in_loss
        if self.flat:
            coming = (self.head or self.units[-1]).coming
            return constant(self.root.held + coming * self.prefetches)
        return constant(self.root.held + (self.units[-1].held if self.reshards else self._left))

    @property
    def in_head(self) -> Polynomial:
        """While a head comes back that is a unit of its own: the last layer is on its way."""
        if self.root is None or self.head is None:
            return self.before_layers
        coming = self.units[-1].coming * self.prefetches
        return constant(self.root.held + self.head.held + coming)

    @property
    def sent_as_backward_begins(self) -> Polynomial:
        """A rank's part of the last layer, cast or copied from the host to be gathered."""
        casts = self.units and self.reshards and not self.flat
        return constant(self.units[-1].sent if casts else 0)

    def in_root_reduction(self, world_size: int) -> Polynomial:
        """The root's weights are gone, and all that it sends of gradients lies in one buffer,
        beside what comes out."""
        if self.root is None:
            return self.always + self.back
        return constant(self.root.reduced + self.root.reduced // world_size)

    @property
    def after_forward(self) -> Polynomial:
        """In a loss that is made of what the root has returned: no buffer is left, and none is
        fetched before backward comes back to the root."""
        if self.root is None:
            return self.in_loss
        return constant(self.root.held + self._left)

    @property
    def _left(self) -> int:
        return 0 if self.reshards else sum(u.held for u in self.units)

    def in_backward(self, layer: int) -> Polynomial:
        """The root's weights, the layer's, the buffer of the next one to come, and what the one
        before sent off as gradients."""
        if self.root is None:
            return self._in_pass + self.back + (self.fetched.backward[layer] if self.fetched else 0)
        if self.flat:
            coming = self.units[layer - 1].coming * self.prefetches if layer > 0 else 0
            return constant(self.root.held + self.units[layer].held + coming)
        coming = self.units[layer - 1].held if layer > 0 else 0
        held = (
            self.units[layer].held + coming
            if self.reshards
            else sum(u.held for u in self.units[: layer + 1])
        )
        sent = self.units[layer + 1].reduced if layer + 1 < len(self.units) else 0
        return constant(self.root.held + held + sent)

    def lingering(self, layer: int) -> int:
        """Bytes of the layer above while `layer` comes back: a frozen flat parameter goes with the
        gradient of its layer's input, which brings the next one first (torch
        `distributed/fsdp/_runtime_utils.py`, _register_post_backward_reshard_only_hook)."""
        above = self.units[layer + 1 : layer + 2]
        return sum(u.coming for u in above if self.flat and u.adapters)

    @property
    def in_embedding(self) -> Polynomial:
        if self.root is None:
            return self._in_pass + self.back + (self.fetched.embedding if self.fetched else 0)
        own = self.embed.held if self.embed else 0
        return constant(self.root.held + (own if self.flat else self.units[0].reduced))

    def fullest(self, indices: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of layers that are alike those beside which ZeRO-3 has gathered most, in forward and in
        backward."""
        if self.fetched is None:
            return (), ()
        ahead, back = self.fetched.forward, self.fetched.backward
        return (max(indices, key=lambda i: ahead[i]),), (max(indices, key=lambda i: back[i]),)

    def reduced_above(self, layer: int) -> Polynomial:
        """Shards of the gradients of all layers with an index over `layer`, and of the head's."""
        head = self.head.reduced_share if self.head else 0
        return constant(sum(u.reduced_share for u in self.units[layer + 1 :]) + head)

    def parts(self, moment: MomentName, rank: int) -> dict[Part, int]:
        """Bytes of what is there for other ranks' sake at `moment`, by what it is; nothing for a
        moment inside a layer's backward, which one moment's name does not tell apart. `rank` is
        that of the adapters."""
        if self.root is None:
            is_loss = moment in ("end_of_forward", "loss_backward")
            size = (self.in_loss if is_loss else self.always).evaluate(1, 1, rank)
            return {"buckets": size} if size else {}
        root, last = self.root.held, self.units[-1].held
        buffer = 0 if self.flat else last
        by_moment: dict[MomentName, dict[Part, int]] = {
            "last_layer_forward": {
                "root": root,
                "layers": last if self.reshards else self._left,
                "buffer": buffer,
            },
            "end_of_forward": {"root": root, "layers": self._left, "buffer": buffer},
            "loss_backward": {"root": root, "layers": self._left, "buffer": buffer * self.reshards},
        }
        return {part: size for part, size in by_moment.get(moment, {}).items() if size}

    def traffic(self, setup: TrainSetup) -> tuple[Traffic, ...]:
        """The collectives of an optimizer step. FSDP sends gradients after every micro-batch, DDP
        after the last one alone."""
        rank = setup.lora.r if setup.lora else 1
        if self.root is None:
            if setup.sharding in DEEPSPEED_ZERO:
                times = 1 if setup.sharding == "zero1-deepspeed" else setup.accumulation
                return tuple(
                    t if t.phase == "optimizer" else _repeated(t, times) for t in self.exchanged
                )
            if setup.sharding == "none":
                return ()
            buckets = bucket_bytes(
                [t.bytes_at(rank) for t in self.order], [t.dtype for t in self.order]
            )
            collectives = [
                Traffic(
                    collective="all_reduce",
                    phase="backward",
                    count=len(buckets),
                    size_bytes=sum(buckets),
                )
            ]
            if setup.sharding == "zero1":
                sizes = [t.bytes_at(rank) for t in self.order]
                collectives.append(
                    Traffic(
                        collective="broadcast",
                        phase="optimizer",
                        count=len(sizes),
                        size_bytes=sum(sizes),
                    )
                )
            return tuple(collectives)
        layers = (*self.units, *(unit for unit in (self.embed, self.head) if unit))
        all_units, again = (*layers, self.root), layers if self.reshards else ()
        gathers: list[tuple[Phase, tuple[Unit, ...]]] = [
            ("forward", all_units),
            ("backward", again),
        ]
        collectives = [
            _summed("all_gather", phase, [(u.whole, 1 + u.adapters) for u in units], setup)
            for phase, units in gathers
        ]
        reduced = [(u.reduced, u.adapters or 1) for u in all_units if u.reduced]
        collectives.append(_summed("reduce_scatter", "backward", reduced, setup))
        return tuple(t for t in collectives if t.count)


def _repeated(traffic: Traffic, times: int) -> Traffic:
    return replace(traffic, count=traffic.count * times, size_bytes=traffic.size_bytes * times)


def _summed(
    collective: Collective, phase: Phase, sent: Sequence[tuple[int, int]], setup: TrainSetup
) -> Traffic:
    """Of units of which each has (bytes, collectives) of a micro-batch."""
    times = setup.accumulation
    return Traffic(
        collective=collective,
        phase=phase,
        count=times * sum(count for _, count in sent),
        size_bytes=times * sum(size for size, _ in sent),
    )


FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20
"""DDP's limits of its first bucket and of the others, in bytes (`nn/parallel/distributed.py`,
`c10d.hpp`)."""


def bucket_bytes(sizes: Sequence[int], dtypes: Sequence[str]) -> list[int]:
    """Bytes of DDP's buckets over gradients that come in the opposite order of their parameters: a
    bucket takes gradients of one dtype until it reaches its limit (`reducer.cpp`,
    compute_bucket_assignment_by_size)."""
    full: list[int] = []
    filling: dict[str, int] = {}
    seen: set[str] = set()
    for size, dtype in zip(reversed(sizes), reversed(dtypes), strict=True):
        filling[dtype] = filling.get(dtype, 0) + size
        if filling[dtype] >= (BUCKET if dtype in seen else FIRST_BUCKET):
            full.append(filling.pop(dtype))
            seen.add(dtype)
    return full + list(filling.values())


def alone(state: Persistent) -> ShardState:
    return ShardState(state=state, stepped=state)


def replicated(state: Persistent, order: Sequence[TrainableTensor]) -> ShardState:
    """DDP: everything whole on every rank, and buckets as large as the gradients beside them."""
    return ShardState(state=state, stepped=state, always=state.gradient_bytes, order=tuple(order))


def partitioned(
    state: Persistent, order: Sequence[TrainableTensor], setup: TrainSetup
) -> ShardState:
    """DDP with ZeRO-1: each parameter's optimizer states live on one rank, the largest first, each
    to the one with the least.

    `ZeroRedundancyOptimizer` counts elements; the rank with the most bytes of states is taken.
    """
    rank = setup.lora.r if setup.lora else 1
    numel = [numel_at(tensor, rank) for tensor in order]
    loads, owned = [0] * setup.world_size, [[] for _ in range(setup.world_size)]  # type: ignore[var-annotated]
    for number in sorted(range(len(order)), key=lambda i: -numel[i]):
        least = loads.index(min(loads))
        loads[least] += numel[number]
        owned[least].append(number)
    mine = max(
        owned,
        key=lambda numbers: sum(state_bytes(order[i], setup).evaluate(1, 1, rank) for i in numbers),
    )
    tensors = [order[i] for i in mine]
    stepped = replace(state, order=tuple(tensors))
    return ShardState(state=state, stepped=stepped, always=state.gradient_bytes, order=tuple(order))
