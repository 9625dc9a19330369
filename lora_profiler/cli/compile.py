"""`lora-profile compile`: traces a model's step once and keeps the profile that answers for every
size from then on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from lora_profiler.cli import options
from lora_profiler.cli.click_support import (
    check_new_file,
    command,
    complete_gpu,
    complete_model,
    print_answer,
    warn,
)
from lora_profiler.cli.option_groups import CARD, grouped
from lora_profiler.errors import CompileError
from lora_profiler.facts.stacks import GUIDE

if TYPE_CHECKING:
    from lora_profiler.memory.compiled.profile import Profile


@command(
    "compile",
    "Trace a model once, for predictions of every size.",
    """
Needs torch, transformers and PEFT, but no weights and no GPU: the step runs without data.
The profile is checked against fresh traces. Then lora-profile predict uses it.

Examples:
  lora-profile compile bigscience/bloom-560m
  lora-profile compile ./my-model/config.json --method lora --checkpointing --targets q_proj,v_proj

Exit: 0 done, 2 usage, 3 no such model, 4 cannot be traced, or the profile is wrong.
""",
)
@click.argument(
    "models", metavar="MODEL...", nargs=-1, required=True, shell_complete=complete_model
)
@options.setup_options(device="cuda", device_help="device to model", trainer=GUIDE)
@grouped(CARD)(
    "--gpu", "KEY", "GPU to model, for its attention kernels", shell_complete=complete_gpu
)
@options.TORCH_OPTION
@options.output_options("table", "json", "md")
@click.pass_context
def compile_command(ctx: click.Context, /, models: tuple[str, ...], **o: Any) -> None:
    """Trace the training step of MODEL, and store a profile for every size.
    MODEL: hub name, alias, folder or config.json."""
    check_new_file(o["output"], o["force"])
    from lora_profiler.report.progress import shown_traces

    specs = [options.model_called(name, o) for name in models]
    platform = options.platform_of(o, options.gpu_of(o))
    with shown_traces(at_once=None):
        made = [
            profile
            for spec in specs
            for workload in options.workloads(spec, ctx, platform)
            for profile in _compiled(workload)
        ]
    from lora_profiler.report.catalogues import profile_blocks, profile_records

    print_answer(
        lambda: {"schema_version": "1.0", "profiles": profile_records(made)},
        lambda: profile_blocks(made),
    )


def _compiled(workload: Any) -> "Sequence[Profile]":
    """One profile for each set of facts that sizes can change. Raises CompileError where none of
    them could be trusted."""
    from lora_profiler.memory.compiled.regime import one_of_each_regime
    from lora_profiler.trace import compile_profile

    made: list[Profile] = []
    refused: list[CompileError] = []
    for example in one_of_each_regime(workload):
        try:
            made.append(compile_profile(example))
        except CompileError as e:
            refused.append(e)
    if not made:
        raise refused[0]
    for error in refused:
        warn(str(error))
    return made
