"""What FSDP gathers at once: units of parameters, whole, and a rank's share of each.

Sources: torch 2.13 `distributed/fsdp/_fully_shard/_fsdp_param.py` (a shard is a chunk of the first
dimension, rounded up), `distributed/fsdp/_flat_param.py`.
"""

from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

from lora_profiler.algebra.polynomial import constant
from lora_profiler.analytic.persistent import TrainableTensor

FLOAT32_BYTES = 4


class Unit(NamedTuple):
    """What one all-gather brings. Bytes: `share` of a rank, `whole` of all, both with padding;
    `reduced` of the gradients that one reduce-scatter takes, `reduced_share` of what it leaves;
    `sent` of the part that a rank casts, or copies from the host, before it is gathered; `kept` of
    it while the unit is whole. `inside` are units that are gathered and reduced one after another
    while this one is whole, counted in it; `whole` has the largest."""

    share: int
    whole: int
    reduced: int
    reduced_share: int
    sent: int = 0
    kept: int = 0
    inside: tuple["Unit", ...] = ()

    @property
    def held(self) -> int:
        return self.whole + self.kept

    @property
    def gathers(self) -> list[int]:
        """Bytes of each all-gather."""
        own = self.whole - max((u.whole for u in self.inside), default=0)
        return [own, *(u.whole for u in self.inside)]

    @property
    def reductions(self) -> list[int]:
        """Bytes of each reduce-scatter."""
        return [u.reduced for u in self.inside or (self,) if u.reduced]


class Piece(NamedTuple):
    """One parameter of a unit: its shape and bytes an element, and whether it trains."""

    shape: tuple[int, ...]
    itemsize: int
    trains: bool

    def share(self, world_size: int) -> int:
        """Bytes of rank 0's chunk of the first dimension."""
        return -(-self.shape[0] // world_size) * prod(self.shape[1:]) * self.itemsize


def flat_unit(
    pieces: Iterable[Piece], world_size: int, *, wide: bool, from_host: bool = False
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
    )


def flat_layer(
    pieces: Sequence[Piece], world_size: int, *, has_adapters: bool, lowers: bool, from_host: bool
) -> Unit:
    """A layer of FSDP1. Beside a frozen base each tensor that trains is a unit of its own, gathered
    while the layer is whole, one after another (PEFT `utils/other.py`, fsdp_auto_wrap_policy), and
    what is frozen leaves no part on the card (use_orig_params off, as PEFT's guide has it).
    `lowers`: float32 is gathered in 16 bit."""

    def made(own: Sequence[Piece]) -> Unit:
        wide = lowers and any(p.itemsize == FLOAT32_BYTES for p in own)
        return flat_unit(own, world_size, wide=wide, from_host=from_host)

    if not has_adapters:
        return made(pieces)
    layer = made([p for p in pieces if not p.trains])
    adapters = [made([p]) for p in pieces if p.trains]
    return Unit(
        share=layer.share + sum(u.share for u in adapters),
        whole=layer.whole + max((u.whole for u in adapters), default=0),
        reduced=sum(u.reduced for u in adapters),
        reduced_share=sum(u.reduced_share for u in adapters),
        kept=max((u.kept for u in adapters), default=0),
        inside=tuple(adapters),
    )


def unit(
    pieces: Iterable[Piece],
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
