"""From a trainer's file to the question that it is: the options that its keys mean, and what they
mean beside."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import isfile  # which no name makes raise
from pathlib import Path
from typing import Any, Literal

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.model_spec import ModelSpec
from lora_profiler.option import check_value
from lora_profiler.stacks.find import find_stack
from lora_profiler.stacks.stack import Gap, Stack
from lora_profiler.support.losses import check_loss
from lora_profiler.support.model_types import type_of
from lora_profiler.trainer_files.document import Document, Entry, TrainerFileError, parse, read_text
from lora_profiler.trainer_files.framework import Framework
from lora_profiler.trainer_files.frameworks.accelerate import ACCELERATE, DEEPSPEED
from lora_profiler.trainer_files.frameworks.axolotl import AXOLOTL
from lora_profiler.trainer_files.frameworks.llamafactory import LLAMAFACTORY
from lora_profiler.trainer_files.frameworks.torchtune import TORCHTUNE
from lora_profiler.trainer_files.frameworks.trl import TRL
from lora_profiler.trainer_files.frameworks.unsloth import UNSLOTH
from lora_profiler.trainer_files.meaning import AUTO_DTYPE, ONE_ROW, Direction, Meaning
from lora_profiler.workload import (
    DEEPSPEED_ZERO,
    FULLY_SHARDED,
    OPTIONS,
    LoraConfig,
    Loss,
    Method,
    Quantization,
    TrainSetup,
    Workload,
)

State = Literal["option", "costs nothing", "not modelled", "asks", "unknown"]

FRAMEWORKS = (AXOLOTL, TORCHTUNE, LLAMAFACTORY, UNSLOTH, TRL)
BESIDE = (ACCELERATE, DEEPSPEED)
_ASKED = {
    "seq_len": "the length is the data's; add --seq-len TOKENS",
    "world_size": "it shares the model over ranks without saying how many; add --world-size N",
}
_DIRECTIONS: Mapping[Direction, str] = {
    "too low": "too low",
    "too high": "too high",
    "either way": "too low or too high",
}
_BY_NAME = {option.name: option for option in OPTIONS}
_OF_ADAPTERS = frozenset(o.name for o in OPTIONS if o.owner is LoraConfig)
_OF_A_4_BIT_BASE = frozenset(o.name for o in OPTIONS if o.owner is Quantization)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReading:
    """One key as understood. `line` is 0 for what holds without a key; `direction` is that in which
    the answer is wrong for what is not modelled."""

    file: str
    line: int
    key: str
    value: Any
    state: State
    options: Mapping[str, Any]
    missing: str = ""
    direction: Direction | None = None
    asks: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerFile:
    """A file as a question. `options` are those of a setup by name, as people write them, `methods`
    among them; `stack` is the trainer whose defaults hold beside; `asks` are the options that it
    cannot tell. `has_one_row`: the trainer lays a packed batch into one row."""

    name: str
    framework: str
    title: str
    stack: str
    model: str | None
    revision: str | None
    options: Mapping[str, Any]
    has_one_row: bool
    asks: tuple[str, ...]
    keys: tuple[KeyReading, ...]

    @property
    def not_modelled(self) -> tuple[KeyReading, ...]:
        return tuple(key for key in self.keys if key.missing or key.state == "unknown")

    def named_model(self) -> tuple[str, str]:
        """The model, and where it stands. Raises TrainerFileError where none does."""
        if self.model is None:
            raise TrainerFileError(f"{self.name} names no model of the hub; add --model ID.")
        row = next(key for key in self.keys if "model" in key.options)
        return self.model, f"{row.file}, line {row.line} ({row.key})" if row.line else row.key

    def beside(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Its options where `given`, which overrule them, leave something open; those that no
        method asked for would read are left out. Raises TrainerFileError for what neither tells."""
        for name in self.asks:
            if name not in given and name != "model":
                raise TrainerFileError(f"{self._place(name)}: {_ASKED[name]}.")
        methods = given.get("methods", self.options.get("methods", ()))
        own = {name: v for name, v in self.options.items() if name not in {*given, *_idle(methods)}}
        if given.get("world_size") == 1:
            own.pop("sharding", None)
        if self.has_one_row and "packed" not in given:
            usual = _usual(self.stack, {"methods": methods})
            batch, length = (
                {**usual, **self.options, **given}.get(name, 1)
                for name in ("batch_size", "seq_len")
            )
            own |= {"batch_size": 1, "seq_len": batch * length}
        return own

    def _place(self, ask: str) -> str:
        """Where the file leaves an option open."""
        asking = next((key for key in self.keys if ask in key.asks), None)
        if asking is None:
            return self.name
        line = f", line {asking.line}" if asking.line else ""
        return f"{asking.file}{line} ({asking.key})"


def gap_texts(file: TrainerFile) -> list[str]:
    """What the file says and nothing models, each once, with its place and how it errs."""
    texts: dict[str, str] = {}
    for key in file.not_modelled:
        what = key.missing or "a key that is not known, of which nothing is made"
        place = f"{key.file}, line {key.line}" if key.line else key.file
        direction = f" (the answer is {_DIRECTIONS[key.direction]})" if key.direction else ""
        texts.setdefault(key.missing or key.key, f"{place}, {key.key}: {what}{direction}")
    return list(texts.values())


def with_gaps(stack: Stack, file: TrainerFile) -> Stack:
    """The stack with what the file says and nothing models among its gaps."""
    return replace(stack, gaps=(*stack.gaps, *map(Gap, gap_texts(file))))


def read_files(paths: Sequence[Path], framework: str | None = None) -> TrainerFile:
    """The first path's file, and what stands beside it: accelerate's or DeepSpeed's.

    Raises TrainerFileError for what is no file of a known trainer, or contradicts itself.
    """
    first, beside = _documents(paths[0], framework)
    for path in paths[1:]:
        beside.append(_beside(path))
    return _read(first, beside, framework)


def read_document(document: Document, framework: str) -> TrainerFile:
    """A document of a known framework, without files beside it."""
    return _read(document, [], framework)


def read_command(arguments: Sequence[str], folder: Path) -> TrainerFile:
    """A command line of TRL's scripts, word by word."""
    from lora_profiler.trainer_files.command import Word

    words = [Word(argument, 0) for argument in arguments]
    first, beside = _command_documents(words, "the command", folder)
    return _read(first, beside, "trl")


def on_model(file: TrainerFile, model: ModelSpec) -> TrainerFile:
    """The file with what rules know of the model: Liger's kernels and a loss without logits do not
    go with each, and are then answered as transformers' own."""
    asked = {**_usual(file.stack, file.options), **file.options}
    changed: list[KeyReading] = []
    if asked.get("kernels") == "liger" and not type_of(model).liger:
        what = f"Liger's kernels on {model.model_type}, answered without them"
        changed.append(_instead(file.name, "kernels", "liger", "transformers", what))
    loss = asked.get("loss", "plain")
    if not _takes_loss(model, loss, asked):
        what = f"the {loss} loss on {model.model_type}, answered as plain"
        changed.append(_instead(file.name, "loss", loss, "plain", what))
    own = {name: value for row in changed for name, value in row.options.items()}
    return replace(file, options={**file.options, **own}, keys=(*file.keys, *changed))


def _takes_loss(model: ModelSpec, loss: Loss, asked: Mapping[str, Any]) -> bool:
    """Whether a loss that multiplies by the head's weight itself goes with the model, and with the
    targets: an adapter on the head adds to the logits."""
    targets = str(asked.get("targets", "")).split(",")
    if loss != "plain" and (model.output_embedding or "").rpartition(".")[2] in targets:
        return False
    try:
        check_loss(Workload(model=replace(model, nf4=None), setup=TrainSetup(loss=loss)))
    except UsageError:
        return False
    return True


def _instead(file: str, option: str, value: str, nearest: str, what: str) -> KeyReading:
    """A reading of what the stack or a key asks for and the nearest stands for; memory is saved by
    what is left out."""
    return KeyReading(
        file=file,
        line=0,
        key=option,
        value=value,
        state="not modelled",
        options={option: nearest},
        missing=what,
        direction="too high",
    )


def is_beside(path: Path) -> bool:
    """Whether a file is accelerate's or DeepSpeed's."""
    try:
        document = parse(read_text(path), path.name, path.parent, is_json=path.suffix == ".json")
    except TrainerFileError:
        return False
    return recognised(document) in BESIDE


def recognised(document: Document) -> Framework | None:
    """The framework of which a document has most marks, None where it has none."""
    scores = {
        known.name: sum(mark in document.entries for mark in known.marks)
        for known in (*BESIDE, *FRAMEWORKS)
    }
    best = max((*FRAMEWORKS, *BESIDE), key=lambda known: scores[known.name])
    return best if scores[best.name] else None


def _documents(path: Path, framework: str | None) -> tuple[Document, list[Document]]:
    name = path.name
    if path.suffix in (".ipynb", ".py"):
        from lora_profiler.trainer_files import notebook

        text = read_text(path, notebook.MAX_BYTES)
        return notebook.parse_calls(text, name, path.parent), []
    text = read_text(path)
    if path.suffix not in (".yaml", ".yml", ".json"):
        from lora_profiler.trainer_files.command import is_command, words_of

        words = words_of(text, name)
        if is_command(words):
            return _command_documents(words, name, path.parent)
    document = parse(text, name, path.parent, is_json=path.suffix == ".json")
    return document, _named_files(document)


def _named_files(document: Document) -> list[Document]:
    """The files that a document names and that are there."""
    beside = []
    for key in ("deepspeed", "fsdp_config"):
        named = document.entries.get(key)
        if named is not None and isinstance(named.value, str) and named.value.strip():
            path = document.folder / named.value
            if isfile(path):
                beside.append(_beside(path))
    return beside


def _beside(path: Path) -> Document:
    document = parse(read_text(path), path.name, path.parent, is_json=path.suffix == ".json")
    if recognised(document) not in BESIDE:
        raise TrainerFileError(
            f"{path.name} is neither accelerate's file nor DeepSpeed's, which can stand beside a"
            " trainer's."
        )
    return document


def _command_documents(
    words: Sequence[Any], name: str, folder: Path
) -> tuple[Document, list[Document]]:
    from lora_profiler.trainer_files.command import parse_command

    command = parse_command(words, name, folder)
    script, beside = command.script, [command.launcher]
    config = script.get("config")
    if isinstance(config, str):
        path = folder / config
        of_file = parse(read_text(path), path.name, path.parent, is_json=path.suffix == ".json")
        written = {key: entry for key, entry in script.entries.items() if key != "config"}
        script = Document(name, {**of_file.entries, **written}, folder)
    if command.accelerate_file is not None:
        path = folder / command.accelerate_file
        if isfile(path):
            beside.insert(0, _beside(path))
        else:
            script = replace_entry(script, "deepspeed", command.accelerate_file)
    return script, [*_named_files(script), *(d for d in beside if d.entries)]


def replace_entry(document: Document, key: str, value: Any) -> Document:
    entries = {**document.entries, key: Entry(key, value, 0)}
    return Document(document.name, entries, document.folder)


def _read(first: Document, beside: Sequence[Document], framework: str | None) -> TrainerFile:
    known = _framework(first, framework)
    for check in known.checks:
        if (contradiction := check(first)) is not None:
            raise first.error(*contradiction)
    rows = list(_rows(first, known))
    for document in beside:
        other = recognised(document) or ACCELERATE
        rows += _rows(document, other)
    options: dict[str, Any] = {}
    for row in rows:
        options |= row.options
    has_one_row = bool(options.pop(ONE_ROW, False))
    methods = options.get("methods", ())
    assert known.stack is not None
    stack = known.stack(first)
    rows += _settle(options, rows, stack)
    model, revision = options.pop("model", None), options.pop("revision", None)
    asks = dict.fromkeys(ask for row in rows for ask in row.asks if ask not in options)
    if model is None:
        asks["model"] = None
    rows = [_without_idle(row, methods) for row in rows]
    idle = _idle(methods)
    return TrainerFile(
        name=first.name,
        framework=known.name,
        title=known.title,
        stack=stack,
        model=model,
        revision=revision,
        options={name: value for name, value in options.items() if name not in idle},
        has_one_row=has_one_row,
        asks=tuple(asks),
        keys=tuple(sorted(rows, key=lambda row: (row.file != first.name, row.file, row.line))),
    )


def _framework(document: Document, name: str | None) -> Framework:
    if name is not None:
        by_name = {known.name: known for known in FRAMEWORKS}
        if name not in by_name:
            raise TrainerFileError(
                f"no trainer is called {name!r}; known: {', '.join(by_name)}."
                f"{did_you_mean(name, by_name)}"
            )
        return by_name[name]
    known = recognised(document)
    if known is None:
        titles = ", ".join(framework.title for framework in FRAMEWORKS)
        raise TrainerFileError(
            f"{document.name}: no trainer is known by these keys; known are the files of {titles}."
            " --from says whose it is."
        )
    if known in BESIDE:
        raise TrainerFileError(
            f"{document.name} is {known.title}'s file, which stands beside a trainer's: give it"
            " after that one."
        )
    return known


def _rows(document: Document, known: Framework) -> Iterator[KeyReading]:
    """What each key means, in the order in which later ones overrule earlier ones."""
    own = list(_own_rows(document, known))  # first, since their errors name the key
    try:
        for key, meaning in known.implied(document):
            if document.get(key) is None:
                yield _row(document, Entry(key, None, 0), meaning)
    except ValueError as e:
        raise TrainerFileError(f"{document.name}: {e}") from None
    yield from own


def _own_rows(document: Document, known: Framework) -> Iterator[KeyReading]:
    ordered = [key for key in known.keys if key in document.entries]
    for key in [*ordered, *(key for key in document.entries if key not in known.keys)]:
        entry = document.entries[key]
        reader = known.reader(key)
        if reader is None:
            yield KeyReading(
                file=document.name,
                line=entry.line,
                key=key,
                value=entry.value,
                state="unknown",
                options={},
            )
            continue
        try:
            meaning = reader(entry.value, document)
        except ValueError as e:
            if isinstance(e, TrainerFileError):
                raise
            value = str(entry.value)[:60]
            raise document.error(key, f"{key} is {value}; {e}") from None
        yield _row(document, entry, meaning)


def _row(document: Document, entry: Entry, meaning: Meaning) -> KeyReading:
    for name, value in meaning.options.items():
        if (option := _BY_NAME.get(name)) is not None:
            try:
                if (name, value) != ("dtype", "auto"):
                    check_value(option, value)
            except ValueError as e:
                raise document.error(entry.key, f"{entry.key}: {e}") from None
    state: State = "costs nothing"
    if meaning.options:
        state = "option"
    if meaning.asks:
        state = "asks"
    if meaning.missing:
        state = "not modelled"
    return KeyReading(
        file=document.name,
        line=entry.line,
        key=entry.key,
        value=entry.value,
        state=state,
        options=meaning.options,
        missing=meaning.missing,
        direction=meaning.direction,
        asks=meaning.asks,
        note=meaning.note,
    )


def _settle(
    options: dict[str, Any], rows: Sequence[KeyReading], stack: str
) -> Iterator[KeyReading]:
    """What keys and files say together: one rank shares nothing, several share at least the
    work."""
    if options.get("dtype") == AUTO_DTYPE:
        del options["dtype"]  # the stack's own default
    if options.get("world_size") == 1:
        options.pop("sharding", None)
        del options["world_size"]
    has_ranks = "world_size" in options or any("world_size" in row.asks for row in rows)
    if not has_ranks or options.get("world_size", 2) == 1:
        options.pop("sharding", None)
        return
    options.setdefault("sharding", "ddp")
    optimizer = options.get("optimizer", "adamw")
    if options["sharding"] in FULLY_SHARDED and optimizer not in ("adamw", "sgd"):
        options["optimizer"] = "adamw"
        what = f"{optimizer} on the shards of FSDP, answered as adamw"
        yield _instead(rows[0].file, "optimizer", optimizer, "adamw", what)
    is_4_bit = "qlora" in options.get("methods", ())
    if options["sharding"] == "zero3" and is_4_bit:
        options["sharding"] = "zero2"
        what = "ZeRO-3 of a 4-bit base, answered as ZeRO-2"
        yield _instead(rows[0].file, "sharding", "zero3", "zero2", what)
    usual = {**_usual(stack, options), **options}
    if usual.get("precision") == "amp" and (not is_4_bit or options["sharding"] in DEEPSPEED_ZERO):
        yield from _without_autocast(options, rows[0].file)


def _without_autocast(options: dict[str, Any], file: str) -> Iterator[KeyReading]:
    """bf16 as accelerate makes it of DeepSpeed, which makes all weights bfloat16, and of FSDP,
    which gathers what trains, kept in float32, in bfloat16."""
    if options["sharding"] in DEEPSPEED_ZERO:
        made = {"precision": "pure", "dtype": "bfloat16"}
        note = "under DeepSpeed bf16 is no autocast: all weights are bfloat16"
    elif options["sharding"] in FULLY_SHARDED:
        made = {"precision": "fsdp-mixed", "adapter_dtype": "float32"}
        if "lora" not in options.get("methods", ()) or options.get("modules_to_save"):
            made["dtype"] = "float32"
        note = "under FSDP bf16 is its own mixed precision: what trains is kept in float32"
    else:
        return
    options |= made
    yield KeyReading(
        file=file, line=0, key="bf16", value="amp", state="option", options=made, note=note
    )


def _usual(stack: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The stack's defaults of the method asked for."""
    method: Method = next(iter(options.get("methods", ())), "full")
    return find_stack(stack).defaults[method]


def _idle(methods: Sequence[str]) -> frozenset[str]:
    """Options that none of the methods reads."""
    idle: frozenset[str] = frozenset()
    if not {"lora", "qlora"} & set(methods):
        idle |= _OF_ADAPTERS
    return idle if "qlora" in methods else idle | _OF_A_4_BIT_BASE


def _without_idle(row: KeyReading, methods: Sequence[str]) -> KeyReading:
    read = {name: value for name, value in row.options.items() if name not in _idle(methods)}
    if len(read) == len(row.options):
        return row
    why = "no adapter is trained" if "full" in methods else "the base is not in 4 bit"
    if read or row.missing:
        return replace(row, options=read)
    return replace(row, options={}, state="costs nothing", note=why)
