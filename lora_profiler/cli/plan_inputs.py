"""What the options of `lora-profile plan` say: cards, amount, what is tried, limits, prices."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from lora_profiler.cli.data_options import training_data
from lora_profiler.cli.options import given, platform_of
from lora_profiler.errors import UsageError
from lora_profiler.option import MAX_SIZE, flag

if TYPE_CHECKING:
    from lora_profiler.catalog.prices import Price
    from lora_profiler.model_spec import ModelSpec
    from lora_profiler.planning.planned import Amount, Budget, Offer, Space
    from lora_profiler.platform import Platform
    from lora_profiler.workload import Workload

_COUNT = re.compile(
    r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?(?:e[0-9]{1,2})?)\s*([kmbt]?)\s*", re.IGNORECASE
)
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_RANKS = re.compile(r"\s*([0-9]{1,6})\s*\.\.\s*([0-9]{1,6})\s*")
_ABOUT_DATA = ("batching", "pad_to_multiple_of")
_DATA_ARGUMENTS = ("data", "lengths", "batching", "pad_to_multiple_of", "epochs")


def engine_of(name: str) -> str:
    """Raises UsageError for an engine that cannot search."""
    if name not in ("auto", "analytic", "compiled"):
        raise UsageError(
            f"engine is {name[:40]!r}; a search takes auto, analytic or compiled: nothing is traced."
        )
    return name


def amount_of(ctx: click.Context, model: "ModelSpec") -> "tuple[Amount, tuple[str, ...]]":
    """How much is trained on, and the arguments of `predict` that say the same.

    Raises UsageError for data and tokens both, for data without any token, and for epochs of
    nothing.
    """
    from lora_profiler.planning.planned import Amount

    o = ctx.params
    if o["tokens"] is None:
        if given(ctx, "epochs") and o["data"] is None and o["lengths"] is None:
            raise UsageError("--epochs needs to know of what; add --tokens N, --data or --lengths.")
        data = training_data(ctx, o, model)
        if data is None:
            return Amount(), ()
        if data.lengths.num_tokens == 0:
            raise UsageError("the data have no token in them; name others, or give --tokens N.")
        return Amount(data=data, epochs=o["epochs"] or 1.0), _data_arguments(ctx)
    if o["data"] is not None or o["lengths"] is not None:
        raise UsageError("--tokens and data both say how much is trained on; leave one out.")
    if idle := [name for name in _ABOUT_DATA if given(ctx, name)]:
        raise UsageError(
            f"{flag(idle[0])} is about the lengths of samples; add --data or --lengths, or leave it"
            " out."
        )
    return Amount(tokens=_count(o["tokens"]), epochs=o["epochs"] or 1.0), ()


def _data_arguments(ctx: click.Context) -> tuple[str, ...]:
    o = ctx.params
    return tuple(
        word
        for name in _DATA_ARGUMENTS
        if given(ctx, name)
        for word in (flag(name), f"{o[name]:g}" if name == "epochs" else str(o[name]))
    )


def _count(text: str) -> int:
    """10M, 2.5B, 1e9 or 1000000. Raises UsageError."""
    found = _COUNT.fullmatch(text)
    number = round(float(found[1]) * _COUNTS[found[2].lower()]) if found else 0
    if not 1 <= number < 2**63:
        raise UsageError(f"--tokens is {text[:40]!r}; write a number above 0, as in 10M or 2.5B.")
    return number


def budget_of(ctx: click.Context) -> "Budget":
    from lora_profiler.planning.planned import Budget

    return Budget(max_hours=ctx.params["max_hours"], max_cost=ctx.params["max_cost"])


def offers_from(
    ctx: click.Context, ways: "Callable[[Platform], list[Workload]]"
) -> "tuple[Offer, ...]":
    """An offer for each of --gpus; without it for each card with a price. `ways` are those to train
    on a platform. Raises UsageError."""
    from lora_profiler.planning.network import find_network
    from lora_profiler.planning.planned import Offer, cluster_of, link_of

    o = ctx.params
    prices = _prices(o["prices"])
    names: Sequence[str] = o["gpus"].split(",") if o["gpus"] is not None else list(prices)
    network = find_network(o["interconnect"]) if o["interconnect"] else None
    clusters = dict.fromkeys(cluster_of(name) for name in names)
    return tuple(
        Offer(
            cluster=cluster,
            workloads=tuple(ways(platform_of(o, cluster.gpu))),
            price=prices.get(cluster.gpu.key),
            network=network or link_of(cluster),
        )
        for cluster in clusters
    )


def _prices(texts: Sequence[str]) -> "dict[str, Price]":
    """The user's, of cards alone; the table's where there are none. Raises UsageError."""
    from dataclasses import replace

    from lora_profiler.catalog.prices import read_price, table_prices
    from lora_profiler.planning.planned import cluster_of

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


def space_of(ctx: click.Context, offers: "Sequence[Offer]", *, has_own_defaults: bool) -> "Space":
    """What is tried; options that were given are taken as they are. Raises UsageError."""
    from lora_profiler.planning.planned import Space

    o, asked = ctx.params, offers[0].workloads[0].setup
    sizes_given = given(ctx, "batch_size") or given(ctx, "accumulation") or has_own_defaults
    own = asked.batch_size * asked.accumulation
    effective = o["effective_batch"] or (own if sizes_given else Space().effective_batch)
    fixes_micro = o["effective_batch"] is not None and given(ctx, "batch_size")
    ranks = _ranks(ctx)
    if ranks is None:
        of_ways = [way.setup.lora.r for way in offers[0].workloads if way.setup.lora]
        keeps_rank = given(ctx, "rank") or has_own_defaults
        ranks = tuple(dict.fromkeys(of_ways)) if keeps_rank and of_ways else Space().ranks
    return Space(
        effective_batch=effective,
        ranks=ranks,
        micro_batch=asked.batch_size if fixes_micro else None,
        checkpointing=o["checkpointing"] if given(ctx, "checkpointing") else None,
        loss=asked.loss if given(ctx, "loss") or has_own_defaults else None,
        optimizer=asked.optimizer if given(ctx, "optimizer") else None,
    )


def _ranks(ctx: click.Context) -> tuple[int, ...] | None:
    """8..128 doubles from the first to the last; 8,12 are these. Raises UsageError."""
    text: str | None = ctx.params["ranks"]
    if text is None:
        return None
    if given(ctx, "rank"):
        raise UsageError("--ranks and --rank both say which; leave one out.")
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
