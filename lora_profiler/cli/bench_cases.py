"""The cases that the options of `bench` mean."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lora_profiler.cli.options import given, stack_of, workloads
from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.option import flag
from lora_profiler.planning.setups import CPU_DEFAULTS

if TYPE_CHECKING:
    from lora_profiler.harness import Case
    from lora_profiler.harness.pretended import Pretended
    from lora_profiler.model_spec import ModelSpec
    from lora_profiler.platform import Platform
    from lora_profiler.records.record import Conditions
    from lora_profiler.stacks import Stack
    from lora_profiler.workload import Device


def rehearsed_on(o: dict[str, Any]) -> "Pretended":
    """The card and the environment that --rehearse names, with its stub libraries. Raises
    UsageError and RehearsalError."""
    from lora_profiler.catalog import find_gpu
    from lora_profiler.catalog.contexts import context_of
    from lora_profiler.planning.rehearsed import pretended_on
    from lora_profiler.rehearsal.cards import pretended

    gpu = find_gpu(o["gpu"])
    card = pretended(gpu, context_of(gpu.key).most_bytes)
    return pretended_on(card, o["nproc"] or o["world_size"], o["python"])


def model_cases(
    ctx: click.Context,
    models: tuple[str, ...],
    device: "Device",
    platform: "Platform | None" = None,
) -> list["Case"]:
    """One case for each model, method and repeat: odd repeats run backwards (A, B, B, A), so that a
    drift hits all alike. `platform` is that of a pretended card, else the device's here.

    On a CPU some defaults are others, which is said.

    Raises UsageError, and what `find_model` raises.
    """
    from lora_profiler.catalog import find_model
    from lora_profiler.harness import make_case
    from lora_profiler.harness.device_choice import present_platform

    o = ctx.params
    if o["nproc"] is not None:
        o["world_size"] = o["nproc"]
    stack = stack_of(ctx)
    if device == "cpu":
        own = stack.options if stack else ()
        usual = {n: v for n, v in CPU_DEFAULTS.items() if n not in own and not given(ctx, n)}
        o |= usual
        for name, value in usual.items():
            click.echo(
                f"{flag(name)} is {value}, since this is a CPU, unless you give another.", err=True
            )
    conditions = replace(_conditions(o), trained_by=_trainer_itself(stack, o))
    weights, text = _weights(o, models), _text(o)
    specs = [find_model(name, revision=o["revision"], offline=o["offline"]) for name in models]
    if text is not None and weights is None:
        _check_tokenizer(specs)
    platform = platform or present_platform(device)
    asked = [workload for spec in specs for workload in workloads(spec, ctx, platform, device)]
    if stack:
        who = f"the harness' own loop, with the defaults of {stack.title}"
        if conditions.trained_by:
            who = f"{stack.title} itself"
        click.echo(f"Trained by {who}.", err=True)
    return [
        make_case(workload, conditions, weights=weights, text=text, repeat=repeat)
        for repeat in range(o["repeats"])
        for workload in (reversed(asked) if repeat % 2 else asked)
    ]


def _trainer_itself(stack: "Stack | None", o: dict[str, Any]) -> str:
    """The trainer whose own code is to run, "" for the harness' loop."""
    from lora_profiler.harness.trainer_refusals import OWN_LOOPS

    if stack is None or o["own_loop"] or stack.name in OWN_LOOPS:
        return ""
    return stack.key


def _conditions(o: dict[str, Any]) -> "Conditions":
    from lora_profiler.records.record import Conditions
    from lora_profiler.units import parse_bytes

    changes: dict[str, Any] = {"seed": o["seed"]}
    if o["budget"]:
        changes["budget_bytes"] = parse_bytes(o["budget"])
    if o["steps"] is not None:
        changes["min_timed_steps"] = o["steps"]
    if o["timing_seconds"] is not None:
        changes["max_timing_seconds"] = o["timing_seconds"]
    if o["no_timing"] or o["rehearse"]:
        changes["min_timed_steps"] = 0
    if o["largest_batch"]:  # two whole optimizer steps are what "fits" means
        changes |= {"memory_steps": 2, "min_timed_steps": 0}
    return Conditions(**changes)


def _weights(o: dict[str, Any], models: tuple[str, ...]) -> str | None:
    """None for random weights, "hub", or the path."""
    asked: str = o["weights"]
    if asked == "random":
        return None
    if asked == "hub":
        if o["offline"]:
            raise UsageError(
                "--weights hub asks the hub; leave out --offline, and set HF_HUB_OFFLINE=1 to take"
                " what is cached."
            )
        if o["revision"] != "main":
            raise UsageError(
                "--weights hub loads the main revision; fetch another one yourself, and give its"
                " folder."
            )
        return "hub"
    path = Path(asked).expanduser()
    if not path.is_dir() and not (path.is_file() and path.suffix == ".gguf"):
        raise UsageError(
            f"weights are {asked!r}; give random, hub, a folder with a model's files, or a .gguf"
            f" file.{did_you_mean(asked, ('random', 'hub'))}"
        )
    if len(models) > 1:
        raise UsageError(
            f"{asked} can hold the weights of one model, not of {len(models)}; name one MODEL."
        )
    return str(path)


def _text(o: dict[str, Any]) -> str | None:
    if o["text"] is None:
        return None
    path: Path = o["text"].expanduser()
    if not path.is_file():
        raise UsageError(f"--text {o['text']}: there is no such file.")
    return str(path)


def _check_tokenizer(specs: list["ModelSpec"]) -> None:
    """A text is read with the tokenizer of the weights; without weights, with that of the hub id in
    the local cache."""
    for spec in specs:
        if spec.source not in ("bundled", "hub"):
            raise UsageError(
                f"--text needs the tokenizer of {spec.id}; give the folder that holds it with"
                " --weights PATH."
            )
