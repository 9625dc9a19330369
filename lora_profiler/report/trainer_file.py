"""A trainer's file, key by key: as a table, as JSON, and as the command that it amounts to."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lora_profiler._common.messages import printable
from lora_profiler.question.option import flag
from lora_profiler.question.workload import OPTIONS
from lora_profiler.report.answer.short_answer import is_short
from lora_profiler.report.blocks import (
    Block,
    Sign,
    Table,
    VerdictLine,
    advice,
    dim,
    paragraph,
    shell_command,
    table,
)
from lora_profiler.report.setup_words import option_argument
from lora_profiler.trainer_files.meaning import VLLM_SHARE
from lora_profiler.trainer_files.trainer_file import KeyReading, TrainerFile

_WIDTH, _LEAST_VALUE = 80, 12
"""Of the table, and of a value in it, which is cut."""
_KINDS = {option.name: option for option in OPTIONS}


def trainer_file_blocks(file: TrainerFile) -> list[Block]:
    """Whether all of it is understood, the keys that matter, the others by name, and the
    command."""
    doubtful = [key for key in file.keys if key.state in ("unknown", "not modelled")]
    words = f"{file.name} is understood:"
    rest = f" {counts_text(file)}"
    if doubtful:
        states = ("unknown", "known"), ("not modelled", "modelled")
        found = {key.state for key in doubtful}
        how = " or ".join(word for state, word in states if state in found)
        count = f"{len(doubtful)} of {len(file.keys)} settings"
        words = f"{count} {'is' if len(doubtful) == 1 else 'are'} not {how}:"
        rest = f" {', '.join(_place(key) for key in doubtful)}."
    sign: Sign = "tight" if doubtful else "fits"
    blocks: list[Block] = [VerdictLine(sign=sign, words=printable(words), rest=printable(rest))]
    if file.asks:
        wanted = " ".join(f"{flag(name)} N" for name in file.asks)
        blocks.append(advice(f"Add `{wanted}`: the file does not say it."))
    said = [key for key in file.keys if key.state != "costs nothing"]
    blocks += [_keys_table(file, said)] if said else []
    notes = [f"{_place(key)}: {key.note}." for key in file.keys if key.note]
    blocks += [paragraph(*map(printable, notes))] if notes else []
    idle = ", ".join(key.key for key in file.keys if key.state == "costs nothing" and not key.note)
    named = f"{file.title}, {file.model or 'no model named'}"
    others = [f"No effect on memory or time: {idle}."] if idle else []
    command = shell_command(printable(shlex.join(command_words(file))))
    whole = [*blocks, dim(*map(printable, (f"{named}.", *others))), command]
    if is_short(whole):
        return whole
    return [
        *blocks,
        dim(*map(printable, (f"{named}; the same as a command: `--format json`.", *others))),
    ]


def _place(key: KeyReading) -> str:
    return f"{key.key} (line {key.line})" if key.line else key.key


def _keys_table(file: TrainerFile, keys: Sequence[KeyReading]) -> Table:
    """Values are cut so that the table has 80 columns."""
    several = len({key.file for key in file.keys}) > 1
    readings = [_reading_text(key, file.asks) for key in keys]
    names = max(len(printable(key.key)) for key in keys)
    taken = 6 + names + 4 + max(map(len, readings))
    taken += 2 + max(len(key.file) for key in keys) if several else 0
    width = max(_WIDTH - taken, _LEAST_VALUE)
    return table(
        list(zip(keys, readings, strict=True)),
        (
            *([("file", lambda row: row[0].file)] if several else []),
            ("line", lambda row: str(row[0].line) if row[0].line else ""),
            ("setting", lambda row: printable(row[0].key)),
            ("value", lambda row: _value_text(row[0], width)),
            ("means", lambda row: row[1]),
        ),
        left=4 + several,
    )


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
    if key.state == "unknown":
        return "not known, left out"
    parts = [" ".join(option_words(key.options))]
    if asks := [ask for ask in key.asks if ask in open_asks]:
        parts.append(f"needs {', '.join(map(flag, asks))}")
    if key.missing:
        parts.append(f"not modelled: {key.missing} ({key.direction})")
    return "; ".join(filter(None, parts)) or ("see below" if key.note else "names the model")


def _value_text(key: KeyReading, width: int) -> str:
    value = key.value
    if value is None:
        return "null" if key.line else "(not set)"
    text = printable(str(value).replace("\n", " "))
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain_value(value) for name, value in options.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain_value(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain_value(item) for name, item in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
