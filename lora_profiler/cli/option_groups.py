"""How a command's options are shown: in groups, a dozen of them first."""

from collections.abc import Callable
from functools import partial
from itertools import groupby
from textwrap import fill
from typing import Any, TypeVar

import click

from lora_profiler.option import GROUP_TITLES

F = TypeVar("F", bound=Callable[..., Any])

OWN = "Options"
"""Of options that name no group: a command's own."""
SUBJECT = "What is trained"
DATA = "Data"
CARD = "Card and engine"
CASES = "Cases and records"
MEASURING = "Measuring"
REHEARSING = "Rehearsing"
OUTPUT = "Output"
ORDER = (
    *(OWN, SUBJECT, DATA),
    *GROUP_TITLES.values(),
    *(CARD, CASES, MEASURING, REHEARSING, OUTPUT),
)


class GroupedOption(click.Option):
    """An option with the group that it is shown in. One that is `rare` is left out of --help, and
    shown by --help-all."""

    def __init__(self, *args: Any, group: str, rare: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group
        self.rare = rare


def option(
    flags: str, metavar: str | None = None, help: str | None = None, **attributes: Any
) -> Callable[[F], F]:
    """`click.option` of `flags`, as in "-o --output"; last the parameter's name where it is another.
    What has neither a metavar nor a type is a switch."""
    if metavar is None and "type" not in attributes:
        attributes["is_flag"] = True
    return click.option(*flags.split(), metavar=metavar, help=help, **attributes)


def grouped(group: str) -> Callable[..., Callable[[F], F]]:
    """`option` for options of a group."""
    return partial(option, cls=GroupedOption, group=group)


def rare(group: str) -> Callable[..., Callable[[F], F]]:
    """The same for options that --help leaves out."""
    return partial(option, cls=GroupedOption, group=group, rare=True)


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Declares all of them, in this order."""

    def declare(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return declare


def is_rare(param: click.Parameter) -> bool:
    return isinstance(param, GroupedOption) and param.rare


def in_order(params: list[click.Parameter]) -> list[click.Parameter]:
    """Arguments, then options group by group, each group as it was declared."""
    return sorted(
        params, key=lambda p: ORDER.index(_group(p)) if isinstance(p, click.Option) else -1
    )


def help_all(params: list[click.Parameter]) -> list[click.Parameter]:
    """--help-all, where there are options that --help leaves out."""
    more = sum(is_rare(param) and not getattr(param, "hidden", False) for param in params)
    if not more:
        return []
    return [
        GroupedOption(
            ["--help-all"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_show_all,
            help=f"Show all options, {more} more, in groups, and exit.",
            group=OUTPUT,
        )
    ]


def write_options(
    params: list[click.Parameter], ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    """The dozen in one list, or, where --help-all asks for them, all in their groups; --help, which
    click puts last, in the last one."""
    if not ctx.meta.get(_ALL) and any(map(is_rare, params)):
        _write(OWN, [param for param in params if not is_rare(param)], ctx, formatter)
        return
    *options, help_option = params
    groups = [(title, list(members)) for title, members in groupby(options, _group)]
    groups[-1][1].append(help_option)
    for title, members in groups:
        _write(title, members, ctx, formatter)


_ALL = f"{__name__}.all"
_WIDEST = 30
"""Columns for the names of options, beside which their help stands."""


def _show_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help())
        ctx.exit()


def _group(param: click.Parameter) -> str:
    return param.group if isinstance(param, GroupedOption) else OWN


def _write(
    title: str, params: list[click.Parameter], ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    records = [
        record
        for param in params
        if isinstance(param, click.Option) and (record := param.get_help_record(ctx))
    ]
    if records:
        column = min(max(len(term) for term, _ in records), _WIDEST)
        width = max(formatter.width - column - 4, 10)
        with formatter.section(title):
            # after a backspace alone in its line click leaves text as it is
            formatter.write_dl(
                [(term, f"\b\n{wrapped(text, width)}") for term, text in records], col_max=_WIDEST
            )


def wrapped(text: str, width: int) -> str:
    """Broken at spaces alone: click breaks lines at hyphens too, and nobody can copy half of
    trl-sft."""
    return fill(text, width, break_long_words=False, break_on_hyphens=False)
