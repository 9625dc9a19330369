"""How a command's options are declared and shown: in groups, a line each, the common ones first."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from textwrap import fill
from typing import Any, TypeVar

import click

from lora_profiler.question.option import GROUP_TITLES

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
    shown by --help-all. `show_default` may be what the help says in place of the default."""

    def __init__(
        self, names: Sequence[str], group: str = OWN, rare: bool = False, **kwargs: Any
    ) -> None:
        kwargs.setdefault("show_default", kwargs.get("default") is not None)
        super().__init__(names, **kwargs)
        self.group = group
        self.rare = rare

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
    return [
        click.Option(
            ["--help-all"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_show_all,
            help="show all options",
        )
    ]


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
