"""`lora-profile plan`: which way to train a model on which cards; or where a model goes on one
cluster."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import click

from lora_profiler.cli.click_support import (
    FiniteRange,
    WholeRange,
    check_new_file,
    command,
    model_argument,
    print_answer,
    warn_of,
)
from lora_profiler.cli.option_groups import CARD, OUTPUT, grouped, option
from lora_profiler.cli.options import (
    TORCH_OPTION,
    data_options,
    engine_option,
    file_options,
    given,
    lengths_of,
    model_called,
    names_asked,
    names_given,
    network_of,
    output_options,
    platform_of,
    say_own_defaults,
    setup_options,
    trainer,
    training_data,
    workloads,
)
from lora_profiler.errors import UsageError
from lora_profiler.facts.stacks import BARE, GUIDE, Trainer
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.option import flag, method_hint
from lora_profiler.question.workload import Method, Workload

if TYPE_CHECKING:
    from lora_profiler.facts.catalog import Gpu
    from lora_profiler.planning.planned import Amount, PlannedRun
    from lora_profiler.trainer_files.trainer_file import TrainerFile


_ABOUT_DATA = ("batching", "pad_to_multiple_of")
_DATA_ARGUMENTS = (
    "data", "lengths", "rows", "samples", "mean_length", "batching", "pad_to_multiple_of", "epochs",
)  # fmt: skip


def amount_of(
    ctx: click.Context, model: ModelSpec, file: "TrainerFile | None"
) -> "tuple[Amount, tuple[str, ...]]":
    """How much is trained on, and the arguments of `predict` that say the same.

    Raises UsageError for data and tokens both, for data without any token, and for epochs of
    nothing.
    """
    from lora_profiler.planning.planned import Amount, read_tokens

    o = ctx.params
    if o["tokens"] is None:
        if given(ctx, "epochs") and o["data"] is None and lengths_of(o) is None:
            raise UsageError("--epochs needs to know of what; add --tokens N, --data or --lengths.")
        data = training_data(ctx, o, model, file)
        if data is None:
            return Amount(), ()
        return Amount(data=data, epochs=o["epochs"] or 1.0), _data_arguments(ctx)
    if o["data"] is not None or lengths_of(o) is not None:
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


_TRIED = (
    *("rank", "batch_size", "accumulation", "checkpointing", "loss", "optimizer"),
    *("world_size", "sharding"),
)
"""Options that plan tries values of where they are not given."""
_OF_PLANS = (
    "gpus", "tokens", "method_list", "ranks", "effective_batch", "max_hours", "max_cost", "prices",
    "data", "lengths", "batching", "pad_to_multiple_of", "epochs", "write",
)  # fmt: skip
"""Parameters that --cluster excludes."""


@command(
    "plan",
    "Find the cheapest setup, or place a model on a cluster.",
    """
The search covers methods, ranks, micro-batches, checkpointing, loss, optimizer and sharding.
An option that you give is not searched. The best trade-offs have the least time, cost or memory, or the most trained parameters.
With --cluster: every sharding of your setup on that cluster; batch and length are per GPU.

Examples:
  lora-profile plan meta-llama/Llama-3.1-8B --tokens 10M
  lora-profile plan Qwen/Qwen2.5-7B --gpus "rtx_4090, 8xh100_sxm_80gb" --lengths mean=600,max=4096,samples=50000 --epochs 3
  lora-profile plan gpt2 --tokens 1B --gpus t4,l4 --price t4=0.35/h --price l4=0.7/h --max-hours 24
  lora-profile plan qlora.yml --tokens 10M --gpus rtx_4090 --ranks 8..64
  lora-profile plan meta-llama/Llama-3.1-70B --cluster 8xh100-80gb --checkpointing

Exit: 0 a run fits within the limits, 1 none does, 2 usage, 3 no such model.
""",
)
@model_argument("MODEL|FILE")
@option("--gpus", "GPU,8xGPU,...", "available GPUs: t4,8xh100", show_default="with a price")
@option("--tokens", "10M", "training tokens per epoch, with padding")
@option("--methods method_list", "full,lora,qlora", "methods to search", show_default="all")
@option("--ranks", "8..128|8,16", "LoRA ranks to search", show_default="8..128")
@option(
    "--effective-batch",
    "N",
    "sequences per optimizer step, on all GPUs",
    show_default="16",
    type=WholeRange(1, 2**20),
)
@option("--max-hours", "H", "deadline: longest run to consider", type=FiniteRange(0, min_open=True))
@option("--max-cost", "C", "budget: highest cost to consider", type=FiniteRange(0, min_open=True))
@option(
    "--price prices",
    "GPU=2.49/h",
    "price per hour: h100=2.49/h; repeatable",
    show_default="dated table",
    multiple=True,
)
@option("--cluster", "8xGPU|16x8xGPU", "place the model on this cluster: 8xh100")
@grouped(CARD)(
    "--interconnect",
    "nvlink4|ndr|25GB/s|...",
    "slowest link between the GPUs",
    show_default="the GPU's",
)
@engine_option("auto|analytic|compiled|traced", "prediction engine; traced needs --cluster")
@TORCH_OPTION
@setup_options(device="cuda", device_help="device to model", searched=_TRIED, trainer=GUIDE)
@data_options
@grouped(OUTPUT)("--detail", help="all best trade-offs")
@file_options("other_model", "it", "the recommended run as a trainer's config")
@output_options("table", "json", "md")
@click.pass_context
def plan_command(ctx: click.Context, /, model: str, **o: Any) -> None:
    """Find the cheapest way to train MODEL over methods, ranks, layouts and GPUs.
    MODEL: hub name, folder, config.json, or a trainer's YAML, notebook or script."""
    check_new_file(o["output"], o["force"])
    say_own_defaults(ctx, without=("gpus", "prices") if o["cluster"] else ())
    o = {name: ctx.params[name] for name in o}
    if given(ctx, "world_size") or given(ctx, "sharding"):
        raise UsageError(
            "the plan chooses world size and sharding; leave --world-size and --sharding out."
        )
    if o["cluster"] is None:
        _plan(ctx, model, o)
        return
    if idle := [name for name in _OF_PLANS if given(ctx, name)]:
        option = next(p.opts[0] for p in ctx.command.params if p.name == idle[0])
        raise UsageError(f"{option} and --cluster exclude each other; leave out one of them.")
    _place(ctx, model, o)


def _place(ctx: click.Context, model: str, o: dict[str, Any]) -> None:
    from lora_profiler.planning.placement import find_cluster, plan
    from lora_profiler.planning.planned import link_of
    from lora_profiler.report.decision.cluster import cluster_blocks, cluster_payload
    from lora_profiler.report.progress import shown_traces

    cluster = find_cluster(o["cluster"])
    network = network_of(o) or link_of(cluster)
    spec = model_called(model, o)
    with shown_traces():
        ways = workloads(spec, ctx, platform_of(o, cluster.gpu))
        options = plan(ways, cluster, network, o["engine"])
    whose = trainer(ctx)
    warn_of([option.whole.prediction for option in options], cluster.gpu)
    print_answer(
        lambda: cluster_payload(spec, options, cluster, network, whose),
        lambda: cluster_blocks(spec, options, cluster, network, whose, detail=o["detail"]),
    )
    if all(option.least is None for option in options):
        ctx.exit(1)


def _plan(ctx: click.Context, model: str, o: dict[str, Any]) -> None:
    from lora_profiler.cli.read import assume_trainer, model_of, named, print_reading
    from lora_profiler.planning.placement import SHARDINGS
    from lora_profiler.planning.plan import make_plan
    from lora_profiler.planning.planned import Budget, offers_at, read_prices, space_of
    from lora_profiler.report.decision.plan import plan_blocks
    from lora_profiler.report.json.plan import plan_payload
    from lora_profiler.report.progress import shown_work

    ((name, file),) = named([model], o["framework"])
    asked = names_asked(ctx, file) if o["write"] else set()
    if file is None and o["write"]:
        assume_trainer(ctx)
    if file is None:
        spec = model_called(name, o)
    else:
        spec = model_of(file, o["other_model"], o)
        file = print_reading(file, spec)
    _choose_methods(ctx, file is not None)
    if o["engine"] not in ("auto", "analytic", "compiled"):
        taken = "a search takes auto, analytic or compiled: nothing is traced."
        raise UsageError(f"engine is {o['engine'][:40]!r}; {taken}")
    amount, more = amount_of(ctx, spec, file)
    prices, network = read_prices(o["prices"]), network_of(o)
    offers = offers_at(o["gpus"], prices, network, lambda gpu: _ways(ctx, spec, gpu, file, asked))
    space = space_of(
        offers,
        names_given(ctx),
        ranks=o["ranks"],
        effective_batch=o["effective_batch"],
        has_own_defaults=file is not None or o["trainer"] not in (GUIDE, BARE),
    )
    if o["write"]:  # whose files have the trainer's own loss
        from lora_profiler.trainer_files.writing import shardings_of

        shardings = tuple(s for s in SHARDINGS if s in shardings_of(o["write"][0]))
        first = offers[0].workloads[0]
        space = replace(space, loss=first.setup.loss, shardings=shardings)
        if space.checkpointing is None:
            space = replace(space, checkpointing=_checkpointing_written(ctx, first, asked))
    budget = Budget(max_hours=o["max_hours"], max_cost=o["max_cost"])
    with shown_work("Searching", "layouts") as tell:
        count = partial(tell, "")
        plan = make_plan(offers, amount, space, budget, o["engine"], count)
    whose = trainer(ctx, file)
    if o["write"] and plan.recommended is not None:
        _write(ctx, plan.recommended, asked, whose)
    print_answer(
        lambda: plan_payload(plan, whose, more),
        lambda: plan_blocks(plan, trainer=whose, more=more, detail=o["detail"]),
    )
    if plan.recommended is None:
        ctx.exit(1)


_SEARCHED = frozenset(
    {"batch_size", "accumulation", "rank", "alpha", "checkpointing", "loss", "optimizer"}
    | {"optimizer_impl", "world_size", "sharding", "quant_type", "double_quant"}
)
"""Options that the recommended run is about."""


def _ways(
    ctx: click.Context, model: ModelSpec, gpu: "Gpu", file: "TrainerFile | None", asked: set[str]
) -> list[Workload]:
    """The ways to train on a GPU; with --write those that its files say, before any search."""
    ways = workloads(model, ctx, platform_of(ctx.params, gpu), file=file)
    if not ctx.params["write"]:
        return ways
    from lora_profiler.cli.read import as_written

    return as_written(ctx, ways, asked)


def _checkpointing_written(ctx: click.Context, workload: Workload, asked: set[str]) -> bool | None:
    """The one that files of --write can say; None for both."""
    from lora_profiler.cli.read import as_written

    able = []
    for value in (False, True):
        with suppress(UsageError):
            setup = replace(workload.setup, checkpointing=value)
            as_written(ctx, [replace(workload, setup=setup)], asked | {"checkpointing"})
            able.append(value)
    return able[0] if len(able) == 1 else None


def _write(ctx: click.Context, run: "PlannedRun", asked: set[str], whose: Trainer | None) -> None:
    from lora_profiler.cli.read import writable, write
    from lora_profiler.planning.answers import answers

    files = writable(ctx, [run.workload], asked | _SEARCHED)
    (answer,) = answers([files.workload], run.cluster.gpu, levers="none", trainer=whose)
    write(ctx, files, answer)


def _choose_methods(ctx: click.Context, has_file: bool) -> None:
    """What --methods or --method say; else all, or those of the file."""
    text: str | None = ctx.params["method_list"]
    known: Sequence[str] = get_args(Method)
    if text is not None:
        if given(ctx, "methods"):
            raise UsageError("--methods and --method both say which; leave one out.")
        names = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",")))
        if unknown := [name for name in names if name not in known]:
            raise UsageError(
                f"--methods names {unknown[0][:40]!r}.{method_hint(unknown[0])}"
                f" Supported: {', '.join(known)}"
            )
        ctx.params["methods"] = names
        from click.core import ParameterSource

        ctx.set_parameter_source("methods", ParameterSource.COMMANDLINE)
    elif not given(ctx, "methods") and not has_file:
        ctx.params["methods"] = tuple(known)
