"""What is said of an option that a command does not have, and of one that was given two values."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from lora_profiler._common.printable import printable

if TYPE_CHECKING:
    from lora_profiler.trainer_files.reading import LoneKey

_SHOWN = 3
_ANY_SIZE = 1
"""Of a key whose value is missing, to learn what it is a size of."""


def with_hint(
    error: click.NoSuchOption, words: Sequence[str], ctx: click.Context
) -> click.UsageError:
    """The error with what may be meant: our name of what a trainer calls so, another command that
    has it, or an option that is nearly called so."""
    hint = _hint(error, words, ctx)
    if not hint:
        return error
    name = error.option_name
    message = f"No such option {name!r}. {printable(hint)}"
    return click.NoSuchOption(name, message=message, ctx=ctx)


def _hint(error: click.NoSuchOption, words: Sequence[str], ctx: click.Context) -> str:
    from lora_profiler.trainer_files.reading import lone_key

    options = _options(ctx.command)
    flags = {opt for option in options for opt in (*option.opts, *option.secondary_opts)}
    name = error.option_name.removeprefix("--").replace("_", "-")
    if f"--{name}" in flags:
        return _meant([f"--{name}"])
    key = name.replace("-", "_")
    theirs = lone_key(key, _values(error.option_name, words))
    if theirs is not None and (ours := _our_words(theirs, flags)):
        return _of_a_trainer(theirs, " ".join(ours))
    meaning = lone_key(key, [_ANY_SIZE]) if theirs is None else None
    if meaning is not None and (ours := _our_words(meaning, flags)):
        return _of_a_trainer(meaning, " ".join(word for word in ours if word in flags))
    if elsewhere := _other_commands(lambda option: f"--{name}" in option.opts, ctx):
        return f"{elsewhere} {_meant(get_close_matches(f'--{name}', flags, cutoff=0.8))}".strip()
    if theirs is not None and not theirs.options:
        return _of_no_option(theirs, flags)
    if close := _by_words(name, options) or _by_choice(name, options):
        return _meant(close)
    return _other_commands(lambda option: _is_part(name, option), ctx) or _meant(
        error.possibilities
    )


def _meant(flags: Sequence[str] | None) -> str:
    return f"Did you mean {', '.join(flags[:_SHOWN])}?" if flags else ""


def _options(command: click.Command) -> list[click.Option]:
    return [p for p in command.params if isinstance(p, click.Option) and not p.hidden]


def _values(name: str, words: Sequence[str]) -> list[Any]:
    """What an option may have been given: the word behind it, and, since it may be a switch, that
    it is on."""
    from lora_profiler.trainer_files.scripts import plain

    for word, after in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith(f"{name}="):
            return [plain(word.partition("=")[2])]
        if word == name and not after.startswith("--"):
            return [plain(after), True]
    return [True]


# --- a trainer's name -----------------------------------------------------------------------------


def _our_words(theirs: "LoneKey", flags: set[str]) -> list[str]:
    """--kernels liger --loss fused, or nothing where the command has not all of them."""
    from lora_profiler.report.trainer_file import option_words

    if "model" in theirs.options:
        return ["MODEL"]
    words = option_words(theirs.options)
    return words if flags.issuperset(word for word in words if word.startswith("--")) else []


def _of_a_trainer(theirs: "LoneKey", ours: str) -> str:
    what = f"What {theirs.title} calls {theirs.key}"
    if theirs.missing:
        nearest = f"; nearest is {ours}" if ours else ""
        return f"{what} is not modelled: {theirs.missing}{nearest}."
    return f"{what} is {ours} here." if ours else f"{what}: {theirs.note}."


def _of_no_option(theirs: "LoneKey", flags: set[str]) -> str:
    """num_train_epochs is none of a setup's, and may yet be --epochs."""
    if theirs.missing or theirs.note:
        return _of_a_trainer(theirs, "")
    last = f"--{theirs.key.rpartition('_')[2]}"
    unless = f", unless you mean {last}" if last in flags else ""
    return f"What {theirs.title} calls {theirs.key} changes no answer here; leave it out{unless}."


# --- another command, or another spelling ---------------------------------------------------------


def _other_commands(is_meant: Callable[[click.Option], bool], ctx: click.Context) -> str:
    """'--epochs is an option of lora-profile predict.': other commands' options that may be meant."""
    root = ctx.find_root().command
    assert isinstance(root, click.Group)
    verbs_by_flag: dict[str, list[str]] = {}
    for verb in sorted(root.list_commands(ctx), key=lambda verb: verb != "predict"):
        command = root.get_command(ctx, verb)
        for option in _options(command) if command and command is not ctx.command else ():
            if is_meant(option):
                verbs_by_flag.setdefault(_flag(option), []).append(verb)
    return " ".join(
        f"{flag} is an option of lora-profile {', '.join(verbs[:_SHOWN])}."
        for flag, verbs in list(verbs_by_flag.items())[:_SHOWN]
    )


def _flag(option: click.Option) -> str:
    return max(option.opts, key=len)


def _parts(option: click.Option) -> list[str]:
    return _flag(option).removeprefix("--").split("-")


def _is_part(name: str, option: click.Option) -> bool:
    """hours is part of --max-hours."""
    return set(name.split("-")) < set(_parts(option))


def _by_words(name: str, options: Sequence[click.Option]) -> list[str]:
    """batch and bs are --batch-size."""
    return [
        _flag(option)
        for option in options
        if _is_part(name, option)
        or (len(name) > 1 and name == "".join(part[0] for part in _parts(option)))
    ]


def _by_choice(name: str, options: Sequence[click.Option]) -> list[str]:
    """flash-attn is --attention flash."""
    return [
        f"{_flag(option)} {word}"
        for option in options
        if isinstance(option.type, click.Choice)
        for word in name.split("-")
        if word in option.type.choices
    ]


# --- two values -----------------------------------------------------------------------------------


def refuse_other_value(option: click.Option, words: Sequence[str], ctx: click.Context) -> None:
    """Raises UsageError where `words` give an option that takes one value several different ones:
    click would take the last."""
    values = list(dict.fromkeys(_parsed_values(option, words, ctx)))
    if len(values) < 2:
        return
    given = printable(", ".join(_as_typed(option, value) for value in values))
    raise click.UsageError(
        f"{_flag(option)} takes one value, and was given {len(values)}: {given}; leave out all but"
        f" one.{_several_values_hint(option)}",
        ctx,
    )


def _parsed_values(option: click.Option, words: Sequence[str], ctx: click.Context) -> Iterator[Any]:
    """Each value as it is parsed: what the first words give, then one word more, and so on."""
    count = 0
    for end in range(1, len(words) + 1):
        with suppress(click.UsageError):  # an option whose value is the next word
            parsed, _, order = ctx.command.make_parser(ctx).parse_args(list(words[:end]))
            if order.count(option) > count:
                count = order.count(option)
                yield parsed[option.name]


def _as_typed(option: click.Option, value: Any) -> str:
    if option.is_flag:
        return _flag(option) if value else max(option.secondary_opts, key=len)
    return " ".join((_flag(option), *((value,) if isinstance(value, str) else value)))


def _several_values_hint(option: click.Option) -> str:
    from lora_profiler.planning.sweep import sweep

    if "," in (option.metavar or ""):
        return " Several go into one value, with commas between them."
    sizes = [name for name, usual in (sweep.__kwdefaults__ or {}).items() if usual is None]
    return " From Python, lora_profiler.sweep answers many." if option.name in sizes else ""
