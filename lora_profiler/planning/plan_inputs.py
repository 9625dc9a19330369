"""What people write of a plan, on the command line and in the dashboard: cards, prices, tokens,
ranks, and what of a setup is taken as it is."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lora_profiler.catalog import Gpu
from lora_profiler.catalog.gpus import Price, read_price, table_prices
from lora_profiler.errors import UsageError
from lora_profiler.option import MAX_SIZE
from lora_profiler.planning.network import Network
from lora_profiler.planning.planned import Offer, Space, cluster_of, offer_at
from lora_profiler.workload import Workload

_COUNT = re.compile(
    r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?(?:e[0-9]{1,2})?)\s*([kmbt]?)\s*", re.IGNORECASE
)
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_RANKS = re.compile(r"\s*([0-9]{1,6})\s*\.\.\s*([0-9]{1,6})\s*")


def read_tokens(text: str) -> int:
    """10M, 2.5B, 1e9 or 1000000. Raises UsageError."""
    match = _COUNT.fullmatch(text)
    number = round(float(match[1]) * _COUNTS[match[2].lower()]) if match else 0
    if not 1 <= number < 2**63:
        raise UsageError(f"--tokens is {text[:40]!r}; write a number above 0, as in 10M or 2.5B.")
    return number


def read_ranks(text: str) -> tuple[int, ...]:
    """8..128 doubles from the first to the last; 8,12 are these. Raises UsageError."""
    span = _RANKS.fullmatch(text)
    if span is not None:
        first, last = int(span[1]), int(span[2])
        if 1 <= first <= last:
            return tuple(
                first << n for n in range((last // first).bit_length()) if first << n <= last
            )
    parts: list[Any] = [part.strip() for part in text.split(",")]
    if span is not None or not all(p.isdecimal() and 1 <= int(p) <= MAX_SIZE for p in parts):
        raise UsageError(f"--ranks is {text[:40]!r}; write them as in 8..128 or 8,16,32.")
    return tuple(dict.fromkeys(map(int, parts)))


def read_prices(texts: Sequence[str]) -> dict[str, Price]:
    """The user's, of one card each; the table's where there are none. Raises UsageError."""
    if not texts:
        return dict(table_prices())
    prices: dict[str, Price] = {}
    for text in texts:
        name, price = read_price(text)
        cluster = cluster_of(name)
        one = replace(price, per_hour=price.per_hour / cluster.cards)
        if prices.setdefault(cluster.gpu.key, one) != one:
            raise UsageError(f"--price says twice what {cluster.gpu.key} costs; leave one out.")
    return prices


def offers_at(
    gpus: str | None,
    prices: Mapping[str, Price],
    network: Network | None,
    ways: Callable[[Gpu], Sequence[Workload]],
) -> tuple[Offer, ...]:
    """An offer for each of `gpus`, which are parted by commas; without them for each card with a
    price. `ways` are those to train on a card. Raises UsageError."""
    names: Sequence[str] = gpus.split(",") if gpus is not None else list(prices)
    clusters = dict.fromkeys(cluster_of(name) for name in names)
    return tuple(offer_at(cluster, ways(cluster.gpu), prices, network) for cluster in clusters)


def space_of(
    offers: Sequence[Offer],
    given: Collection[str],
    *,
    ranks: str | None = None,
    effective_batch: int | None = None,
    has_own_defaults: bool = False,
) -> Space:
    """What is tried. Options of a setup that are `given` are taken as they are; `has_own_defaults`
    where a trainer or its file says what else is. Raises UsageError."""
    if ranks is not None and "rank" in given:
        raise UsageError("--ranks and --rank both say which; leave one out.")
    requested = offers[0].workloads[0].setup
    has_size = has_own_defaults or bool({"batch_size", "accumulation"} & set(given))
    own = requested.batch_size * requested.accumulation
    tried = Space().ranks
    if ranks is not None:
        tried = read_ranks(ranks)
    elif "rank" in given or has_own_defaults:
        of_ways = (way.setup.lora.r for way in offers[0].workloads if way.setup.lora)
        tried = tuple(dict.fromkeys(of_ways)) or tried
    return Space(
        effective_batch=effective_batch or (own if has_size else Space().effective_batch),
        ranks=tried,
        micro_batch=(
            requested.batch_size if effective_batch is not None and "batch_size" in given else None
        ),
        checkpointing=requested.checkpointing if "checkpointing" in given else None,
        loss=requested.loss if "loss" in given or has_own_defaults else None,
        optimizer=requested.optimizer if "optimizer" in given else None,
    )
