"""What is said of a command line that click refuses: in the words that were typed, with an option
that may be meant."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from lora_profiler._common.printable import printable
from lora_profiler.cli.option_groups import GroupedOption, shown_options

if TYPE_CHECKING:
    from lora_profiler.trainer_files.reading import LoneKey

_SHOWN = 3
_ANY_SIZE = 1
"""Of a key whose value is missing, to learn what it is a size of."""


def message_of(error: click.ClickException) -> str:
    if isinstance(error, click.MissingParameter) and error.param is not None and error.ctx:
        missing = error.param.make_metavar(error.ctx).removesuffix("...")
        return f"{missing} is missing. {error.ctx.get_usage()}"
    if isinstance(error, click.BadOptionUsage):
        return f"{error.option_name} needs a value"
    if isinstance(error, click.NoSuchOption):
        return error.message
    if isinstance(error, click.BadParameter) and isinstance(error.param, GroupedOption):
        return f"{error.param.flag}: {error.message}"
    return error.format_message()


def unknown_option(
    error: click.NoSuchOption, words: Sequence[str], ctx: click.Context
) -> click.NoSuchOption:
    """The error with what may be meant: our name of what a trainer calls so, an option that is
    nearly called so, or where to search."""
    name = error.option_name
    word = name.strip("-").replace("_", "-")
    search = f"Search: `lora-profile options {word}`"
    hint = printable(_of_trainers(name, words, ctx)) or f"{_meant(_close(name, ctx))} {search}"
    message = f"unknown option {name}. {hint}"
    return click.NoSuchOption(name, message=message, ctx=ctx)


def _flags(ctx: click.Context) -> set[str]:
    options = shown_options(ctx.command)
    return {opt for option in options for opt in (*option.opts, *option.secondary_opts)}


def _of_trainers(typed: str, words: Sequence[str], ctx: click.Context) -> str:
    """What the name means to a trainer or to another command, '' where it is none of theirs."""
    from lora_profiler.trainer_files.reading import lone_key

    flags = _flags(ctx)
    name = typed.removeprefix("--").replace("_", "-")
    if f"--{name}" in flags:
        return ""
    key = name.replace("-", "_")
    theirs = lone_key(key, _values(typed, words))
    if theirs is not None and (ours := _our_words(theirs, flags)):
        return _of_a_trainer(theirs, " ".join(ours))
    meaning = lone_key(key, [_ANY_SIZE]) if theirs is None else None
    if meaning is not None and (ours := _our_words(meaning, flags)):
        return _of_a_trainer(meaning, " ".join(word for word in ours if word in flags))
    if elsewhere := _other_commands(f"--{name}", ctx):
        return elsewhere
    return _of_no_option(theirs, flags) if theirs is not None and not theirs.options else ""


def _close(typed: str, ctx: click.Context) -> list[str]:
    """Options that may be meant, the likeliest alone where one is spelt so but for "_"."""
    options, flags = shown_options(ctx.command), _flags(ctx)
    name = typed.removeprefix("--").replace("_", "-")
    if f"--{name}" in flags:
        return [f"--{name}"]
    whole = [f"{option.flag} {name}" for option in options if name in _values_of(option)]
    close = get_close_matches(f"--{name}", flags, cutoff=0.75)
    return whole or _by_words(name, options) or _by_choice(name, options) or close


def _meant(flags: Sequence[str] | None) -> str:
    return f"Did you mean `{', '.join(flags[:_SHOWN])}`?" if flags else ""


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
    name = f"{theirs.title}'s {theirs.key}"
    if theirs.missing:
        nearest = f" Nearest: `{ours}`." if ours else ""
        return f"{name} is not modelled: {theirs.missing}.{nearest}"
    return f"{name} is `{ours}` here." if ours else f"{name}: {theirs.note}."


def _of_no_option(theirs: "LoneKey", flags: set[str]) -> str:
    """num_train_epochs is none of a setup's, and may yet be --epochs."""
    if theirs.missing or theirs.note:
        return _of_a_trainer(theirs, "")
    last = f"--{theirs.key.rpartition('_')[2]}"
    meant = f" {_meant([last])}" if last in flags else ""
    return f"{theirs.title}'s {theirs.key} changes no answer; leave it out.{meant}"


# --- another command, or another spelling ---------------------------------------------------------


def options_of_commands(ctx: click.Context) -> Iterator[tuple[str, GroupedOption]]:
    root = ctx.find_root().command
    assert isinstance(root, click.Group)
    for verb in sorted(root.list_commands(ctx), key=lambda verb: verb != "predict"):
        command = root.get_command(ctx, verb)
        for option in shown_options(command) if command else ():
            yield verb, option


def _other_commands(flag: str, ctx: click.Context) -> str:
    """'--epochs is an option of lora-profile predict.'"""
    verbs = [verb for verb, option in options_of_commands(ctx) if flag in option.opts]
    return f"{flag} is an option of lora-profile {', '.join(verbs[:_SHOWN])}." if verbs else ""


def _by_words(name: str, options: Sequence[GroupedOption]) -> list[str]:
    """batch and bs are --batch-size."""
    parts = {option.flag: option.flag.removeprefix("--").split("-") for option in options}
    return [
        flag
        for flag, words in parts.items()
        if set(name.split("-")) < set(words)
        or (len(name) > 1 and name == "".join(word[0] for word in words))
    ]


def _by_choice(name: str, options: Sequence[GroupedOption]) -> list[str]:
    """flash-attn is --attention flash."""
    return [
        f"{option.flag} {word}"
        for option in options
        for word in name.split("-")
        if word in _values_of(option)
    ]


def _values_of(option: GroupedOption) -> Sequence[str]:
    return getattr(option.type, "choices", ())


# --- two values -----------------------------------------------------------------------------------


def refuse_other_value(option: GroupedOption, args: Sequence[str], ctx: click.Context) -> None:
    """Raises UsageError where `args` give an option that takes one value several different ones:
    click would take the last."""
    parser = ctx.command.make_parser(ctx)
    for parsed in (*parser._long_opt.values(), *parser._short_opt.values()):
        if parsed.obj is option:
            parsed.action = parsed.action.replace("store", "append")
    values = list(dict.fromkeys(parser.parse_args(list(args))[0][option.name]))
    if len(values) < 2:
        return
    given = printable(", ".join(_as_typed(option, value) for value in values))
    raise click.UsageError(
        f"{option.flag} takes one value. Given: {given}.{_several_values_hint(option)}", ctx
    )


def _as_typed(option: GroupedOption, value: Any) -> str:
    if option.is_flag:
        return option.flag if value else max(option.secondary_opts, key=len)
    return " ".join((option.flag, *((value,) if isinstance(value, str) else value)))


def _several_values_hint(option: GroupedOption) -> str:
    from lora_profiler.planning.sweep import sweep

    if "," in (option.metavar or ""):
        return " Several go into one value, with commas."
    sizes = [name for name, usual in (sweep.__kwdefaults__ or {}).items() if usual is None]
    return " From Python, lora_profiler.sweep answers many." if option.name in sizes else ""
