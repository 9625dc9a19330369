"""How a command's options are declared and shown: in groups, a line each, the common ones first."""

from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from itertools import groupby
from textwrap import fill
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lora_profiler._common.messages import printable
from lora_profiler.question.option import GROUP_TITLES

if TYPE_CHECKING:
    from lora_profiler.trainer_files.reading import LoneKey


# --- groups ---------------------------------------------------------------------------------------

F = TypeVar("F", bound=Callable[..., Any])

OWN = "Options"
"""Of options that name no group: a command's own."""
SUBJECT = "Model and method"
DATA = "Data"
CARD = "GPU"
CASES = "Cases and records"
MEASURING = "Measuring"
REHEARSING = "Rehearsal"
OUTPUT = "Output"
ORDER = (
    *(OWN, SUBJECT),
    *GROUP_TITLES.values(),
    *(DATA, CARD, CASES, MEASURING, REHEARSING, OUTPUT),
)
TRAINING = "Training"
"""Of what --help shows of these, which --help-all shows apart."""
_OF_TRAINING = (SUBJECT, *GROUP_TITLES.values(), DATA)


class GroupedOption(click.Option):
    """An option with the group that it is shown in. One that is `rare` is left out of --help, and
    shown by --help-all. `show_default` may be what the help says in place of the default; `settle`
    is called once all options are read, where this one is given."""

    def __init__(
        self,
        names: Sequence[str],
        group: str = OWN,
        rare: bool = False,
        settle: Callable[[click.Context], None] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("show_default", kwargs.get("default") is not None)
        super().__init__(names, **kwargs)
        self.group = group
        self.rare = rare
        self.settle = settle

    @property
    def flag(self) -> str:
        return max(self.opts, key=len)

    @property
    def default_text(self) -> str:
        if isinstance(self.show_default, str):
            return self.show_default
        if self.is_flag:
            return "on" if self.default is True else "off" if self.secondary_opts else ""
        return str(self.default) if self.show_default else ""

    @property
    def values(self) -> str:
        """The words that it accepts, where its help does not name them all."""
        words = list(map(str, getattr(self.type, "choices", ())))
        return "" if all(word in (self.help or "") for word in words) else ", ".join(words)

    def shown_flags(self, *, whole: bool) -> str:
        """'-r, --rank'; of all that --help-all shows with the form of the value, and of a switch
        with its negative."""
        short = next((opt for opt in self.opts if len(opt) == 2), "")
        name = f"{short}, {self.flag}" if short else f"    {self.flag}"
        if whole and self.secondary_opts:
            return name.replace("--", "--[no-]", 1)
        return f"{name} {self.metavar}" if whole and self.metavar else name


def option(
    flags: str, metavar: str | None = None, help: str = "", **attributes: Any
) -> Callable[[F], F]:
    """`click.option` of `flags`, as in "-o --output"; last the parameter's name where it is another.
    What has neither a metavar nor a type is a switch."""
    if metavar is None and "type" not in attributes:
        attributes["is_flag"] = True
    cls = GroupedOption
    return click.option(*flags.split(), metavar=metavar, help=help, cls=cls, **attributes)


def grouped(group: str) -> Callable[..., Callable[[F], F]]:
    return partial(option, group=group)


def rare(group: str) -> Callable[..., Callable[[F], F]]:
    return partial(option, group=group, rare=True)


def together(*options: Callable[[F], F]) -> Callable[[F], F]:

    def declare(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return declare


def shown_options(command: click.Command) -> list[GroupedOption]:
    return [p for p in command.params if isinstance(p, GroupedOption) and not p.hidden]


def num_rare(command: click.Command) -> int:
    return sum(option.rare for option in shown_options(command))


def in_order(params: list[click.Parameter]) -> list[click.Parameter]:
    """Arguments, then options group by group, each group as it was declared."""
    return sorted(
        params, key=lambda p: ORDER.index(p.group) if isinstance(p, GroupedOption) else -1
    )


def help_all(params: list[click.Parameter]) -> list[click.Parameter]:
    """--help-all, where there are options that --help leaves out."""
    if not any(isinstance(param, GroupedOption) and param.rare for param in params):
        return []
    kind: dict[str, Any] = {"is_flag": True, "expose_value": False, "is_eager": True}
    return [click.Option(["--help-all"], callback=_show_all, help="show all options", **kind)]


_ALL = f"{__name__}.all"


def _show_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def shows_all(ctx: click.Context) -> bool:
    """Whether the whole help is shown: it was requested, or there is no shorter one."""
    return bool(ctx.meta.get(_ALL)) or not num_rare(ctx.command)


# --- the lines ------------------------------------------------------------------------------------

TEXT_WIDTH = 43
"""Columns of an option's text in --help, before its default."""
_WIDEST = 26
"""Columns for the names of options; the text of a wider one begins in the next line."""


def option_lines(ctx: click.Context, width: int) -> Iterator[str]:
    """The options in their groups, each with its text and its default in brackets."""
    whole = shows_all(ctx)
    options = [option for option in shown_options(ctx.command) if whole or not option.rare]
    names = [len(option.shown_flags(whole=whole)) for option in options]
    column = 4 + max((size for size in names if size <= _WIDEST), default=_WIDEST)
    for title, members in groupby(options, lambda option: _title(option, whole=whole)):
        yield ""
        yield click.style(title, bold=True)
        for option in members:
            yield from _lines_of(option, column, width, whole=whole)


def _title(option: GroupedOption, *, whole: bool) -> str:
    return TRAINING if not whole and option.group in _OF_TRAINING else option.group


def _lines_of(option: GroupedOption, column: int, width: int, *, whole: bool) -> Iterator[str]:
    flags = option.shown_flags(whole=whole)
    text = option.help or ""
    default = f"[{option.default_text}]" if option.default_text else ""
    room = width - column
    if len(text) <= TEXT_WIDTH and TEXT_WIDTH + len(default) <= room:
        lines = [f"{text:{TEXT_WIDTH if default else 0}}{click.style(default, dim=True)}"]
    else:
        lines = wrapped(f"{text} {default}".strip(), max(room, 10)).split("\n")
    if whole and option.values:
        lines += wrapped(option.values, max(room, 10)).split("\n")
    name = "  " + click.style(flags, bold=True)
    if len(flags) + 4 > column:
        yield name
    else:
        yield (name + " " * (column - 2 - len(flags)) + lines.pop(0)).rstrip()
    yield from (" " * column + line for line in lines)


def wrapped(text: str, width: int, indent: str = "") -> str:
    """Broken at spaces alone: click breaks lines at hyphens too, and no one can copy half of
    trl-sft."""
    return fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


# --- what click refuses ---------------------------------------------------------------------------

# What is said of a command line that click refuses: in the words that were typed, with an option
# that may be meant.

_SHOWN = 3
_ANY_SIZE = 1
"""Of a key whose value is missing, to learn what it is a size of."""


def message_of(error: click.ClickException) -> str:
    if isinstance(error, click.MissingParameter) and error.param is not None and error.ctx:
        missing, usage = error.param.make_metavar(error.ctx), error.ctx.get_usage()
        if isinstance(error.param, click.Option):
            missing = f"{error.param.opts[0]} {missing}"
            command = error.ctx.command_path
            rest = usage.partition(command)[2].removesuffix("[OPTIONS]").strip()
            usage = f"Usage: {command} {missing} {rest}"
        return f"{missing.removesuffix('...')} is missing. {usage}"
    if isinstance(error, click.BadOptionUsage):
        takes_none = "does not take a value" in error.message
        return f"{error.option_name} {'takes no value' if takes_none else 'needs a value'}"
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
    if _alike(name, shown_options(ctx.command)):
        return ""
    if elsewhere := _other_commands(f"--{name}", ctx):
        return elsewhere
    return _of_no_option(theirs, flags) if theirs is not None and not theirs.options else ""


def _alike(name: str, options: Sequence[GroupedOption]) -> list[str]:
    """Options that are the plural or singular of the name, or whose help begins with it."""
    return [
        option.flag
        for option in options
        if f"--{name}" in (f"{option.flag}s", option.flag.removesuffix("s"))
        or (option.help or "").startswith(f"{name}: ")
    ]


def _close(typed: str, ctx: click.Context) -> list[str]:
    """Options that may be meant, the likeliest alone where one is spelt so but for "_"."""
    options, flags = shown_options(ctx.command), _flags(ctx)
    name = typed.removeprefix("--").replace("_", "-")
    if f"--{name}" in flags:
        return [f"--{name}"]
    if whole := [f"{option.flag} {name}" for option in options if name in _values_of(option)]:
        return whole
    ways = (find(name, options) for find in (_alike, _by_words, _by_choice))
    return next(filter(None, ways), None) or get_close_matches(f"--{name}", flags, cutoff=0.75)


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
