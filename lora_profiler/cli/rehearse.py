"""`lora-profile rehearse`: a training script, unchanged, on a card that is not there."""

import os
import shlex
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lora_profiler.cli.click_support import (
    WholeRange,
    check_new_file,
    command,
    complete_gpu,
    print_answer,
    warn,
    write_out,
)
from lora_profiler.cli.option_groups import option
from lora_profiler.cli.options import given, output_options
from lora_profiler.errors import RehearsalError, UsageError

if TYPE_CHECKING:
    from lora_profiler.rehearsal.launch import Request
    from lora_profiler.rehearsal.result import Rehearsal, Tried


@command(
    "rehearse",
    "Run your own training script on a simulated GPU.",
    """
The script runs unchanged, with torch's CUDA build over libraries that do nothing.
Allocator and choice of kernels are real, so memory is that of the GPU; values are not computed.

Examples:
  lora-profile rehearse --gpu h100_sxm_80gb -- python train.py --batch-size 4
  lora-profile rehearse --gpu t4 --detail -- python train.py
  lora-profile rehearse --gpu a100_sxm_80gb --gpus 2 -- torchrun --nproc-per-node 2 train.py
  lora-profile rehearse --gpu rtx_4090 --python ~/venvs/cuda/bin/python -- trl sft --config sft.yaml
  lora-profile rehearse --setup ~/venvs/rehearsal           an environment with torch's CUDA build

Exit: 0 fits, 1 out of memory, or refused by the GPU's software; 2 usage, 4 no compiler, no CUDA torch, or the script ended early; 128 + n ended by signal n.
""",
)
@click.argument("command", metavar="-- COMMAND...", nargs=-1, type=click.UNPROCESSED)
@option("--gpu", "KEY", "GPU to simulate: t4, 24GiB", shell_complete=complete_gpu)
@option("--gpus", help="number of GPUs", type=WholeRange(1, 64), default=1)
@option("--steps", help="optimizer steps to run", type=WholeRange(1), default=3)
@option("--python", "PYTHON", "Python to run in", show_default="of COMMAND")
@option("--setup", "FOLDER", "only make an environment, with CUDA torch")
@option("--detail --phases detail", help="every phase, rank, category and kernel")
@option("--report", "FILE", "also write an HTML page")
@option("--snapshot", "FILE", "write a log for pytorch.org/memory_viz")
@option("--online", help="let the script download")
@option("--pretend-data", help="simulate missing tokenizers and data sets")
@option(
    "--pretend-columns", "NAME,...", "columns of those data sets", show_default="from the script"
)
@option(
    "--pretend-tokens", help="tokens per simulated text", type=WholeRange(1, 1 << 20), default=1024
)
@option("--epochs-like", help="vary their lengths around that mean")
@option("--try", "NAME,...", "try checkpointing,fused-loss,8bit-optimizer")
@option("--minutes", help="end the script after so many", type=click.FloatRange(0, min_open=True))
@option("--no-time", help="skip the step that is timed")
@output_options("table", "json", "md")
@click.pass_context
def rehearse_command(ctx: click.Context, /, command: tuple[str, ...], **o: Any) -> None:
    """Run COMMAND for a few training steps on a simulated GPU (Linux).
    COMMAND: what you would type on a machine with the GPU."""
    if o["setup"]:
        _set_up(ctx, o["setup"], command)
        return
    if not command or not o["gpu"]:
        missing = "a COMMAND after --" if o["gpu"] else "--gpu KEY, the GPU to simulate"
        raise UsageError(f"a rehearsal needs {missing}.")
    for name in ("output", "report", "snapshot"):
        check_new_file(o[name], o["force"])
    if o["report"]:
        from lora_profiler.report.page import check_installed

        check_installed()
    from lora_profiler.facts.catalog import find_gpu
    from lora_profiler.facts.catalog.gpus import context_of
    from lora_profiler.rehearsal.environment import check_platform, find_python
    from lora_profiler.rehearsal.launch import Request, pretended
    from lora_profiler.runs.campaign.interrupts import one_interrupt

    if o["gpu"].lower() == "auto":
        raise UsageError("a rehearsal simulates a GPU; name it instead of --gpu auto.")
    gpu = find_gpu(o["gpu"])
    card = pretended(gpu, context_of(gpu.key).most_bytes)
    check_platform()
    request = Request(
        command=command,
        python=find_python(command, o["python"]),
        card=card,
        count=o["gpus"],
        steps=o["steps"],
        snapshot=Path(o["snapshot"]) if o["snapshot"] else None,
        is_online=o["online"],
        pretends_data=o["pretend_data"] or o["pretend_columns"] is not None or o["epochs_like"],
        columns=tuple(filter(None, (o["pretend_columns"] or "").split(","))),
        tokens=o["pretend_tokens"],
        varied_lengths=o["epochs_like"],
        with_work=not o["no_time"],
        minutes=o["minutes"],
    )
    changes = _changes(o["try"])
    results: list[Rehearsal] = []
    tried: list[Tried] = []
    with one_interrupt() as interrupt, suppress(KeyboardInterrupt):
        results = _rehearse(request)
        tried = [_tried(request, change) for change in changes]
    if interrupt.requested:
        ctx.exit(interrupt.exit_code)
    from lora_profiler.planning.nearest import nearest, rehearsed_time
    from lora_profiler.rehearsal.result import EXIT_CODES, worst_of
    from lora_profiler.report.rehearsed import rehearsal_blocks, rehearsal_document, script_name

    result = worst_of(results)
    closest = time = None
    if result.status == "done":
        time = None if o["no_time"] else rehearsed_time(result.work, gpu)
        facts, torch = result.document["facts"], result.document["torch"]
        closest = nearest(facts, result.world_size, card.capability, torch)
    document = rehearsal_document(results, card, closest, time, tried)
    blocks = partial(rehearsal_blocks, results, card, script_name(command), closest, time, tried)
    print_answer(lambda: document, lambda: blocks(detail=o["detail"]))
    if o["report"]:
        from lora_profiler.report.page import write_page
        from lora_profiler.report.rehearsed import rehearsal_content

        content = rehearsal_content(blocks(detail=True), command, document)
        write_out(write_page(content), o["report"])
    ctx.exit(EXIT_CODES[result.status])


def _changes(names: str | None) -> tuple[str, ...]:
    """Raises UsageError."""
    from lora_profiler.rehearsal.inside.rehearsed.changes import CHANGES

    wanted = tuple(filter(None, (names or "").split(",")))
    if unknown := [name for name in wanted if name not in CHANGES]:
        raise UsageError(f"--try takes {', '.join(CHANGES)}; not {', '.join(unknown)}.")
    return wanted


def _tried(request: "Request", change: str) -> "Tried":
    """The same with one change; nothing else of it is shown."""
    from dataclasses import replace

    from lora_profiler.rehearsal.result import Tried, worst_of

    click.echo(f"With {change}:", err=True)
    try:
        changed = replace(request, changes=(change,), with_work=False, snapshot=None)
        result = worst_of(_rehearse(changed))
    except RehearsalError as error:
        return Tried(change, None, str(error))
    if not result.document["changed"]:
        return Tried(change, None, "The script makes no TrainingArguments of transformers.")
    return Tried(change, result)


def _set_up(ctx: click.Context, folder: str, command: tuple[str, ...]) -> None:
    options = [name for name in ctx.params if name not in ("setup", "command") and given(ctx, name)]
    if command or options:
        other = f"--{options[0].replace('_', '-')}" if options else "COMMAND"
        raise UsageError(f"--setup makes an environment and rehearses nothing; leave out {other}.")
    from lora_profiler.rehearsal.setup import set_up
    from lora_profiler.report.progress import shown_work

    place = Path(folder).expanduser()
    with shown_work(f"Making {place.name}", "steps", seconds=0) as tell:
        environment = set_up(place, tell)
    python = environment.python
    click.echo(f"{place} has torch {environment.torch}, which pip keeps there.")
    click.echo("Install what your script imports, such as:")
    # the one setting of pip that goes before the environment's own
    without = "env -u PIP_CONSTRAINT " if "PIP_CONSTRAINT" in os.environ else ""
    click.echo(f"  {without}{shlex.quote(str(python))} -m pip install trl datasets")
    click.echo("then:")
    click.echo(f"  lora-profile rehearse --gpu KEY --python {shlex.quote(str(python))} -- COMMAND")


def _rehearse(request: "Request") -> "list[Rehearsal]":
    from lora_profiler.rehearsal.build import find_compiler, stubs
    from lora_profiler.rehearsal.environment import read_environment
    from lora_profiler.rehearsal.launch import rehearse

    environment = read_environment(request.python)
    if environment.caution:
        warn(environment.caution)
    libraries = stubs(environment, find_compiler())
    if libraries.built_now:
        click.echo(
            f"Built {len(libraries.libraries)} stub libraries for torch {environment.torch}, once.",
            err=True,
        )
    cards = f"{request.count} x {request.card.name}" if request.count > 1 else request.card.name
    click.echo(f"Rehearsing {request.steps} steps on a simulated {cards}.", err=True)
    sys.stderr.flush()
    return rehearse(request, libraries, output=2)
