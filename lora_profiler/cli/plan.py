"""`lora-profile plan`: how many cards of a cluster a model needs, and how to share it among
them."""

from typing import Any

import click

from lora_profiler.cli.click_support import (
    HELP_NAMES,
    ExampleCommand,
    check_new_file,
    complete_model,
    print_blocks,
    print_json,
)
from lora_profiler.cli.options import (
    TORCH_OPTION,
    given,
    output_options,
    platform_of,
    setup_options,
    trainer,
    workloads,
)
from lora_profiler.errors import UsageError


@click.command(
    "plan",
    short_help="How many cards a model needs, and how to share it among them.",
    cls=ExampleCommand,
    context_settings=HELP_NAMES,
    epilog="""
A cluster is cards times name, or machines times cards times name. Batch and sequence are those of each rank.

Examples:
  lora-profile plan meta-llama/Llama-3.1-70B --cluster 8xh100-80gb --checkpointing
  lora-profile plan meta-llama/Llama-3.1-405B --cluster 16x8xh100_sxm_80gb --interconnect ndr --checkpointing
  lora-profile plan Qwen/Qwen2.5-32B --cluster 4xrtx_4090 --method qlora --format json

Exit code: 0 done, and at least one way fits; 1 none fits; 2 usage; 3 no such model.
""",
)
@click.argument("model", metavar="MODEL", shell_complete=complete_model)
@click.option(
    "--cluster",
    required=True,
    metavar="8xCARD|16x8xCARD",
    help="Cards, or machines and cards in each.",
)
@click.option(
    "--interconnect", metavar="nvlink4|ndr|25GB/s|...", help="The slowest link among the ranks."
)
@click.option(
    "--engine",
    default="auto",
    metavar="auto|analytic|traced",
    show_default=True,
    help="What answers.",
)
@TORCH_OPTION
@setup_options(device="cuda", device_help="Whose memory rules hold.")
@output_options("table", "json", "md")
@click.pass_context
def plan_command(ctx: click.Context, /, model: str, **o: Any) -> None:
    """Place MODEL on a cluster: every sharding, the fewest cards each fits on, memory per rank and
    the time of a step."""
    check_new_file(o["output"], o["force"])
    from lora_profiler.catalog import find_model
    from lora_profiler.cli.warnings import warn_of
    from lora_profiler.planning.network import find_network
    from lora_profiler.planning.placement import find_cluster, plan
    from lora_profiler.report.cluster import cluster_blocks, cluster_payload
    from lora_profiler.report.tracing import shown

    if given(ctx, "world_size") or given(ctx, "sharding"):
        raise UsageError(
            "the plan chooses world size and sharding; leave --world-size and --sharding out."
        )
    cluster = find_cluster(o["cluster"])
    network = find_network(o["interconnect"]) if o["interconnect"] else None
    spec = find_model(model, revision=o["revision"], offline=o["offline"])
    with shown():
        options = plan(
            workloads(spec, ctx, platform_of(o, cluster.gpu)), cluster, network, o["engine"]
        )
    whose = trainer(ctx)
    warn_of([option.whole.prediction for option in options], cluster.gpu)
    if o["form"] == "json":
        print_json(cluster_payload(spec, options, cluster, network, whose), o["output"])
    else:
        print_blocks(cluster_blocks(spec, options, cluster, network, whose), o["form"], o["output"])
    if all(option.least is None for option in options):
        ctx.exit(1)
