"""From a trainer's file to the question that it is: the options that its keys mean, and what they
mean beside."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from os.path import isfile  # which no name makes raise
from pathlib import Path, PurePath
from typing import Any

from lora_profiler.errors import did_you_mean
from lora_profiler.question.feature import names, part
from lora_profiler.question.lora_kernel_set import SHARDED_APART, lora_kernel_set
from lora_profiler.question.loss import is_predicted_only, loss_facts
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.optimizer import optimizer_facts
from lora_profiler.question.option import WHOLE_WEIGHTS, check_value
from lora_profiler.question.support.images import PROCESSORS
from lora_profiler.question.support.optimizers import steps_on_shards
from lora_profiler.question.support.sharded_precision import as_shards
from lora_profiler.question.workload import (
    DEEPSPEED_ZERO,
    FLAT,
    FULLY_SHARDED,
    OPTIONS,
    idle_options,
)
from lora_profiler.trainer_files.accelerate import ACCELERATE, DEEPSPEED
from lora_profiler.trainer_files.document import (
    Document,
    Entry,
    TrainerFileError,
    at_hand,
    parse,
    read_text,
    text_of,
    unfolded,
)
from lora_profiler.trainer_files.meaning import (
    AUTO_DTYPE,
    HIDDEN_SQUARED,
    IMAGES,
    ONE_ROW,
    PLAIN_TASK,
    TASK,
    VLLM_SHARE,
    Framework,
    Meaning,
    no_effect,
)
from lora_profiler.trainer_files.scripts import LOADED
from lora_profiler.trainer_files.trainer_file import (
    KeyReading,
    State,
    TrainerFile,
    instead,
    settled_by,
    usual_options,
)

# --- what keys and files say together -------------------------------------------------------------

# What keys and files say together: how many ranks there are, what they can share, and what becomes
# of number formats and checkpointing there; and what goes with the images of a model that sees.

_ENDS = ("embed_tokens", "lm_head")
"""Names of the modules that FSDP1 is known to gather each for itself, trained whole."""


def resolved(
    options: dict[str, Any], rows: Sequence[KeyReading], known: Framework, stack: str
) -> Iterator[KeyReading]:
    """Readings of what no key says alone. `options` are changed: one rank shares nothing, unless it
    is DeepSpeed's, several share at least the work."""
    is_one = options.get("world_size") == 1 and options.get("sharding") not in DEEPSPEED_ZERO
    if is_one:
        del options["world_size"]
    has_ranks = "world_size" in options or any("world_size" in row.asks for row in rows)
    if is_one or not has_ranks:
        options.pop("sharding", None)
        options.pop("use_orig_params", None)
        options.pop("context_parallel_size", None)
        yield from _kept_on_card(options, rows[0].file)
        return
    if options.setdefault("sharding", "ddp") not in FLAT:
        options.pop("use_orig_params", None)
    file = rows[0].file
    usual = {**usual_options(stack, options), **options}
    for key, meaning in known.together(stack, usual, {row.key for row in rows}):
        options |= meaning.options
        yield _key_reading(file, key, meaning.options, meaning.note)
    yield from _able(options, usual, file)
    usual |= options
    if usual.get("precision") == "amp":
        yield from _without_autocast(options, usual, file)


_SCALED = ("ddp", "fsdp", "fsdp-no-reshard")
"""Where float16 autocast and its loss scaling are modelled."""


def _able(options: dict[str, Any], usual: dict[str, Any], file: str) -> Iterator[KeyReading]:
    """Where what is asked for has no rules on such ranks, the nearest that has."""
    optimizer, methods = usual.get("optimizer", "adamw"), options.get("methods", ())
    if usual.get("precision") == "amp-float16" and options["sharding"] not in _SCALED:
        options["precision"] = "amp"
        what = "mixed precision in float16 on shards, answered as bfloat16's"
        yield instead(file, "precision", "amp-float16", "amp", what, "either way")
    if "generation_batch_size" in options and options["sharding"] not in WHOLE_WEIGHTS:
        at_once = str(options.pop("generation_batch_size"))
        options["use_vllm"] = True
        what = f"generation under {options['sharding']}, which gathers weights, answered as vLLM's"
        yield instead(file, "generation_batch_size", at_once, None, what, "too low")
    parts = options.get("context_parallel_size", 1)
    if parts > 1 and (beside := _context_parallel_gap({**usual, **options})):
        del options["context_parallel_size"]
        what = f"context parallelism with {beside}, answered without"
        yield instead(file, "context_parallel_size", parts, None, what, "too high")
    on_host = bool(usual.get("offload_params"))
    if options["sharding"] in FULLY_SHARDED and not steps_on_shards(
        optimizer, options["sharding"], on_host
    ):
        options["optimizer"] = "adamw"
        what = f"{optimizer} on the shards of FSDP, answered as adamw"
        yield instead(file, "optimizer", optimizer, "adamw", what)
    moved = options.get("offload_optimizer_device", "none")
    if moved != "none" and not optimizer_facts(optimizer).on_host:
        options["optimizer"] = "adamw"
        what = f"{optimizer} on the host, answered as DeepSpeed's CPUAdam"
        yield instead(file, "optimizer", optimizer, "adamw", what, "either way")
    if usual.get("optimizer_in_bwd"):
        options["optimizer_in_bwd"] = False
        what = "an optimizer that steps in the backward pass of several ranks"
        yield instead(file, "optimizer_in_bwd", True, False, what)
    kernels = usual.get("lora_kernels", "peft")
    if "full" not in methods and kernels != "peft" and options["sharding"] in SHARDED_APART:
        options["lora_kernels"] = "peft"
        what = f"LoRA kernels under {options['sharding']}, answered as PEFT's adapters"
        yield instead(file, "lora_kernels", kernels, "peft", what)
    if options.get("quantize_experts") and options["sharding"] != "ddp":
        options["quantize_experts"] = False
        what = f"experts in 4 bit under {options['sharding']}, answered in 16"
        yield instead(file, "quantize_experts", True, False, what)
    if options["sharding"] in FLAT:
        loss, saved = usual.get("loss", "plain"), options.get("modules_to_save")
        is_known = saved and all(name.endswith(_ENDS) for name in saved.split(","))
        of = "" if loss_facts(loss).takes_flat_units else f"the {loss} loss"
        if saved and (not is_known or loss != "plain"):
            of = "modules_to_save"
        if of:
            named, options["sharding"] = options["sharding"], "fsdp"
            what = f"FSDP1 of {of}, answered as FSDP2"
            yield instead(file, "sharding", named, "fsdp", what, "either way")


def _context_parallel_gap(usual: dict[str, Any]) -> str:
    """What context parallelism is not known with, "" where it is."""
    loss, kernels = usual.get("loss", "plain"), usual.get("kernels", "transformers")
    gaps = {
        f"sharding {usual['sharding']}": usual["sharding"] != "fsdp",
        f"the {loss} loss": loss != "plain",
        f"{kernels}'s kernels": kernels != "transformers",
        "packed rows": usual.get("packed") is not None,
    }
    return next((what for what, applies in gaps.items() if applies), "")


def _kept_on_card(options: dict[str, Any], file: str) -> Iterator[KeyReading]:
    """What is asked to move where nothing says that DeepSpeed deals it out."""
    for name in ("offload_optimizer_device", "offload_param_device"):
        if (device := options.pop(name, "none")) != "none":
            yield instead(file, name, device, None, "DeepSpeed's offloading without ZeRO")


def _without_autocast(
    options: dict[str, Any], usual: dict[str, Any], file: str
) -> Iterator[KeyReading]:
    """bf16 as accelerate makes it of DeepSpeed, which makes all weights bfloat16, and of FSDP,
    which gathers what trains, kept in float32, in bfloat16; beside a 4-bit base FSDP's shards stay
    as the trainer made them (accelerate 1.15 `utils/fsdp_utils.py`, fsdp2_prepare_model)."""
    is_4_bit = "qlora" in options.get("methods", ())
    if options["sharding"] in DEEPSPEED_ZERO:
        made = {"precision": "pure", "dtype": "bfloat16"}
        note = "under DeepSpeed bf16 is no autocast: all weights are bfloat16"
    elif is_4_bit:
        if options["sharding"] in FLAT or options["sharding"] not in FULLY_SHARDED:
            return
        if usual.get("dtype", "bfloat16") != "bfloat16":
            return
        made = as_shards(is_4_bit=True)
        note = "under FSDP bf16 is its own mixed precision: what trains is gathered in bfloat16"
    elif options["sharding"] in FLAT:
        made = {"precision": "amp", "adapter_dtype": "float32"}
        if not {"lora", "qlora"} & set(options.get("methods", ())):
            made["dtype"] = "float32"
        note = "under FSDP1 bf16 is its own mixed precision: what trains is kept in float32"
    elif options["sharding"] in FULLY_SHARDED:
        is_adapted = "lora" in options.get("methods", ())
        made = as_shards(trains_whole=not is_adapted or bool(options.get("modules_to_save")))
        note = "under FSDP bf16 is its own mixed precision: what trains is kept in float32"
    else:
        return
    options |= made
    yield _key_reading(file, "bf16", made, note, value="amp")


def _key_reading(
    file: str, key: str, options: Any, note: str, *, value: str | None = None
) -> KeyReading:
    return KeyReading(
        file=file, line=0, key=key, value=value, state="option", options=options, note=note
    )


# --- images: what the model sees, and what goes with them -----------------------------------------


_ABOUT = ("images", "image_size")


def resolve_images(file: TrainerFile, model: ModelSpec | None) -> TrainerFile:
    """The file's images where those of `model` are priced and go with the rest, and the nearest
    options that do; else, and of a model that is not known, they are among what is missing."""
    return images_of_type(file, None if model is None else _type_that_sees(model))


def images_of_type(file: TrainerFile, kind: str | None) -> TrainerFile:
    """The same of a model by its type, None for one that sees nothing or is not known."""
    if "images" not in file.options:
        return file
    usual = file.effective_options
    untraced = is_predicted_only(str(usual.get("loss", "plain")))
    is_priced = kind in PROCESSORS and not (file.has_one_row or untraced or _is_shared(usual))
    if kind is None or not is_priced:
        keys = tuple(_unseen(row) if "images" in row.options else row for row in file.keys)
        options = {name: v for name, v in file.options.items() if name not in _ABOUT}
        return replace(file, options=options, keys=keys)
    changed = tuple(_nearest(file, usual, kind))
    own = {name: value for row in changed for name, value in row.options.items()}
    return replace(file, options={**file.options, **own}, keys=(*file.keys, *changed))


def _type_that_sees(model: ModelSpec) -> str | None:
    """Of the model whose text side it is, or its own; of one that is stored in 4 bit nothing tells
    how its tower is."""
    if model.stored is not None:
        return None
    return model.model_type if model.text_side_of is None else model.text_side_of.model_type


def _is_shared(options: dict[str, object]) -> bool:
    return options.get("sharding", "none") not in ("none", "ddp") or "packed" in options


def _unseen(row: KeyReading) -> KeyReading:
    options = {name: v for name, v in row.options.items() if name not in _ABOUT}
    return replace(
        row, options=options, state="not modelled", missing=IMAGES, direction="too low", note=""
    )


def _nearest(file: TrainerFile, options: dict[str, object], kind: str) -> Iterator[KeyReading]:
    flash = options.get("attention") == "flash_attention_2"
    if flash and not PROCESSORS[kind].flash_attention_2:
        note = "transformers refuses FlashAttention 2 of this type: it runs with SDPA"
        yield settled_by(file.name, "attention", "flash_attention_2", "auto", note)
    for option, usual in (("kernels", "transformers"), ("lora_kernels", "peft")):
        value = str(options.get(option, usual))
        if value == usual:
            continue
        joined = lora_kernel_set(value) if option == "lora_kernels" else None
        if joined and not joined.rules_alone and kind in joined.types:
            continue
        if joined and kind in joined.stops_at:
            yield settled_by(file.name, "lora_kernels", value, "peft", joined.stopped)
            continue
        what = f"{value}'s kernels of a vision-language model, predicted without them"
        yield instead(file.name, option, value, usual, what)


# --- a file as a question -------------------------------------------------------------------------

COMPANIONS = (ACCELERATE, DEEPSPEED)


@cache
def frameworks() -> tuple[Framework, ...]:
    """Those whose files are read, the ones that yield least first."""
    found = (part("trainers", name, "keys", "FRAMEWORK") for name in names("trainers"))
    return tuple(sorted(filter(None, found), key=lambda known: known.yields))


_NAMES_OF_THE_MODEL = ("model", "model_name", "pretrained_model_name_or_path")
_BY_NAME = {option.name: option for option in OPTIONS}


def read_files(paths: Sequence[Path], framework: str | None = None) -> TrainerFile:
    """The first path's file, and what stands beside it: accelerate's or DeepSpeed's.

    Raises TrainerFileError for what is no file of a known trainer, or contradicts itself.
    """
    first, beside, started = _documents(paths[0])
    for path in paths[1:]:
        beside += _companion_documents(path)
    return _read(first, beside, framework or started)


def read_document(
    document: Document, framework: str, beside: Sequence[Document] = ()
) -> TrainerFile:
    """A document of a known framework, and those of its launcher."""
    return _read(document, beside, framework)


def read_content(name: str, content: bytes) -> TrainerFile:
    """A file by its content alone: nothing that it names is looked for, on any disk.

    Raises TrainerFileError as `read_files` does, and for a script of a shell.
    """
    suffix = PurePath(name).suffix.lower()
    if suffix in (".ipynb", ".py"):
        from lora_profiler.trainer_files import scripts

        text = text_of(content, name, scripts.MAX_BYTES)
        return _read(scripts.parse_calls(text, name, None), [], None)
    if suffix not in (".yaml", ".yml", ".json"):
        raise TrainerFileError(f"{name} is no trainer's file: YAML, JSON, a notebook or Python.")
    document = parse(text_of(content, name), name, None, is_json=suffix == ".json")
    return _read(document, [], None)


def read_command(arguments: Sequence[str], folder: Path) -> TrainerFile:
    """The command line that starts a trainer, word by word; files that it names are looked for in
    `folder`. Raises TrainerFileError as `read_files` does, and for what starts no known trainer."""
    from lora_profiler.trainer_files.commands import Word

    words = [Word(argument, 0) for argument in arguments]
    return _read(*_command_documents(words, "the command", folder))


def is_companion(path: Path) -> bool:
    """Whether a file is accelerate's or DeepSpeed's."""
    try:
        document = parse(read_text(path), path.name, path.parent, is_json=path.suffix == ".json")
    except TrainerFileError:
        return False
    return recognised(document) in COMPANIONS


def recognised(document: Document) -> Framework | None:
    """The framework of which a document has most marks, None where it has none."""
    scores = {
        known.name: sum(mark in document.entries for mark in known.marks)
        for known in (*COMPANIONS, *frameworks())
    }
    best = max((*frameworks(), *COMPANIONS), key=lambda known: scores[known.name])
    return best if scores[best.name] else None


_Documents = tuple[Document, list[Document], str | None]
"""A trainer's, those beside it, and the framework that a command starts, where it says."""


def _documents(path: Path) -> _Documents:
    name = path.name
    if path.suffix in (".ipynb", ".py"):
        from lora_profiler.trainer_files import scripts

        text = read_text(path, scripts.MAX_BYTES)
        try:
            return scripts.parse_calls(text, name, path.parent), [], None
        except TrainerFileError:
            started = _started_in(text, name) if path.suffix == ".ipynb" else None
            if started is None:
                raise
            return _command_documents(started, name, path.parent)
    text = read_text(path)
    if path.suffix not in (".yaml", ".yml", ".json"):
        from lora_profiler.trainer_files.commands import is_command, without_settings, words_of

        words = words_of(without_settings(text), name)
        if is_command(words):
            return _command_documents(words, name, path.parent)
    document = parse(text, name, path.parent, is_json=path.suffix == ".json")
    return document, _named_files(document), None


def _started_in(text: str, name: str) -> Sequence[Any] | None:
    """The words of the first command in a notebook that starts a training, None where none does."""
    from lora_profiler.trainer_files import commands, scripts

    for command, before in scripts.shell_commands(text, name):
        with suppress(TrainerFileError):  # another command of the shell
            words = commands.words_of(commands.without_settings(command), name)
            if commands.is_command(words) and commands.parse_command(words, name, Path()):
                return [word._replace(line=word.line + before) for word in words]
    return None


def _named_files(document: Document) -> list[Document]:
    """The files that a document names and that are there."""
    beside = []
    for key in _SETTINGS:
        named = document.entries.get(key)
        path = document.named_file(named.value) if named is not None else None
        if path is not None and (key == "deepspeed" or is_companion(path)):
            beside += _companion_documents(path)
    return beside


def _companion_documents(path: Path) -> list[Document]:
    """accelerate's file and the one of DeepSpeed that it names, or DeepSpeed's alone."""
    document = parse(read_text(path), path.name, path.parent, is_json=path.suffix == ".json")
    if recognised(document) not in COMPANIONS:
        raise TrainerFileError(
            f"{path.name} is not a file of accelerate or DeepSpeed; only those can follow a"
            " trainer's file."
        )
    named = document.named_file(document.get("deepspeed_config.deepspeed_config_file"))
    return [document] if named is None else [document, *_companion_documents(named)]


def _command_documents(words: Sequence[Any], name: str, folder: Path) -> _Documents:
    from lora_profiler.trainer_files.commands import no_trainer, overruled, parse_command

    command = parse_command(words, name, folder)
    script, beside, framework = command.script, [command.launcher], command.framework
    document = None if command.program is None else _program(command, folder)
    if document is not None:
        script, framework = document, None
    elif command.program is not None and _decides_itself(command, folder):
        raise no_trainer(words, name)
    elif command.file is not None:
        of_file = _file_of(command.file, framework, folder)
        is_typed = not any(word.line for word in words)
        entries = {**command.assumed, **overruled(of_file.entries, script.entries)}
        script = Document(of_file.name if is_typed else name, entries, folder)
    known = recognised(script)
    if framework is None and known not in frameworks():
        raise no_trainer(words, name)
    takes_tasks = known is not None and TASK in known.keys
    if framework is None and document is None and takes_tasks and command.program:
        task = _task_in(command, folder)
        unknown = [key for key in script.entries if known and known.reader(key) is None]
        if task is None or any(map(_is_about_adapters, unknown)):
            raise no_trainer(words, name)
        script = replace_entry(script, TASK, task)
    config = "deepspeed_config.deepspeed_config_file"
    if (named := command.launcher.named_file(command.launcher.get(config))) is not None:
        beside += _companion_documents(named)
    if command.accelerate_file is not None:
        path = at_hand(folder, command.accelerate_file)
        if isfile(path):
            beside = [*_companion_documents(path), *beside]
        else:
            script = replace_entry(script, "deepspeed", command.accelerate_file)
    return script, [*_named_files(script), *(d for d in beside if d.entries)], framework


def _file_of(file: str, framework: str | None, folder: Path) -> Document:
    """The trainer's own file that a command names."""
    path = at_hand(folder, file)
    if framework == "torchtune" and path.suffix not in (".yaml", ".yml"):
        raise TrainerFileError(
            f"{file} is in torchtune's package; copy it with `tune cp {file} {path.name}.yaml` and"
            " name the copy."
        )
    return parse(read_text(path), path.name, path.parent, is_json=path.suffix == ".json")


_OF_ARGUMENTS = r"\b(HfArgumentParser|TrlParser|H4ArgumentParser)\b"
"""Parsers whose script trains what its arguments say."""


_OWN_ADAPTERS = r"\b(get_peft_model|\w*LoraConfig|BitsAndBytesConfig|load_in_[48]bit)\b"
"""What a script decides by arguments of its own, unless it takes TRL's ModelConfig."""


def _decides_itself(command: Any, folder: Path) -> bool:
    """Whether the script at hand makes adapters or a quantised base of arguments that it alone
    knows: `bits` of qlora.py."""
    text = _text_of(command, folder)
    return bool(re.search(_OWN_ADAPTERS, text)) and not re.search(r"\bModelConfig\b", text)


def _text_of(command: Any, folder: Path) -> str:
    """Of the script that a command starts; none where it is not at hand."""
    from lora_profiler.trainer_files import scripts

    path = at_hand(folder, command.program)
    return read_text(path, scripts.MAX_BYTES) if isfile(path) else ""


def _program(command: Any, folder: Path) -> Document | None:
    """The Python script that a command starts, where it is there and its own text says what it
    trains."""
    from lora_profiler.trainer_files import scripts

    path, text = at_hand(folder, command.program), _text_of(command, folder)
    if not isfile(path) or re.search(_OF_ARGUMENTS, text):
        return None
    given = {entry.key: entry.value for entry in command.script.entries.values()}
    try:
        return scripts.parse_calls(text, path.name, path.parent, given)
    except TrainerFileError:
        if command.file is None:
            raise
        return None  # it starts the trainer that the file is for


def _is_about_adapters(key: str) -> bool:
    """Whether an argument that is not known decides what trains."""
    return bool(re.search(r"lora|peft|adapter|quanti|[48]_?bit", key))


def _task_in(command: Any, folder: Path) -> str | None:
    """The task of the Trainer that the script at hand calls; None where none is there, since its
    arguments alone do not say what it trains."""
    text = _text_of(command, folder)
    bases = dict(re.findall(r"\bclass (\w*Trainer)\((?:\w+\.)*(\w*Trainer)\)", text))
    called = re.search(r"(?<!class )\b(\w*Trainer)\(", text)
    if called is None:
        return None
    name = called[1]
    while name in bases:
        name = bases.pop(name)
    name = name.removesuffix("Trainer")
    return PLAIN_TASK if name in ("", "Seq2Seq") else name.lower()


def replace_entry(document: Document, key: str, value: Any) -> Document:
    entries = {**document.entries, key: Entry(key, value, 0)}
    return Document(document.name, entries, document.folder)


_SETTINGS = ("deepspeed", "fsdp_config")
"""Keys of TrainingArguments whose value is the name of a JSON file, or what stands in one."""


def _with_settings(document: Document) -> tuple[Document, list[Document]]:
    """The document with the settings of FSDP that it names or has inline among its keys, and its
    own of DeepSpeed as a document (transformers 5.24 `training_args.py`, _VALID_DICT_FIELDS,
    _process_fsdp_args)."""
    entries: dict[str, Entry] = {}
    inline: dict[str, Entry] = {}
    for entry in document.entries.values():
        own = unfolded(entry, document.name) if entry.key in _SETTINGS else [entry]
        path = document.named_file(entry.value) if entry.key == "fsdp_config" else None
        if path is not None and not is_companion(path):
            named = parse(read_text(path), path.name, None, is_json=path.suffix == ".json")
            own = [
                Entry(f"fsdp_config.{key}", e.value, entry.line) for key, e in named.entries.items()
            ]
        for each in own:
            key = each.key.removeprefix("deepspeed.")
            into = entries if key == each.key else inline
            into[key] = each._replace(key=key)
    settings = Document(document.name, inline, None)
    return replace(document, entries=entries), [settings] if inline else []


def _read(first: Document, beside: Sequence[Document], framework: str | None) -> TrainerFile:
    first, inline = _with_settings(first)
    beside = [*inline, *beside]
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
    vllm_share = float(options.pop(VLLM_SHARE, 0))
    methods = options.get("methods", ())
    assert known.stack is not None
    stack = known.stack(first)
    has_hidden_bucket = bool(options.pop(HIDDEN_SQUARED, False))
    has_checkpoint_dtype = options.get("dtype") == AUTO_DTYPE
    if has_checkpoint_dtype:
        del options["dtype"]
    asks = dict.fromkeys(ask for row in rows for ask in row.asks if ask not in options)
    rows += resolved(options, rows, known, stack)
    model, revision = options.pop("model", None), options.pop("revision", None)
    if model is None:
        asks["model"] = None
    rows = [_without_idle(row, methods) for row in rows]
    idle = idle_options(methods)
    return TrainerFile(
        name=first.name,
        framework=known.name,
        title=known.title,
        stack=stack,
        model=model,
        revision=revision,
        options={name: value for name, value in options.items() if name not in idle},
        has_one_row=has_one_row,
        has_hidden_bucket=has_hidden_bucket,
        has_checkpoint_dtype=has_checkpoint_dtype,
        vllm_share=vllm_share,
        asks=tuple(asks),
        keys=tuple(sorted(rows, key=lambda row: (row.file != first.name, row.file, row.line))),
        sharding_of_several=known.sharding_of_several,
    )


def _framework(document: Document, name: str | None) -> Framework:
    if name is not None:
        by_name = {known.name: known for known in frameworks()}
        if name not in by_name:
            raise TrainerFileError(
                f"no trainer is called {name!r}; known: {', '.join(by_name)}."
                f"{did_you_mean(name, by_name)}"
            )
        return by_name[name]
    if document.name.endswith(".json") and "peft_type" in document.entries:
        base = document.entries.get("base_model_name_or_path")
        model = base.value if base and base.value else "MODEL"
        raise TrainerFileError(
            f"{document.name} is an adapter of PEFT; use `lora-profile {model} --peft-config FILE`."
        )
    known = recognised(document)
    if known is None:
        titles = ", ".join(framework.title for framework in frameworks())
        raise TrainerFileError(
            f"{document.name}: no trainer has these keys. Known: {titles}. Name it with --from."
        )
    if known in COMPANIONS:
        raise TrainerFileError(
            f"{document.name} is a file of {known.title}; give it after the trainer's file."
        )
    return known


def _rows(document: Document, known: Framework) -> Iterator[KeyReading]:
    """What each key means, in the order in which later ones overrule earlier ones."""
    own = list(_own_rows(document, known))  # first, since their errors name the key
    try:
        for key, meaning in known.implied(document):
            if document.get(key) is None:
                yield _row(document, Entry(key, None, 0), meaning)
    except TrainerFileError:
        raise  # which names the file and the key
    except ValueError as e:
        raise TrainerFileError(f"{document.name}: {e}") from None
    yield from own
    yield from _computed_rows(document, known)


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


def _computed_rows(document: Document, known: Framework) -> Iterator[KeyReading]:
    """Keys that can matter and whose value is not written out."""
    for key, line in document.computed.items():
        if key in _NAMES_OF_THE_MODEL or known.reader(key) in (None, no_effect):
            continue
        what = f"a value of {key} that the script computes, left to the default"
        meaning = known.computed.get(key, Meaning(missing=what, direction="either way"))
        yield _row(document, Entry(key, "(computed)", line), meaning)


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
        alternatives=meaning.alternatives,
    )


def _without_idle(row: KeyReading, methods: Sequence[str]) -> KeyReading:
    read = {name: value for name, value in row.options.items() if name not in idle_options(methods)}
    if len(read) == len(row.options):
        return row
    why = "no adapter is trained" if "full" in methods else "the base is not in 4 bit"
    if read or row.missing:
        return replace(row, options=read)
    return replace(row, options={}, state="costs nothing", note=why)


# --- a key by itself, without its file ------------------------------------------------------------


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
    with_files = [known for known in frameworks() if LOADED not in known.keys]
    meanings = [
        lone
        for framework in sorted(
            with_files, key=lambda known: (not known.takes_options, -known.yields)
        )
        for key in framework.keys
        if key == name or key.endswith(f".{name}")
        for lone in _readings(framework, key, values)
    ]
    return min(meanings, key=lambda lone: (not lone.options, bool(lone.missing)), default=None)


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
