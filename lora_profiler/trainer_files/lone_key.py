"""A trainer's key by itself, without its file: what it changes about a question."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lora_profiler.trainer_files.document import Document, Entry
from lora_profiler.trainer_files.framework import Framework
from lora_profiler.trainer_files.frameworks.axolotl import AXOLOTL
from lora_profiler.trainer_files.frameworks.llamafactory import LLAMAFACTORY
from lora_profiler.trainer_files.frameworks.torchtune import TORCHTUNE
from lora_profiler.trainer_files.frameworks.trl import TRL
from lora_profiler.trainer_files.frameworks.unsloth import UNSLOTH
from lora_profiler.trainer_files.meaning import ONE_ROW
from lora_profiler.trainer_files.reading import read_document

_BY_USE = (TRL, LLAMAFACTORY, AXOLOTL, UNSLOTH, TORCHTUNE)
"""Command lines are TRL's and LLaMA-Factory's; the others have files alone."""
_AN_ADAPTER = {"use_peft": True, "adapter": "lora"}
"""Beside the key, which may be about one: TRL's switch and axolotl's choice, which the others pass
over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoneKey:
    """What `key` in a file of the framework `title` means: `options` of a setup by name, as people
    write them, or `model`; `missing`: what of it is not modelled; `note`: what else an option of
    the file's means."""

    title: str
    key: str
    options: Mapping[str, Any]
    missing: str
    note: str


def lone_key(name: str, values: Sequence[Any]) -> LoneKey | None:
    """What a key means with one of `values`; the last part of a nested key will do. Of several
    frameworks, and values that it can have, the first where it is an option and nothing is missing.
    None where no framework knows it, or none of the values."""
    found = [
        lone
        for framework in _BY_USE
        for key in framework.keys
        if key == name or key.endswith(f".{name}")
        for lone in _readings(framework, key, values)
    ]
    return min(found, key=lambda lone: (not lone.options, bool(lone.missing)), default=None)


def _readings(framework: Framework, key: str, values: Sequence[Any]) -> Iterator[LoneKey]:
    others = {name: Entry(name, on, 0) for name, on in _AN_ADAPTER.items() if name != key}
    before = read_document(Document("", others), framework.name).options
    for value in values:
        with suppress(ValueError):  # one that the key cannot have
            document = Document("", {**others, key: Entry(key, value, 0)})
            after = read_document(document, framework.name)
            (row,) = (row for row in after.keys if row.key == key and row.value == value)
            own = {n: v for n, v in row.options.items() if n != ONE_ROW}
            changed = {n: v for n, v in after.options.items() if before.get(n) != v}
            yield LoneKey(
                title=framework.title,
                key=key,
                options=own or changed,
                missing=row.missing,
                note=row.note if row.options else "",
            )
