"""What FSDP gathers at once: units of parameters, whole, and a rank's share of each.

Sources: torch 2.13 `distributed/fsdp/_fully_shard/_fsdp_param.py` (a shard is a chunk of the first
dimension, rounded up), `distributed/fsdp/_flat_param.py`.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import NamedTuple

from lora_profiler.algebra.polynomial import constant
from lora_profiler.analytic.persistent import TrainableTensor


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


class Piece(NamedTuple):
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
        sent=share // 2 if wide else 0,
    )


def first_part(pieces: Iterable[Piece], world_size: int) -> Iterator[int]:
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
