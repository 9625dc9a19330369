"""The command line that starts a trainer, as documents: its own command, or a script behind
accelerate, torchrun or DeepSpeed. Nothing is run. What starts each trainer is in
`features/trainers/<name>/started.py`.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from lora_profiler._common.process import LAUNCHERS, launcher_at, program
from lora_profiler.question.feature import names, part
from lora_profiler.trainer_files.accelerate import COUNTED_BY_TORCHRUN
from lora_profiler.trainer_files.document import Document, Entry, TrainerFileError, parse
from lora_profiler.trainer_files.meaning import TASK, is_on, size
from lora_profiler.trainer_files.scripts import plain

_SCRIPT = r".*?(?P<name>[\w\-]+)\.py"
_FILE = r".+\.(ya?ml|json)"
_OF_A_NODE = ("nproc_per_node", "num_gpus")
_LAUNCH_KEYS = {
    **dict.fromkeys(("num_processes", *_OF_A_NODE), "num_processes"),
    "mixed_precision": "mixed_precision",
    "zero_stage": "deepspeed_config.zero_stage",
    "offload_optimizer_device": "deepspeed_config.offload_optimizer_device",
    "offload_param_device": "deepspeed_config.offload_param_device",
    "deepspeed_config_file": "deepspeed_config.deepspeed_config_file",
    **{
        f"fsdp_{name}": f"fsdp_config.fsdp_{name}"
        for name in (
            "sharding_strategy",
            "offload_params",
            "version",
            "backward_prefetch",
            "activation_checkpointing",
            "reshard_after_forward",
        )
    },
}
_KINDS = {"multi_gpu": "MULTI_GPU", "use_fsdp": "FSDP", "use_deepspeed": "DEEPSPEED"}
"""Switches of `accelerate launch` -> its distributed_type."""
FORCED = "torchrun"
"""What a trainer's variable stands for that has torchrun start it on every visible GPU."""
LEFT_OUT = "~"
"""Before a key that is left out of the file."""


class Word(NamedTuple):
    text: str
    line: int


class Command(NamedTuple):
    """A training command. framework: whose arguments they are, None where they decide; file: the
    trainer's own file, which the `script`'s arguments overrule; program: the Python script that is
    started; assumed: what holds where the file does not say; launcher: what its launcher was given;
    accelerate_file: the one that it names."""

    framework: str | None
    file: str | None
    program: str | None
    assumed: Mapping[str, Entry]
    script: Document
    launcher: Document
    accelerate_file: str | None


class Arguments(NamedTuple):
    """The trainer's own file, if it is named, and what the other arguments set."""

    file: str | None
    entries: Sequence[Entry]


class Started(NamedTuple):
    """How a trainer is started: by two `words`, with one of its `tasks` in place of the second
    where it has some.

    `idle`: other words in place of the second, which train nothing.
    `accelerate_files`: accelerate's files that it brings, by name. `launching`: options that are
    none of its file's. `has_launcher`: behind `--` stand its launcher's. `is_for_each_gpu`: it
    starts a process for each visible GPU. `variables`: names in front of the command, and options
    of torchrun that they stand for. `begins`: where its arguments begin, of the words behind the
    two; `reads`: what they say; `assumed`: what holds where the file does not say, of the word
    before the arguments.
    """

    framework: str
    words: tuple[tuple[str, str], ...] = ()
    tasks: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    accelerate_files: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    launching: tuple[str, ...] = ()
    has_launcher: bool = False
    is_for_each_gpu: bool = False
    variables: tuple[tuple[str, str], ...] = ()
    begins: Callable[[Sequence[Word], int, str], int] | None = None
    reads: Callable[[Sequence[Word], str], Arguments] | None = None
    assumed: Callable[[Word], Mapping[str, Entry]] | None = None


@cache
def _trainers() -> tuple[Started, ...]:
    found = (part("trainers", name, "started", "STARTED") for name in names("trainers"))
    return tuple(started for started in found if started)


def _tasks() -> dict[str, Started]:
    return {task: started for started in _trainers() for task in started.tasks}


class _Start(NamedTuple):
    """Where the launcher's words end and the trainer's arguments begin."""

    launched: int
    arguments: int
    trainer: Started | None
    task: str | None = None
    program: str | None = None


_SETTING = r"(?m)^[ \t]*(?:(?:set|cd|source|echo|mkdir)\b.*|(export[ \t]+)?(\w+)=(\S*))[ \t]*$"
"""A line of a shell that starts nothing, or gives a variable its value."""
_CARDS = "CUDA_VISIBLE_DEVICES"


def without_settings(text: str) -> str:
    """A shell's script without such lines, each of which stays empty but for an exported number of
    processes, and with the values of its variables in their places."""
    counting = {_CARDS, *(name for started in _trainers() for name, _ in started.variables)}
    values = {name: value.strip("\"'") for _, name, value in re.findall(_SETTING, text) if name}

    def kept(setting: re.Match[str]) -> str:
        return f"{setting[2]}={setting[3]}" if setting[1] and setting[2] in counting else ""

    text = re.sub(_SETTING, kept, text)
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda m: values.get(m[1] or m[2], m[0]), text)


def words_of(text: str, name: str) -> list[Word]:
    """The words of a command, with the line that each stands in."""
    stream = StringIO(text.replace("\\\n", " \n"))
    lexer = shlex.shlex(stream, posix=True)
    lexer.whitespace_split = True
    words: list[Word] = []
    line, counted = 1, 0
    try:
        while (token := lexer.get_token()) is not None:
            read = stream.tell()
            end = read - text.endswith("\n", 0, read)  # the line that a word ends is its own
            line += text.count("\n", counted, end)
            counted = max(counted, end)
            words.append(Word(token, line))
    except ValueError as e:
        raise TrainerFileError(f"{name} is no command line: {str(e).lower()}.") from None
    return words


def is_command(words: Sequence[Word]) -> bool:
    """Whether the words begin as a training command does."""
    rest = _without_assignments(words)
    return bool(rest) and (
        program(rest[0].text) in LAUNCHERS or bool(re.fullmatch(_SCRIPT, rest[0].text))
    )


def parse_command(words: Sequence[Word], name: str, folder: Path) -> Command:
    """Raises TrainerFileError for a command that starts no known trainer."""
    rest = _without_assignments(words)
    start = _start(rest, name)
    if start is None:
        raise no_trainer(words, name)
    trainer = start.trainer
    arguments, behind = _divided(rest[start.arguments :], trainer)
    file, options = _arguments(arguments, trainer, name)
    entries = {entry.key: entry for entry in options}
    if start.task is not None:
        entries = {TASK: Entry(TASK, start.task, rest[start.launched].line), **entries}
    before = [*rest[: start.launched], *behind]
    launched = {entry.key: entry for entry in _options(before, name)}
    named = launched.get("config_file") or entries.pop("accelerate_config", None)
    brought = trainer.accelerate_files.get(str(named.value)) if trainer and named else None
    launcher = {**_from_variables(words, before, start), **launched}
    if "nnodes" in launcher and not {"num_processes", *_OF_A_NODE} & launcher.keys():
        launcher["nproc_per_node"] = launcher["nnodes"]._replace(value=1)  # torchrun's own
    for key in ("num_processes", "mixed_precision"):
        if key in entries:
            launcher[key] = entries.pop(key)
    if trainer is not None:
        entries = {key: e for key, e in entries.items() if key not in trainer.launching}
    if trainer is None or trainer.tasks:
        config = entries.pop("config", None)
        file = file or (str(config.value) if config is not None else None)
    known = {
        to: Entry(to, launcher[key].value, launcher[key].line)
        for key, to in _LAUNCH_KEYS.items()
        if key in launcher
    }
    if "num_processes" in known and known["num_processes"].value not in COUNTED_BY_TORCHRUN:
        of_each = known["num_processes"]
        try:
            ranks = size(of_each.value) * _nodes(before, launcher)
        except ValueError as e:
            raise TrainerFileError(f"{name}: the launcher's number of processes: {e}") from None
        known["num_processes"] = of_each._replace(value=ranks)
    for key, kind in _KINDS.items():
        if key in launcher:
            known["distributed_type"] = Entry("distributed_type", kind, launcher[key].line)
    if named is not None and brought is not None:
        known = {key: Entry(key, value, named.line) for key, value in brought.items()} | known
        named = None
    is_assumed = trainer is not None and trainer.assumed
    return Command(
        framework=trainer and trainer.framework,
        file=file,
        program=start.program,
        assumed=is_assumed(rest[start.arguments - 1]) if is_assumed else {},
        script=Document(name, entries, folder),
        launcher=Document(name, known, folder),
        accelerate_file=None if named is None else str(named.value),
    )


def overruled(of_file: Mapping[str, Entry], given: Mapping[str, Entry]) -> dict[str, Entry]:
    """The file's entries, with those that the command gives in place of its own."""
    gone = [key.removeprefix(LEFT_OUT) for key in given if key.startswith(LEFT_OUT)]
    kept = {
        key: entry
        for key, entry in of_file.items()
        if not any(key == name or key.startswith(f"{name}.") for name in gone)
    }
    return kept | {key: entry for key, entry in given.items() if not key.startswith(LEFT_OUT)}


def no_trainer(words: Sequence[Word], name: str) -> TrainerFileError:
    """Of a command that starts no trainer whose arguments are known."""
    own = _without_assignments(words)
    command = " ".join(shlex.quote(word.text) for word in own[:4])
    more = " ..." if len(own) > 4 else ""
    return TrainerFileError(
        f"{name} starts no known trainer (TRL, axolotl, LLaMA-Factory, torchtune). Run it on a"
        f" simulated GPU: `lora-profile rehearse --gpu t4 -- {command}{more}`"
    )


def trains_nothing(started: str, name: str) -> TrainerFileError:
    """Of a command of a trainer's that is no training."""
    return TrainerFileError(f"{name}: `{started}` trains nothing; name a command that does.")


def _start(words: Sequence[Word], name: str) -> _Start | None:
    by_words = {pair: started for started in _trainers() for pair in started.words}
    by_task = _tasks()
    idle = {first: started.idle for started in _trainers() for first, _ in started.words}
    for n, word in enumerate(words):
        following = words[n + 1].text if n + 1 < len(words) else ""
        name_of = program(word.text)
        if following in idle.get(name_of, ()):
            raise trains_nothing(f"{name_of} {following}", name)
        of_task = by_task.get(following)
        if of_task is not None and name_of == of_task.framework:
            return _Start(n + 1, n + 2, of_task, task=following)
        started = by_words.get((name_of, following))
        if started is not None and started.begins:
            begin = started.begins(words, n + 2, name)
            return _Start(begin - 1, begin, started)
        if started is not None:
            return _Start(n, n + 2, started)
        if script := re.fullmatch(_SCRIPT, word.text):
            parts = set(re.split("[_-]", script["name"]))
            longest_first = sorted(by_task, key=len, reverse=True)
            task = next((t for t in longest_first if parts >= set(t.split("_"))), None)
            trainer = by_task[task] if task else None
            return _Start(n, n + 1, trainer, task=task, program=word.text)
    return None


def _from_variables(
    words: Sequence[Word], before: Sequence[Word], start: _Start
) -> dict[str, Entry]:
    """How many processes the variables in front of the command make of it: the trainer's own, or
    one for each visible GPU where the launcher counts them."""
    variables = {
        key.lstrip("!"): Word(value, word.line)
        for word in words[: len(words) - len(_without_assignments(words))]
        for key, _, value in [word.text.partition("=")]
    }
    found: dict[str, Entry] = {}
    trainer = start.trainer
    for name, key in trainer.variables if trainer else ():
        if name in variables and is_on(value := plain(variables[name].text)):
            found[key] = Entry(key, value, variables[name].line)
    if "nproc_per_node" in found:
        return found
    counting = {"accelerate", "deepspeed", *(t.framework for t in _tasks().values())}
    counts = {program(word.text) for word in before} & counting
    cards = variables.get(_CARDS)
    forced = next((e for key, e in found.items() if key == FORCED or e.value != 1), None)
    if cards is not None and (counts or (trainer and trainer.is_for_each_gpu)):
        number = len(cards.text.split(","))
        if number > 1 or forced:
            found["num_processes"] = Entry("num_processes", number, cards.line)
    elif forced is not None:
        found["num_processes"] = forced._replace(key="num_processes", value="gpu")
    return found


def _nodes(launcher: Sequence[Word], entries: Mapping[str, Entry]) -> int:
    """Machines whose processes are counted apart: torchrun and deepspeed count those of each, as
    accelerate does not. A range (1:4) is of an elastic launch, whose least is taken."""
    if any(word.text == "accelerate" for word in launcher):
        return 1
    named = next((entries[key].value for key in ("nnodes", "num_nodes") if key in entries), 1)
    return size(str(named).partition(":")[0])


def _without_assignments(words: Sequence[Word]) -> list[Word]:
    return list(words[launcher_at([word.text for word in words]) :])


def _divided(words: Sequence[Word], trainer: Started | None) -> tuple[list[Word], list[Word]]:
    """A trainer's own arguments, and its launcher's, which stand behind --."""
    texts = [word.text for word in words]
    if trainer is None or not trainer.has_launcher or "--" not in texts:
        return list(words), []
    return list(words[: texts.index("--")]), list(words[texts.index("--") + 1 :])


def _arguments(words: list[Word], trainer: Started | None, name: str) -> Arguments:
    """The file that the arguments begin with, and what they say beside it."""
    if trainer is not None and trainer.reads:
        return trainer.reads(words, name)
    if not words or words[0].text.startswith("-"):
        return Arguments(None, list(_options(words, name)))
    has_launcher = trainer is not None and trainer.has_launcher
    if has_launcher or re.fullmatch(_FILE, words[0].text):
        has_options = any(word.text.startswith("--") for word in words)
        read = _options if has_options or has_launcher else assigned
        return Arguments(words[0].text, list(read(words[1:], name)))
    return Arguments(None, list(_options(words, name)))


def assigned(words: Sequence[Word], name: str) -> Iterator[Entry]:
    """key=value as OmegaConf takes it, and ~key, which leaves the key out."""
    for word in words:
        key, equals, value = word.text.partition("=")
        if key.startswith(LEFT_OUT):
            yield Entry(key, None, word.line)
        elif not equals or not key:
            raise TrainerFileError(f"{name}: {word.text!r} is no KEY=VALUE.")
        else:
            yield from _entries(key, value, word.line, name)


def _entries(key: str, text: str, line: int, name: str) -> Iterator[Entry]:
    """A key with its value, which may be a list or a mapping as YAML and JSON write them."""
    if text[:1] not in ("[", "{"):
        yield Entry(key, plain(text), line)
        return
    for entry in parse(f"{key}: {text}", name, None, is_json=False).entries.values():
        yield entry._replace(line=line)


def _options(words: Sequence[Word], name: str) -> Iterator[Entry]:
    """--key value, --key=value, --key a b c, and --key alone, which is on, as --no-key is off."""
    n = 0
    while n < len(words):
        word = words[n]
        n += 1
        if not _is_option(word.text):
            continue
        key, equals, value = word.text.lstrip("-").partition("=")
        key = key.replace("-", "_")
        if equals:
            yield from _entries(key, value, word.line, name)
            continue
        values = []
        while n < len(words) and not _is_option(words[n].text):
            values.append(words[n].text)
            n += 1
        if not values and key.startswith("no_") and key != "no_cuda":
            yield Entry(key.removeprefix("no_"), False, word.line)
        elif len(values) == 1:
            yield from _entries(key, values[0], word.line, name)
        else:
            yield Entry(key, [plain(value) for value in values] or True, word.line)


def _is_option(text: str) -> bool:
    return bool(re.match(r"--?[A-Za-z]", text))
