"""Images as a trainer's file tells of them: that there are some, at most how large; what the model
sees, and what goes with images, is told here."""

from collections.abc import Iterator
from dataclasses import replace

from lora_profiler.model_spec import ModelSpec
from lora_profiler.support.image_processors import PROCESSORS
from lora_profiler.support.model_types import MODEL_TYPES
from lora_profiler.trainer_files.meaning import IMAGES
from lora_profiler.trainer_files.trainer_file import KeyReading, TrainerFile, instead, usual_options

_ABOUT = ("images", "image_size")


def seen_images(file: TrainerFile, model: ModelSpec | None) -> TrainerFile:
    """The file's images where those of `model` are priced and go with the rest, and the nearest
    options that do; else, and of a model that is not known, they are among what is missing."""
    if "images" not in file.options:
        return file
    asked = {**usual_options(file.stack, file.options), **file.options}
    if model is None or not _sees(model) or file.has_one_row or _is_shared(asked):
        keys = tuple(_unseen(row) if "images" in row.options else row for row in file.keys)
        options = {name: v for name, v in file.options.items() if name not in _ABOUT}
        return replace(file, options=options, keys=keys)
    changed = tuple(_nearest(file, asked, model))
    own = {name: value for row in changed for name, value in row.options.items()}
    return replace(file, options={**file.options, **own}, keys=(*file.keys, *changed))


def _sees(model: ModelSpec) -> bool:
    """Whether it is the text side of a bundled model that sees, all of which are of priced types,
    or such a model itself, not stored in 4 bit."""
    if model.stored is not None:
        return False
    return model.text_side_of is not None or model.model_type in PROCESSORS


def _is_shared(asked: dict[str, object]) -> bool:
    return asked.get("sharding", "none") not in ("none", "ddp") or "packed" in asked


def _unseen(row: KeyReading) -> KeyReading:
    options = {name: v for name, v in row.options.items() if name not in _ABOUT}
    return replace(
        row, options=options, state="not modelled", missing=IMAGES, direction="too low", note=""
    )


def _nearest(file: TrainerFile, asked: dict[str, object], model: ModelSpec) -> Iterator[KeyReading]:
    for option, usual in (("kernels", "transformers"), ("lora_kernels", "peft")):
        value = asked.get(option, usual)
        if value in (usual, "axolotl"):
            continue
        what = f"{value}'s kernels of a model that sees images, answered without them"
        yield instead(file.name, option, value, usual, what)
    kind = model.model_type if model.model_type in PROCESSORS else f"{model.model_type}_vl"
    row = MODEL_TYPES.get(kind)
    is_known = row is not None and row.lora_kernels_below_images
    if asked.get("lora_kernels") == "axolotl" and not is_known:
        # axolotl 0.19, monkeypatch/lora_kernels.py, get_attention_cls_from_config
        note = "axolotl stops at its LoRA kernels of this type: it runs with each of them off"
        row = instead(file.name, "lora_kernels", "axolotl", "peft", "")
        yield replace(row, state="option", direction=None, note=note)
