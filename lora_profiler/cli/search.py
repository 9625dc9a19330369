"""`lora-profile options WORD`: which option of which command is about that."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

import click

from lora_profiler.cli.click_support import command
from lora_profiler.cli.option_groups import GroupedOption, options_of_commands, wrapped
from lora_profiler.question.feature import of_kind
from lora_profiler.question.loss import all_losses
from lora_profiler.question.optimizer import all_optimizers

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
        if len(hits) == 1 or option.flag == f"--{'-'.join(words)}":
            for value, title in titles(option.flag).items():
                click.echo(wrapped(f"{value}: {title}", width, " " * (_COLUMN + 2))[2:])
    if not hits:
        click.echo(f"No option is about {' '.join(words)}. All: lora-profile predict --help-all")


def titles(flag: str) -> dict[str, str]:
    if flag == "--loss":
        return {value: loss.title for value, loss in all_losses().items()}
    if flag == "--kernels":
        return {value: facts.title for value, facts in of_kind("kernels").items()}
    if flag == "--optimizer":
        return {value: facts.keeps for value, facts in all_optimizers().items()}
    return {}


def matching(options: Sequence[GroupedOption], words: Sequence[str]) -> list[GroupedOption]:
    """The options that most of the words are about, names before texts; where none has a word,
    those whose names are close to one."""
    parts = [part for word in words for part in re.split(r"[-_]", word.lower()) if part]
    wanted = [re.sub(r"(?<=...)(ing|ed|s)$", "", part) for part in parts]  # packing is --packed

    def score(option: GroupedOption) -> tuple[int, int]:
        text = f"{option.flag} {option.help} {option.values}".lower()
        return sum(word in text for word in wanted), sum(word in option.flag for word in wanted)

    best, _ = max(map(score, options), default=(0, 0))
    if best:
        hits = [option for option in options if score(option)[0] > best // 2]
        return sorted(hits, key=score, reverse=True)
    by_flag = {option.flag.removeprefix("--"): option for option in options}
    return [by_flag[name] for word in words for name in get_close_matches(word, by_flag)]
