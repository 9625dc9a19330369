"""MODEL where it is a trainer's own file."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lora_profiler.cli.click_support import check_new_file, warn, write_out
from lora_profiler.errors import LoraProfilerError, ModelNotFoundError, UsageError

if TYPE_CHECKING:
    from lora_profiler.model_spec import ModelSpec
    from lora_profiler.trainer_files.trainer_file import TrainerFile
    from lora_profiler.workload import Workload

_SUFFIXES = (".yaml", ".yml", ".ipynb", ".py", ".sh", ".txt")
_MODEL_KEYS = frozenset({"model_type", "architectures", "_name_or_path", "text_config"})
"""Keys of a model's config.json, of which a trainer's JSON has none."""


def named(
    models: Sequence[str], framework: str | None
) -> Iterator[tuple[str, "TrainerFile | None"]]:
    """Each MODEL, with the file that it is where it is a trainer's; accelerate's and DeepSpeed's
    files belong to the one before them."""
    waiting = list(models)
    while waiting:
        name = waiting.pop(0)
        if not _is_trainer_file(name):
            yield name, None
            continue
        from lora_profiler.trainer_files.reading import is_beside, read_files

        paths = [Path(name)]
        while waiting and _is_trainer_file(waiting[0]) and is_beside(Path(waiting[0])):
            paths.append(Path(waiting.pop(0)))
        yield name, read_files(paths, framework)


def model_of(file: "TrainerFile", name: str | None, **lookup: Any) -> "ModelSpec":
    """The model that a file is about; `name` is another than it names. Errors say where it stands.

    Raises UsageError where neither tells, and what `find_model` raises.
    """
    from lora_profiler.catalog import find_model

    if name is not None:
        return find_model(name, **lookup)
    model, place = file.named_model()
    if file.revision is not None and lookup["revision"] == "main":
        lookup["revision"] = file.revision
    try:
        return find_model(model, **lookup)
    except ModelNotFoundError as e:
        raise type(e)(f"{place}: {e} --model asks about another.") from None


def with_images(
    file: "TrainerFile", model: "ModelSpec", *, is_asked: bool
) -> tuple["TrainerFile", "ModelSpec"]:
    """Both where the command line tells of images, or the file does and they can be traced: the
    whole model, by whose names targets are found."""
    from lora_profiler.trainer_files.images import seen_images
    from lora_profiler.trainer_files.trainer_file import with_images

    file = seen_images(file, model if find_spec("torch") else None)
    if not is_asked and "images" not in file.options:
        return file, model
    side = model.text_side_of
    return with_images(file), model if side is None else side.whole()


def on_model(file: "TrainerFile", model: "ModelSpec") -> "TrainerFile":
    from lora_profiler.trainer_files.trainer_file import on_model

    return on_model(file, model)


def write(target: tuple[str, str], workloads: Sequence["Workload"]) -> None:
    """Writes the one question as a trainer's file. Raises UsageError."""
    from lora_profiler.trainer_files.writing import written

    name, path = target
    if len(workloads) != 1:
        raise UsageError("--write writes one question; name one MODEL and one --method.")
    context = click.get_current_context()
    check_new_file(path, context.params["force"])
    write_out(written(name, workloads[0], Path(path).name), path)


def note(file: "TrainerFile") -> None:
    """Says how a file was understood, and what of it is not."""
    from lora_profiler.report.trainer_file import counts_text
    from lora_profiler.trainer_files.trainer_file import gap_texts

    click.echo(f"{file.name}: {counts_text(file)} `lora-profile read` shows each.", err=True)
    for text in gap_texts(file):
        warn(f"{text}.")


def _is_trainer_file(name: str) -> bool:
    """Whether the name is a file that is no model's config.json."""
    if name.endswith(_SUFFIXES):
        return os.path.isfile(name) or name.endswith((".yaml", ".yml", ".ipynb"))
    if not name.endswith(".json") or not os.path.isfile(name):
        return False
    with suppress(OSError, ValueError, RecursionError, LoraProfilerError):
        from lora_profiler.trainer_files.document import read_text

        content = json.loads(read_text(Path(name)))
        return isinstance(content, dict) and not _MODEL_KEYS & content.keys() and bool(content)
    return False  # the model's look-up says what is wrong with it
