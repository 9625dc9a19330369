"""Images as a trainer's file tells of them: that there are some, at most how large; what the model
sees, and what goes with images, is told here."""

from collections.abc import Iterator
from dataclasses import replace

from lora_profiler.model_spec import ModelSpec
from lora_profiler.support.image_processors import PROCESSORS
from lora_profiler.support.lora_kernels import STOPPED
from lora_profiler.support.model_types import MODEL_TYPES
from lora_profiler.trainer_files.meaning import IMAGES
from lora_profiler.trainer_files.trainer_file import (
    KeyReading,
    TrainerFile,
    instead,
    usual_options,
    without_lora_kernels,
)

_ABOUT = ("images", "image_size")


def seen_images(file: TrainerFile, model: ModelSpec | None) -> TrainerFile:
    """The file's images where those of `model` are priced and go with the rest, and the nearest
    options that do; else, and of a model that is not known, they are among what is missing."""
    return images_of_type(file, None if model is None else _type_that_sees(model))


def images_of_type(file: TrainerFile, kind: str | None) -> TrainerFile:
    """The same of a model by its type, None for one that sees nothing or is not known."""
    if "images" not in file.options:
        return file
    asked = {**usual_options(file.stack, file.options), **file.options}
    if kind is None or kind not in PROCESSORS or file.has_one_row or _is_shared(asked):
        keys = tuple(_unseen(row) if "images" in row.options else row for row in file.keys)
        options = {name: v for name, v in file.options.items() if name not in _ABOUT}
        return replace(file, options=options, keys=keys)
    changed = tuple(_nearest(file, asked, kind))
    own = {name: value for row in changed for name, value in row.options.items()}
    return replace(file, options={**file.options, **own}, keys=(*file.keys, *changed))


def _type_that_sees(model: ModelSpec) -> str | None:
    """Of the model whose text side it is, or its own; of one that is stored in 4 bit nothing tells
    how its tower is."""
    if model.stored is not None:
        return None
    return model.model_type if model.text_side_of is None else model.text_side_of.model_type


def _is_shared(asked: dict[str, object]) -> bool:
    return asked.get("sharding", "none") not in ("none", "ddp") or "packed" in asked


def _unseen(row: KeyReading) -> KeyReading:
    options = {name: v for name, v in row.options.items() if name not in _ABOUT}
    return replace(
        row, options=options, state="not modelled", missing=IMAGES, direction="too low", note=""
    )


def _nearest(file: TrainerFile, asked: dict[str, object], kind: str) -> Iterator[KeyReading]:
    known = MODEL_TYPES.get(kind)
    flash = asked.get("attention") == "flash_attention_2"
    if flash and not PROCESSORS[kind].flash_attention_2:
        note = "transformers refuses FlashAttention 2 of this type: it runs with SDPA"
        row = instead(file.name, "attention", "flash_attention_2", "auto", "")
        yield replace(row, state="option", direction=None, note=note)
    for option, usual in (("kernels", "transformers"), ("lora_kernels", "peft")):
        value = asked.get(option, usual)
        is_axolotl = value == "axolotl"
        if value == usual or (is_axolotl and known and known.lora_kernels):
            continue
        if is_axolotl and kind in STOPPED:
            yield without_lora_kernels(file.name)
            continue
        what = f"{value}'s kernels of a model that sees images, answered without them"
        yield instead(file.name, option, value, usual, what)
