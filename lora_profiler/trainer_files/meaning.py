"""What a trainer's key means here: options of a setup, nothing that costs memory, or something that
no option says, with the direction in which the answer is then wrong."""

import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.option import Kind, Sharding
from lora_profiler.question.workload import OPTIONS
from lora_profiler.trainer_files.document import Document

Direction = Literal["too low", "too high", "either way"]
"""Of the answer, where something is not modelled."""
TASK = "task"
"""TRL's trainer, as a command line names it: `trl dpo`."""
PLAIN_TASK = "trainer"
"""In its place, of a script that calls transformers' own Trainer."""
ONE_ROW = "one_row"
"""Among the options of a meaning: that a batch is laid into one row."""
HIDDEN_SQUARED = "hidden_squared"
"""Among the options of a meaning: that DeepSpeed's bucket is the hidden size squared."""
VLLM_SHARE = "vllm_share"
"""Among the options of a meaning: what vLLM takes of the card beside the training."""
IMAGES = "images: the vision side and its inputs"
"""What is missing of a model that sees, unless the command line tells of its images."""
RESIZED = "resize_token_embeddings_to_32x"
"""axolotl's key of a vocabulary that may be rounded up."""
GATED_NORM = "Liger's gated RMSNorm"
"""What is missing of axolotl's key, of the types whose layers have one."""
AUTO_DTYPE = "auto"
"""Of the option dtype: as the checkpoint is stored."""


class Meaning(NamedTuple):
    """options: their values, as people write them, with `model` and `methods` among them. missing:
    what is not modelled. asks: options that the file cannot tell and the question needs. note: what
    is worth knowing beside. alternatives: options with which the run may need about as much where
    something is missing."""

    options: Mapping[str, Any] = {}
    missing: str = ""
    direction: Direction | None = None
    asks: tuple[str, ...] = ()
    note: str = ""
    alternatives: tuple[Mapping[str, Any], ...] = ()


Reader = Callable[[Any, Document], Meaning]
NO_EFFECT = Meaning()
"""It costs nothing, or is switched off."""
_OFF = (None, False, 0, "", "false", "no", "none", "null", "off", "disabled")


def is_off(value: Any) -> bool:
    if isinstance(value, str):
        return value.lower() in _OFF
    return value in _OFF or value in ([], {})


def is_on(value: Any) -> bool:
    """A switch as YAML, JSON or a command line has it."""
    return not is_off(value)


def not_modelled(what: str, direction: Direction, **options: Any) -> Meaning:
    """`options` come nearest."""
    return Meaning(options=options, missing=what, direction=direction)


def no_effect(value: Any, document: Document) -> Meaning:
    return NO_EFFECT


def free(table: Path, part: Literal["keys", "under"] = "keys") -> dict[str, Reader]:
    """Keys that cost no memory, or what they begin with, of a TOML file."""
    return dict.fromkeys(read_table(table)[part].split(), no_effect)


@cache
def read_table(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text("utf-8"))


def sets(option: str, convert: Callable[[Any], Any] | None = None) -> Reader:
    """The key is `option`; null leaves the framework's default. `convert` raises ValueError with
    what the value must be; without it values are read as the option has them."""
    made = convert or _TEXTS.get(option) or _OF_KIND[_KINDS[option]]

    def read(value: Any, document: Document) -> Meaning:
        return NO_EFFECT if value is None else Meaning({option: made(value)})

    return read


def when_on(*, note: str = "", **options: Any) -> Reader:
    """The key means `options` unless it is off."""
    return lambda value, document: Meaning(options, note=note) if is_on(value) else NO_EFFECT


def missing(what: str, direction: Direction, **options: Any) -> Reader:
    """The key is not modelled unless it is off; `options` come nearest."""

    def read(value: Any, document: Document) -> Meaning:
        return NO_EFFECT if is_off(value) else not_modelled(what, direction, **options)

    return read


def noted(text: str) -> Reader:
    """The key costs nothing, and `text` is worth knowing of it."""
    return lambda value, document: Meaning(note=text)


def covered_by(key: str) -> Reader:
    """What stands beside `key`, which says of all of it that it is not modelled."""
    return noted(f"a part of {key}, see there")


def missing_above(least: float, what: str, direction: Direction) -> Reader:
    """The key is not modelled where its number is above `least`."""

    def read(value: Any, document: Document) -> Meaning:
        is_plain = is_off(value) or number(value) <= least
        return NO_EFFECT if is_plain else not_modelled(what, direction)

    return read


def size(value: Any) -> int:
    """A whole number, at least 1, however it is written."""
    exact = number(value)
    if exact != int(exact) or exact < 1:
        raise ValueError("it must be a whole number, at least 1.")
    return int(exact)


def size_of(document: Document, key: str, usual: int) -> int:
    """The size that `key` sets, for a reader of another key. Raises TrainerFileError, which names
    the key that is wrong."""
    value = document.get(key)
    try:
        return usual if value is None else size(value)
    except ValueError as e:
        raise document.error(key, f"{key} is {str(value)[:60]}; {e}") from None


def number(value: Any) -> float:
    """A finite number; YAML reads 2e-5 as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("it must be a number.")
    try:
        result = float(value)
    except (ValueError, OverflowError):
        raise ValueError("it must be a number.") from None
    if result - result != 0:
        raise ValueError("it must be a finite number.")
    return result


def share(value: Any) -> float:
    """From 0 to 1, without 1."""
    if not 0 <= (exact := number(value)) < 1:
        raise ValueError("it must be a share, at least 0 and below 1.")
    return exact


def text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("it must be a name.")
    return value.strip()


def names(value: Any) -> str | None:
    """A list of names as people write it: with commas."""
    items: Sequence[Any] = re.split(r"[,\s]+", value.strip()) if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
        raise ValueError("it must be a list of names.")
    return ",".join(items) or None


def layer_numbers(value: Any) -> str | None:
    items = value if isinstance(value, list) else [value]
    return ",".join(str(int(number(item))) for item in items) or None


def targets(value: Any) -> str:
    """PEFT's target_modules: a list matches by suffix, a text is a pattern matched in full."""
    if isinstance(value, list):
        if value in (["all-linear"], ["all"]):
            return "all-linear"
        return names(value) or "none"
    pattern = text(value)
    if pattern in ("all-linear", "all"):
        return "all-linear"
    if "," in pattern and re.fullmatch(r"[\w.,\s]+", pattern):
        return names(pattern) or "none"
    return f"re:{pattern}"


def dtype(value: Any) -> str:
    name = text(value).removeprefix("torch.").lower()
    known = {
        "bf16": "bfloat16",
        "fp16": "float16",
        "half": "float16",
        "fp32": "float32",
        "float": "float32",
        "none": AUTO_DTYPE,
    }
    result = known.get(name, name)
    if result not in ("bfloat16", "float16", "float32", AUTO_DTYPE):
        raise ValueError("it must be bfloat16, float16, float32 or auto.")
    return result


_KINDS = {option.name: option.kind for option in OPTIONS}
_OF_KIND: Mapping[Kind, Callable[[Any], Any]] = {"size": size, "number": number, "switch": is_on}
_TEXTS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("model", "revision"), text),
    **dict.fromkeys(("modules_to_save", "target_parameters", "feedforward_modules"), names),
    "targets": targets,
    "layers_to_transform": layer_numbers,
    "dtype": dtype,
}
"""How the values of options are read."""


# --- what is known of a framework's files: data, declared once in each of frameworks --------------


Check = Callable[[Document], "tuple[str, str] | None"]
"""A key and what it contradicts, where it does."""

Together = Callable[[str, Mapping[str, Any], Collection[str]], Iterator[tuple[str, Meaning]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """name: as `--from` takes it. marks: keys that only its files have; with as many of its own as
    another it yields to one that yields less. takes_options: keys are options of a command line
    too. keys: what each means, the
    later ones overruling the earlier ones' options. under: the same for keys that begin so.
    implied: what holds without a key: its words, and what it means. together: the same of what
    several ranks make of a stack, all options and all keys. computed: what a key means whose value
    a script works out. stack: the trainer whose defaults hold,
    by what the file says; None where the file is of no trainer, but beside one. files: keys that
    name another file. sharding_of_several: how several GPUs share the work where no key says it.
    on_model: readings of what the trainer makes of a model, of the
    file and the model."""

    name: str
    title: str
    marks: frozenset[str]
    yields: int = field(default=0, kw_only=True)
    takes_options: bool = field(default=False, kw_only=True)
    keys: Mapping[str, Reader]
    under: Mapping[str, Reader] = field(default_factory=dict)
    implied: Callable[[Document], Iterator[tuple[str, Meaning]]] = lambda document: iter(())
    together: Together = lambda stack, options, keys: iter(())
    computed: Mapping[str, Meaning] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    stack: Callable[[Document], str] | None = None
    files: tuple[str, ...] = ()
    sharding_of_several: Sharding = "ddp"
    on_model: Callable[[Any, ModelSpec], Iterator[Any]] = lambda file, model: iter(())

    def reader(self, key: str) -> Reader | None:
        """What reads a key, None for one that is not known."""
        if key in self.keys:
            return self.keys[key]
        prefixes = [prefix for prefix in self.under if key.startswith(prefix)]
        return self.under[max(prefixes, key=len)] if prefixes else None


def both_on(first: str, second: str, why: str) -> Check:
    """Two switches of which at most one can be on."""

    def check(document: Document) -> tuple[str, str] | None:
        if not (is_on(document.get(first)) and is_on(document.get(second))):
            return None
        line = document.entries[first].line
        return second, f"{second} contradicts {first} in line {line}: {why}"

    return check
