"""`lora-profile read`: a trainer's file, key by key; and MODEL of other commands where it is one."""

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lora_profiler._common.process import starts_training
from lora_profiler.cli import click_support
from lora_profiler.cli.option_groups import option
from lora_profiler.cli.options import given, lengths_of, model_called, output_options
from lora_profiler.errors import LoraProfilerError, ModelNotFoundError, UsageError
from lora_profiler.facts.stacks import find_stack
from lora_profiler.question.adapter_method import adapter_method
from lora_profiler.question.feature import has_file, names
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import Workload

if TYPE_CHECKING:
    from lora_profiler.planning.answers import Answer
    from lora_profiler.trainer_files.trainer_file import TrainerFile
    from lora_profiler.trainer_files.writing import Written

FRAMEWORK_NAMES = [n for n in names("trainers") if has_file("trainers", n, "keys")]


@click_support.command(
    "read",
    "Show how a trainer's file is read, key by key.",
    """
FILE may be YAML, JSON, a notebook, a script, or a trainer's command.
A second file may be that of accelerate or DeepSpeed.
Each key is an option, has no effect, or is not modelled.

Examples:
  lora-profile read qlora.yml                          predict it: `lora-profile qlora.yml`
  lora-profile read sft.yaml zero3.yaml --format json  with the config of accelerate
  lora-profile read trl sft --model_name_or_path Qwen/Qwen3-0.6B --use_peft

Exit: 0 done, 2 unknown trainer, contradicting keys, or no such file.
""",
    click_support.CommandOrTrainers,
)
@click.argument("words", metavar="FILE...", nargs=-1, required=True)
@option(
    "--from framework",
    help="trainer that FILE is written for",
    show_default="by its keys",
    type=click_support.NearestChoice(FRAMEWORK_NAMES),
)
@output_options("table", "json", "md")
def read_command(
    words: tuple[str, ...], framework: str | None, form: str, output: str | None, force: bool
) -> None:
    """Show each key of a trainer's FILE as it is read, and the matching command.
    FILE: axolotl, LLaMA-Factory, torchtune, TRL, Unsloth or PEFT; nothing is run."""
    click_support.check_new_file(output, force)
    from lora_profiler.report.trainer_file import trainer_file_blocks, trainer_file_payload
    from lora_profiler.trainer_files.reading import read_files, resolve_images
    from lora_profiler.trainer_files.trainer_file import on_model

    file = _typed_command(words) or read_files([Path(word) for word in words], framework)
    if file.model is not None:
        with suppress(ModelNotFoundError):  # then without what only the model tells
            spec = model_of(file, None, {"revision": file.revision or "main", "offline": True})
            file = on_model(resolve_images(file, spec), spec)
    click_support.print_answer(
        lambda: {"schema_version": "1.0", **trainer_file_payload(file)},
        lambda: trainer_file_blocks(file),
    )


# --- MODEL where it is a trainer's own file -------------------------------------------------------


_SUFFIXES = (".yaml", ".yml", ".ipynb", ".py", ".sh", ".txt")
_MODEL_KEYS = frozenset({"model_type", "architectures", "_name_or_path", "text_config"})
"""Keys of a model's config.json, of which a trainer's JSON has none."""


def named(
    models: Sequence[str], framework: str | None
) -> Iterator[tuple[str, "TrainerFile | None"]]:
    """Each MODEL, with the file that it is where it is a trainer's; accelerate's and DeepSpeed's
    files belong to the one before them. All of them together may be a trainer's command line. Words
    of one model may come without quotes, as in qwen2.5 7b."""
    if (typed := _typed_command(models)) is not None:
        yield typed.name, typed
        return
    waiting = _joined(models)
    while waiting:
        name = waiting.pop(0)
        if not _is_trainer_file(name):
            yield name, None
            continue
        from lora_profiler.trainer_files.reading import is_companion, read_files

        paths = [Path(name)]
        while waiting and _is_trainer_file(waiting[0]) and is_companion(Path(waiting[0])):
            paths.append(Path(waiting.pop(0)))
        yield name, read_files(paths, framework)


def names_a_trainer(models: Sequence[str]) -> bool:
    """Whether MODEL is a trainer's file or command, which say themselves whose loop it is."""
    return starts_training(models) or any(map(_is_trainer_file, models))


def _typed_command(words: Sequence[str]) -> "TrainerFile | None":
    """The command line of a trainer that the words are. Raises UsageError for an option of ours
    among its arguments, where it is none of the trainer's."""
    if not starts_training(words) or os.path.isfile(words[0]):
        return None
    from lora_profiler.trainer_files.reading import read_command

    file = read_command(words, Path())
    ours = {flag for param in click.get_current_context().command.params for flag in param.opts}
    for row in file.keys:
        dashes = "--" if len(row.key) > 1 else "-"
        named = dashes + row.key.replace("_", "-")
        if row.state == "unknown" and named in ours:
            raise UsageError(
                f"{named} would go to {file.title}; put lora-profile's options first:"
                f" `lora-profile {named} ... {words[0]} {words[1]} ...`"
            )
    return file


def _joined(models: Sequence[str]) -> list[str]:
    """The words as one name where they name one bundled model together, and none of them alone
    looks like a model."""
    from lora_profiler.facts.catalog.bundled import bare_names, model_lines, named_by_words

    if len(models) < 2 or any(
        "/" in name
        or os.path.exists(name)
        or name.lower() in model_lines()
        or name.lower() in bare_names()
        or _is_trainer_file(name)
        for name in models
    ):
        return list(models)
    together = " ".join(models)
    return [together] if named_by_words(together) else list(models)


def model_of(file: "TrainerFile", name: str | None, o: Mapping[str, Any]) -> ModelSpec:
    """The model that a file is about; `name` is another than it names. Errors say where it stands.

    Raises UsageError where neither tells, and what `find_model` raises.
    """
    if name is not None:
        return model_called(name, o)
    model, place = file.named_model()
    if file.revision is not None and o["revision"] == "main":
        o = {**o, "revision": file.revision}
    try:
        return model_called(model, o)
    except ModelNotFoundError as e:
        raise type(e)(f"{place}: {e} --model asks about another.") from None


def with_images(
    file: "TrainerFile", model: ModelSpec, *, is_asked: bool
) -> tuple["TrainerFile", ModelSpec]:
    """Both where the command line tells of images, or the file does and they can be traced: the
    whole model, by whose names targets are found."""
    from lora_profiler.trainer_files.reading import resolve_images
    from lora_profiler.trainer_files.trainer_file import with_images

    file = resolve_images(file, model if find_spec("torch") else None)
    if not is_asked and "images" not in file.options:
        return file, model
    side = model.text_side_of
    return with_images(file), model if side is None else side.whole()


_SIZES = ("batch_size", "seq_len")
_OF_ADAPTERS = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
"""Options of an adapter that not every method has, with their fields."""


def assume_trainer(
    ctx: click.Context, platform: Platform | None = None, longest: int | None = None
) -> None:
    """The trainer whose file --write names, where nothing names another, with what guides pass to
    it. Sizes and adapters stay those of the question as it is without --write; `plan` searches
    them. On a `platform` without bfloat16 float16 stands in for it, float32 where all weights
    train; `longest`: the tokens that the model was made for."""
    from click.core import ParameterSource

    from lora_profiler.trainer_files.writing import guide_of, trainer_of

    o, name = ctx.params, ctx.params["write"][0]
    trainer, methods = trainer_of(name), ctx.params["methods"]
    if given(ctx, "trainer") or trainer is None:
        return
    from_config = ctx.get_parameter_source("trainer") == ParameterSource.DEFAULT_MAP
    if from_config and _is_alike(o["trainer"], trainer):
        return
    assumed: dict[str, Any] = {"trainer": trainer}
    if ctx.command.name == "predict" and len(methods) == 1:
        has_data = o["data"] is not None or lengths_of(o) is not None
        idle = adapter_method(o["peft_type"]).idle
        own = [name for name, field in _OF_ADAPTERS.items() if field not in idle]
        kept = [*_SIZES[: 1 if has_data else 2]]
        kept += [] if "full" in methods else [*own, "targets"]
        assumed |= {**{key: o[key] for key in kept}, **guide_of(name, methods[0])}
        if longest is not None and "seq_len" in assumed:
            assumed["seq_len"] = min(assumed["seq_len"], longest)
        if assumed.get("dtype") == "bfloat16" and platform and not platform.has_bfloat16:
            assumed["dtype"] = "float32" if "full" in methods else "float16"
    for key, value in assumed.items():
        if not given(ctx, key):
            o[key] = value
            ctx.set_parameter_source(key, ParameterSource.COMMANDLINE)


def writable(ctx: click.Context, workloads: Sequence[Workload], named: set[str]) -> "Written":
    """The files of the one question that --write names, none of which is there; of its options
    those `named` are the user's. Raises UsageError for several questions, and for what a trainer's
    file cannot say."""
    from lora_profiler.trainer_files.writing import written_files

    name, path = ctx.params["write"]
    _check_trainer(ctx, name)
    if len(workloads) != 1:
        one = len({workload.model.id for workload in workloads}) == 1
        todo = "add --method full, lora or qlora" if one else "name one MODEL and one --method"
        raise UsageError(f"--write writes one run, and this asks for {len(workloads)}; {todo}.")
    files = written_files(name, workloads[0], Path(path).name, named)
    for other in files.texts:
        click_support.check_new_file(str(Path(path).with_name(other)), ctx.params["force"])
    return files


def _check_trainer(ctx: click.Context, name: str) -> None:
    """Raises UsageError for a trainer whose runs no file called `name` describes."""
    from lora_profiler.trainer_files.writing import trainer_of

    own, asked = trainer_of(name), ctx.params["trainer"]
    if own is None or not given(ctx, "trainer") or _is_alike(asked, own):
        return
    raise UsageError(f"--write {name} writes runs of --trainer {own} alone, and not of {asked}.")


def writes_another(ctx: click.Context) -> bool:
    """Whether --write names a file of another trainer than the user's own default."""
    from lora_profiler.trainer_files.writing import trainer_of

    if not ctx.params["write"] or given(ctx, "trainer"):
        return False
    own = trainer_of(ctx.params["write"][0])
    return own is not None and not _is_alike(ctx.params["trainer"], own)


def _is_alike(one: str, other: str) -> bool:
    return find_stack(one).name == find_stack(other).name


def as_written(
    ctx: click.Context, workloads: Sequence[Workload], named: set[str]
) -> list[Workload]:
    """The questions as files of --write ask them, without those that none can. Raises UsageError
    where none is left."""
    found, refusal = [], None
    for workload in workloads:
        try:
            found.append(writable(ctx, [workload], named).workload)
        except UsageError as e:
            refusal = e
    if refusal is not None and not found:
        raise refusal
    return found


def write(ctx: click.Context, files: "Written", answer: "Answer") -> None:
    from lora_profiler.report.answer.verdicts import worded

    path = ctx.params["write"][1]
    verdict = answer.fit.verdict if answer.fit is not None else "fits"
    is_allowed = verdict == "tight" and ctx.params.get("allow_tight")
    if verdict != "fits" and not is_allowed:
        change = next((" ".join(remedy.options) for remedy in answer.remedies), "")
        why = worded(verdict, "the run", "")
        fits = f"; {change} fits" if change else ""
        click_support.warn(f"{path} is not written: {why}{fits}.")
        return
    for other, text in files.texts.items():
        click_support.write_out(text, str(Path(path).with_name(other)))
    folder = Path(path).parent
    inside = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
    click.echo(f"Start it with: {inside}{files.command}", err=True)


def print_reading(file: "TrainerFile", model: ModelSpec) -> "TrainerFile":
    """The file with what rules know of the model. Says how it was understood, and what is not."""
    from lora_profiler.report.trainer_file import counts_text
    from lora_profiler.trainer_files.trainer_file import gaps, on_model

    file = on_model(file, model)
    click.echo(f"{file.name}: {counts_text(file)[:-1]} (lora-profile read).", err=True)
    for gap in gaps(file):
        click_support.warn(f"{gap.text}.")
    return file


def _is_trainer_file(name: str) -> bool:
    """Whether the name is a file that is no model's config.json."""
    if name.endswith(_SUFFIXES):
        return True
    if not name.endswith(".json") or not os.path.isfile(name):
        return False
    with suppress(OSError, ValueError, RecursionError, LoraProfilerError):
        from lora_profiler.trainer_files.document import read_text

        content = json.loads(read_text(Path(name)))
        return isinstance(content, dict) and not _MODEL_KEYS & content.keys() and bool(content)
    return False  # the model's look-up says what is wrong with it
