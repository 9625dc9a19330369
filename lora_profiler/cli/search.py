"""`lora-profile options WORD`: which option of which command is about that."""

import re
from collections.abc import Sequence

import click

from lora_profiler.cli.click_support import command
from lora_profiler.cli.option_groups import GroupedOption, wrapped
from lora_profiler.cli.option_mistakes import options_of_commands

_COLUMN = 28
_SHOWN = 40


@command(
    "options",
    "Search the options of all commands.",
    """
Examples:
  lora-profile options checkpointing
  lora-profile options batch size          all of the words
""",
)
@click.argument("words", metavar="WORD", nargs=-1, required=True)
@click.pass_context
def options_command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Search the names, texts and values of all options of all commands for WORD."""
    verbs: dict[tuple[str, str], list[str]] = {}
    options: dict[tuple[str, str], GroupedOption] = {}
    for verb, option in options_of_commands(ctx):
        key = option.flag, option.help or ""
        verbs.setdefault(key, []).append(verb)
        options.setdefault(key, option)
    hits = matching(list(options.values()), words)
    for option in hits[:_SHOWN]:
        default = f" [{option.default_text}]" if option.default_text else ""
        verbs_text = ", ".join(verbs[option.flag, option.help or ""])
        texts = filter(None, (f"{option.help}{default}", option.values, f"in {verbs_text}"))
        width = min(click.get_current_context().max_content_width or 80, 80)
        lines = "\n".join(wrapped(text, width, " " * _COLUMN) for text in texts)
        name = f"{option.flag:{_COLUMN - 1}} "
        fits = len(name) == _COLUMN
        click.echo(click.style(name.rstrip() if not fits else name, bold=True), nl=not fits)
        click.echo(lines[_COLUMN:] if fits else lines)
    if not hits:
        click.echo(f"No option is about {' '.join(words)}. All: lora-profile predict --help-all")


def matching(options: Sequence[GroupedOption], words: Sequence[str]) -> list[GroupedOption]:
    """The options with all the words, those that have them in their names first; where there are
    none those with parts of the words, then those whose names are close to one."""
    parts = [part for word in words for part in re.split(r"[-_]", word) if len(part) > 2]
    for enough, looked_for in ((all, words), (all, parts), (any, parts)):
        hits = [
            (not enough(map(option.flag.__contains__, wanted)), option)
            for wanted in [[word.lower().strip("-").replace("_", "-") for word in looked_for]]
            for option in options
            if wanted
            and enough(
                map(f"{option.flag} {option.help} {option.values}".lower().__contains__, wanted)
            )
        ]
        if hits:
            return [option for _, option in sorted(hits, key=lambda hit: hit[0])]
    from lora_profiler.errors import nearest

    by_flag = {option.flag.removeprefix("--"): option for option in options}
    return [by_flag[name] for word in words for name in nearest(word, by_flag)]
