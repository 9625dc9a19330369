"""A trainer's file, key by key: as a table, as JSON, and as the command that it amounts to."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lora_profiler._common.printable import printable
from lora_profiler.option import flag
from lora_profiler.report.blocks import Block, heading, paragraph, shell_command, table
from lora_profiler.report.setup_words import option_argument
from lora_profiler.trainer_files.meaning import VLLM_SHARE
from lora_profiler.trainer_files.trainer_file import KeyReading, TrainerFile
from lora_profiler.workload import OPTIONS

_VALUE_WIDTH = 32
_KINDS = {option.name: option for option in OPTIONS}


def trainer_file_blocks(file: TrainerFile) -> list[Block]:
    """Each key as understood, what is asked for, and the command."""
    several = len({key.file for key in file.keys}) > 1
    keys = table(
        file.keys,
        (
            *([("file", lambda key: key.file)] if several else []),
            ("line", lambda key: str(key.line) if key.line else ""),
            ("key", lambda key: printable(key.key)),
            ("value", _value_text),
            ("reads as", lambda key: _reading_text(key, file.asks)),
        ),
        left=4 + several,
    )
    blocks: list[Block] = [
        heading(printable(f"{file.name}: {file.title}, {file.model or 'no model named'}")),
        keys,
        paragraph(counts_text(file)),
    ]
    if file.asks:
        wanted = ", ".join(map(flag, file.asks))
        blocks.append(paragraph(f"Asked for: {wanted}, which only the data or the machine tell."))
    return [*blocks, shell_command(printable(shlex.join(command_words(file))))]


def counts_text(file: TrainerFile) -> str:
    """'57 settings read, 14 affect memory or time, 2 not modelled, 1 unknown.'"""
    states = [key.state for key in file.keys]
    counts = (
        (states.count("option") + states.count("asks"), "affect memory or time"),
        (states.count("not modelled"), "not modelled"),
        (states.count("unknown"), "unknown"),
    )
    words = "".join(f", {n} {what}" for n, what in counts if n)
    return f"{len(states)} settings read{words}."


def command_words(file: TrainerFile) -> list[str]:
    """The command that asks the same, without what is asked for."""
    words = ["lora-profile", file.model or "MODEL", "--trainer", file.stack]
    if file.revision is not None:
        words += ["--revision", file.revision]
    given = {name: "" for name in file.asks}
    options = dict(file.completing(given))
    if file.vllm_share:
        options[VLLM_SHARE] = file.vllm_share
    return words + option_words(options)


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Options of a setup by name as the words of a command line; what is none is left out."""
    words = [word for method in options.get("methods", ()) for word in ("--method", method)]
    for name, value in options.items():
        if value is None:
            continue
        if (option := _KINDS.get(name)) is not None:
            words += option_argument(option, value, option.flag)
        elif name == VLLM_SHARE:
            words += [flag(name), str(value)]
    return words


def trainer_file_payload(file: TrainerFile) -> dict[str, Any]:
    """The document of `lora-profile read --format json`."""
    given = {name: "" for name in file.asks}
    return {
        "file": file.name,
        "framework": file.framework,
        "trainer": file.stack,
        "model": file.model,
        "revision": file.revision,
        "options": _plain(file.completing(given)),
        "asks": list(file.asks),
        "command": command_words(file),
        "keys": [
            {
                "file": key.file,
                "line": key.line or None,
                "key": key.key,
                "value": _plain_value(key.value),
                "state": key.state,
                "options": _plain(key.options),
                "not_modelled": key.missing or None,
                "direction": key.direction,
                "asks": list(key.asks),
                "note": key.note or None,
            }
            for key in file.keys
        ],
    }


def _reading_text(key: KeyReading, open_asks: Sequence[str]) -> str:
    words = " ".join(option_words(key.options))
    if key.state == "unknown":
        return "not known: nothing is made of it"
    parts = [words]
    if asks := [ask for ask in key.asks if ask in open_asks]:
        parts.append(f"asks for {', '.join(map(flag, asks))}")
    if key.missing:
        parts.append(f"not modelled: {key.missing} ({key.direction})")
    parts.append(key.note)
    if key.state == "costs nothing":
        parts.insert(0, "costs nothing")
    return "; ".join(filter(None, parts)) or "names the model"


def _value_text(key: KeyReading) -> str:
    value = key.value
    if value is None:
        return "null" if key.line else "(not set)"
    text = printable(str(value).replace("\n", " "))
    return text if len(text) <= _VALUE_WIDTH else f"{text[: _VALUE_WIDTH - 1]}…"


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain_value(value) for name, value in options.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain_value(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain_value(item) for name, item in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
