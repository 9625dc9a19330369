"""A command line of TRL's scripts as a document: what its arguments say, by the keys of a file."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from lora_profiler.trainer_files.document import Document, Entry, TrainerFileError
from lora_profiler.trainer_files.frameworks.accelerate import COUNTED_BY_TORCHRUN
from lora_profiler.trainer_files.frameworks.trl import TASK
from lora_profiler.trainer_files.meaning import size

_TASKS = ("sft", "dpo", "grpo", "kto", "orpo", "cpo", "reward", "rloo", "gkd", "online_dpo", "ppo")
_LAUNCHERS = ("accelerate", "torchrun", "deepspeed", "python", "python3", "uv", "trl")
_SCRIPT = r".*?(?P<name>[\w\-]+)\.py"
_LAUNCH_KEYS = {
    "num_processes": "num_processes",
    "nproc_per_node": "num_processes",
    "nproc-per-node": "num_processes",
    "num_gpus": "num_processes",
    "mixed_precision": "mixed_precision",
    "zero_stage": "deepspeed_config.zero_stage",
    "offload_optimizer_device": "deepspeed_config.offload_optimizer_device",
    "offload_param_device": "deepspeed_config.offload_param_device",
    "fsdp_sharding_strategy": "fsdp_config.fsdp_sharding_strategy",
    "fsdp_offload_params": "fsdp_config.fsdp_offload_params",
}


class Word(NamedTuple):
    text: str
    line: int


class Command(NamedTuple):
    """The script's arguments, what the launcher was told, and the accelerate file that it names."""

    script: Document
    launcher: Document
    accelerate_file: str | None


def words_of(text: str, name: str) -> list[Word]:
    """The words of a command, with the line that each stands in."""
    stream = StringIO(text.replace("\\\n", " \n"))
    lexer = shlex.shlex(stream, posix=True)
    lexer.whitespace_split = True
    words: list[Word] = []
    try:
        while (token := lexer.get_token()) is not None:
            read = text[: stream.tell()].removesuffix("\n")
            words.append(Word(token, read.count("\n") + 1))
    except ValueError as e:
        raise TrainerFileError(f"{name} is no command line: {str(e).lower()}.") from None
    return words


def is_command(words: Sequence[Word]) -> bool:
    """Whether the words begin as a training command does."""
    rest = list(_without_assignments(words))
    return bool(rest) and (rest[0].text in _LAUNCHERS or bool(re.fullmatch(_SCRIPT, rest[0].text)))


def parse_command(words: Sequence[Word], name: str, folder: Path) -> Command:
    """Raises TrainerFileError for a command that starts none of TRL's scripts."""
    rest = list(_without_assignments(words))
    start = next((n for n, word in enumerate(rest) if _task_of(rest, n) is not None), None)
    if start is None:
        raise TrainerFileError(
            f"{name}: no script of TRL is started there, as in `trl sft ...` or `python sft.py"
            " ...`."
        )
    task = _task_of(rest, start)
    entries = {TASK: Entry(TASK, task, rest[start].line)}
    for entry in _arguments(rest[start + 1 :], name):
        entries[entry.key] = entry
    launched = {entry.key: entry for entry in _arguments(rest[:start], name)}
    named = launched.get("config_file") or entries.pop("accelerate_config", None)
    told = dict(launched)
    for key in ("num_processes", "mixed_precision"):
        if key in entries:
            told[key] = entries.pop(key)
    known = {
        to: Entry(to, told[key].value, told[key].line)
        for key, to in _LAUNCH_KEYS.items()
        if key in told
    }
    if "num_processes" in known and known["num_processes"].value not in COUNTED_BY_TORCHRUN:
        of_each = known["num_processes"]
        try:
            ranks = size(of_each.value) * _nodes(rest[:start], told)
        except ValueError as e:
            raise TrainerFileError(f"{name}: the launcher's number of processes: {e}") from None
        known["num_processes"] = of_each._replace(value=ranks)
    if "multi_gpu" in told:
        known["distributed_type"] = Entry("distributed_type", "MULTI_GPU", told["multi_gpu"].line)
    return Command(
        script=Document(name, entries, folder),
        launcher=Document(name, known, folder),
        accelerate_file=None if named is None else str(named.value),
    )


def _nodes(launcher: Sequence[Word], told: Mapping[str, Entry]) -> int:
    """Machines whose processes are counted apart: torchrun and deepspeed count those of each, as
    accelerate does not. A range (1:4) is of an elastic launch, whose least is taken."""
    if any(word.text == "accelerate" for word in launcher):
        return 1
    named = next((told[key].value for key in ("nnodes", "num_nodes") if key in told), 1)
    return size(str(named).partition(":")[0])


def _task_of(words: Sequence[Word], n: int) -> str | None:
    word = words[n].text
    if n and words[n - 1].text == "trl" and word in _TASKS:
        return word
    script = re.fullmatch(_SCRIPT, word)
    if script is None:
        return None
    stem = script["name"].replace("run_", "")
    return next((task for task in sorted(_TASKS, key=len)[::-1] if task in stem), "sft")


def _without_assignments(words: Sequence[Word]) -> Iterator[Word]:
    """The command behind prompts and variables: $ HF_HUB_OFFLINE=1 trl sft."""
    rest = list(words)
    while rest and (rest[0].text in ("$", ">", "!", "time") or re.match(r"!?\w+=", rest[0].text)):
        rest.pop(0)
    yield from rest


def _arguments(words: Sequence[Word], name: str) -> Iterator[Entry]:
    """--key value, --key=value, --key a b c, and --key alone, which is on."""
    n = 0
    while n < len(words):
        word = words[n]
        n += 1
        if not word.text.startswith("--") or len(word.text) == 2:
            continue
        key, equals, value = word.text[2:].partition("=")
        if equals:
            yield Entry(key, plain(value), word.line)
            continue
        values = []
        while n < len(words) and not words[n].text.startswith("--"):
            values.append(plain(words[n].text))
            n += 1
        on: Any = True if not values else values[0] if len(values) == 1 else values
        yield Entry(key.replace("-", "_"), on, word.line)


def plain(text: str) -> Any:
    """A word as YAML would read it."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() in ("none", "null"):
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
