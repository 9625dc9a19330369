"""`lora-profile crossover`: from which length and batch on LoRA costs more than full training."""

from typing import Any

import click
from click.core import ParameterSource

from lora_profiler.cli import click_support, options
from lora_profiler.cli.option_groups import CARD, grouped, option
from lora_profiler.errors import UsageError
from lora_profiler.facts.stacks import GUIDE

_SIZES = ("batch_size", "seq_len")


@click_support.command(
    "crossover",
    "Find where LoRA stops saving memory or time.",
    """
Examples:
  lora-profile crossover Qwen/Qwen2.5-0.5B
  lora-profile crossover meta-llama/Llama-3.1-8B --gpu a100_sxm_80gb --no-checkpointing
  lora-profile crossover gpt2 --lengths 64,256,1024 --batches 1,8 --format json
""",
)
@click_support.model_argument("MODEL")
@grouped(CARD)(
    "--gpu",
    "KEY|custom:24GiB",
    "GPU to model; compares times too",
    shell_complete=click_support.complete_gpu,
)
@option("--lengths", "N,N,...", "sequence lengths", show_default="128..32768")
@option("--batches", "N,N,...", "batch sizes", show_default="1,2,4,8,16")
@options.engine_option("auto|analytic|compiled", "prediction engine")
@options.TORCH_OPTION
@options.setup_options(device="cuda", device_help="device to model", unlisted=_SIZES, trainer=GUIDE)
@options.output_options("table", "json", "md")
@click.pass_context
def crossover_command(ctx: click.Context, /, model: str, **o: Any) -> None:
    """Find where one method of training MODEL overtakes another in memory.
    With --gpu also in time. All methods are compared with checkpointing, or
    with --no-checkpointing all without it."""
    click_support.check_new_file(o["output"], o["force"])
    options.say_own_defaults(ctx)
    o = {name: ctx.params[name] for name in o}
    from lora_profiler.planning.crossover import BATCH_SIZES, LENGTHS, checkpoints_some, crossover
    from lora_profiler.report.decision.crossover import crossover_blocks, crossover_payload
    from lora_profiler.report.progress import shown_traces

    if any(options.given(ctx, name) for name in _SIZES):
        raise UsageError("a crossover is over sizes; take --lengths and --batches.")
    if not options.given(ctx, "methods"):
        ctx.params["methods"] = ("full", "lora", "qlora")
    gpu, spec = options.gpu_of(o), options.model_called(model, o)
    ways = options.workloads(spec, ctx, options.platform_of(o, gpu))
    if checkpoints_some(ways):
        ctx.params["checkpointing"] = True
        ctx.set_parameter_source("checkpointing", ParameterSource.COMMANDLINE)
        ways = options.workloads(spec, ctx, options.platform_of(o, gpu))
    with shown_traces():
        answer = crossover(
            ways,
            gpu,
            lengths=_numbers(o["lengths"], "--lengths") or LENGTHS,
            batch_sizes=_numbers(o["batches"], "--batches") or BATCH_SIZES,
            engine=o["engine"],
        )
    click_support.print_answer(lambda: crossover_payload(answer), lambda: crossover_blocks(answer))


def _numbers(text: str | None, flag: str) -> list[int]:
    """Raises UsageError for what are no whole numbers from 1 up."""
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= 2**31 - 1 for part in parts):
        raise UsageError(f"{flag} is {text[:60]!r}; write whole numbers with commas between them.")
    return [int(part) for part in parts]
