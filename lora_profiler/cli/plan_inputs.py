"""What the options of `lora-profile plan` say: cards, amount, what is tried, limits, prices."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from lora_profiler.cli.data_options import training_data
from lora_profiler.cli.options import given, platform_of
from lora_profiler.errors import UsageError
from lora_profiler.option import flag
from lora_profiler.planning.setups import DEFAULTS

if TYPE_CHECKING:
    from lora_profiler.model_spec import ModelSpec
    from lora_profiler.planning.planned import Amount, Budget, Offer, Space
    from lora_profiler.platform import Platform
    from lora_profiler.workload import Workload

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
    from lora_profiler.planning.plan_inputs import read_tokens
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
    return Amount(tokens=read_tokens(o["tokens"]), epochs=o["epochs"] or 1.0), ()


def _data_arguments(ctx: click.Context) -> tuple[str, ...]:
    o = ctx.params
    return tuple(
        word
        for name in _DATA_ARGUMENTS
        if given(ctx, name)
        for word in (flag(name), f"{o[name]:g}" if name == "epochs" else str(o[name]))
    )


def budget_of(ctx: click.Context) -> "Budget":
    from lora_profiler.planning.planned import Budget

    return Budget(max_hours=ctx.params["max_hours"], max_cost=ctx.params["max_cost"])


def offers_from(
    ctx: click.Context, ways: "Callable[[Platform], list[Workload]]"
) -> "tuple[Offer, ...]":
    """An offer for each of --gpus; without it for each card with a price. `ways` are those to train
    on a platform. Raises UsageError."""
    from lora_profiler.planning.network import find_network
    from lora_profiler.planning.plan_inputs import offers_at, read_prices

    o = ctx.params
    prices = read_prices(o["prices"])
    network = find_network(o["interconnect"]) if o["interconnect"] else None
    return offers_at(o["gpus"], prices, network, lambda gpu: ways(platform_of(o, gpu)))


def space_from(ctx: click.Context, offers: "Sequence[Offer]", *, has_own_defaults: bool) -> "Space":
    """What is tried; options that were given are taken as they are. Raises UsageError."""
    from lora_profiler.planning.plan_inputs import space_of

    return space_of(
        offers,
        {name for name in DEFAULTS if given(ctx, name)},
        ranks=ctx.params["ranks"],
        effective_batch=ctx.params["effective_batch"],
        has_own_defaults=has_own_defaults,
    )
