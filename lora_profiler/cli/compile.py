"""`lora-profile compile`: traces a model's step once and keeps the profile that answers for every
size from then on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from lora_profiler.cli.click_support import (
    check_new_file,
    command,
    complete_gpu,
    complete_model,
    print_answer,
    warn,
)
from lora_profiler.cli.option_groups import CARD, grouped
from lora_profiler.cli.options import (
    TORCH_OPTION,
    gpu_of,
    model_called,
    output_options,
    platform_of,
    setup_options,
    workloads,
)
from lora_profiler.errors import CompileError
from lora_profiler.stacks import GUIDE

if TYPE_CHECKING:
    from lora_profiler.compiled.profile import Profile


@command(
    "compile",
    "Trace a model once, and keep the profile that answers for every size.",
    """
MODEL is a hub id, a hub URL, an alias, a folder, or a path to a config.json. Needs torch, transformers and PEFT, but neither
weights nor an accelerator: the real training step runs on tensors without data. The outcome is checked against fresh traces
and kept in the user's cache; `lora-profile predict` then answers from it in a blink, for every batch, length and rank.

Examples:
  lora-profile compile bigscience/bloom-560m
  lora-profile compile ./my-model/config.json --method lora --checkpointing --targets q_proj,v_proj

Exit code: 0 done; 2 usage; 3 no such model; 4 a step that cannot be traced, or of which no profile could be trusted.
""",
)
@click.argument(
    "models", metavar="MODEL...", nargs=-1, required=True, shell_complete=complete_model
)
@setup_options(device="cuda", device_help="Whose memory rules hold.", trainer=GUIDE)
@grouped(CARD)(
    "--gpu", "KEY", "The card whose attention kernels hold.", shell_complete=complete_gpu
)
@TORCH_OPTION
@output_options("table", "json", "md")
@click.pass_context
def compile_command(ctx: click.Context, /, models: tuple[str, ...], **o: Any) -> None:
    """Trace MODEL's training step, full and LoRA or as asked, and keep the profiles that answer for
    every size."""
    check_new_file(o["output"], o["force"])
    from lora_profiler.report.tracing import shown

    specs = [model_called(name, o) for name in models]
    platform = platform_of(o, gpu_of(o))
    with shown(at_once=None):
        made = [
            profile
            for spec in specs
            for workload in workloads(spec, ctx, platform)
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
    from lora_profiler.compiled.regime import one_of_each_regime
    from lora_profiler.traced import compile_profile

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
