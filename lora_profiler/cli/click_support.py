"""What click does not bring: a default command, the nearest match for values, text for every error,
output to a new file."""

import errno
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, NoReturn

import click

from lora_profiler._common import messages
from lora_profiler._common.process import starts_training
from lora_profiler.cli.option_groups import (
    GroupedOption,
    help_all,
    in_order,
    message_of,
    num_rare,
    option_lines,
    refuse_other_value,
    shows_all,
    unknown_option,
    wrapped,
)
from lora_profiler.errors import LoraProfilerError, UsageError, did_you_mean, nearest
from lora_profiler.units import parse_memory

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from lora_profiler.facts.catalog import Gpu
    from lora_profiler.facts.stacks import Trainer
    from lora_profiler.memory.prediction import Prediction
    from lora_profiler.report.blocks import Block

PIPE_WIDTH = 80
HELP_NAMES = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class NearestChoice(click.Choice[str]):
    """One of several words; another word is refused with the nearest of them, or with what `why`
    says of it."""

    def __init__(self, choices: Iterable[str], why: Callable[[str], str] | None = None) -> None:
        super().__init__(tuple(choices), case_sensitive=False)
        self._why = why or (lambda value: did_you_mean(value, map(str, self.choices)))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            known = ", ".join(map(str, self.choices))
            message = f"unknown value {value}.{self._why(str(value))} Supported: {known}"
            raise click.BadParameter(message, ctx=ctx, param=param) from None


class NearestChoices(NearestChoice):
    """Several of the words with commas between them, as a tuple."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(
            super(NearestChoices, self).convert(w.strip(), param, ctx) for w in value.split(",")
        )


def flattened(ctx: click.Context, param: click.Parameter, value: Any) -> tuple[str, ...]:
    """Of an option that is repeated, each time with several words."""
    return tuple(word for words in value for word in words)


class SpelledChoice(NearestChoice):
    """One of several words, or a trainer's own for one of them, which whoever knows the trainer
    translates."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            from lora_profiler.facts.stacks import trainers, versions

            stacks = (stack for name in trainers() for stack in versions(name))
            if param is None or all(
                value not in stack.aliases.get(str(param.name), {}) for stack in stacks
            ):
                raise
            return str(value)


class WholeRange(click.IntRange):
    """A whole number in a range, which a message calls so: to click it is an 'integer range'."""

    name = "integer"


class WholeNumber(click.types.IntParamType):
    """A whole number; 32k is 32,768, as lengths of context are called."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        is_short = isinstance(value, str) and value[-1:] in ("k", "K") and value[:-1].isdecimal()
        number: int = super().convert(value[:-1] if is_short else value, param, ctx)
        return 1024 * number if is_short else number


class FiniteRange(click.FloatRange):
    """A number in a range; neither infinite nor none at all."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if number - number != 0:
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class MemorySize(click.ParamType[int]):
    """'24GiB' in bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else parse_memory(value)
        except UsageError as e:
            self.fail(str(e), param, ctx)


class HelpCommand(click.Command):
    """A command whose help is a line an option, in groups, and whose usage begins with what it is
    about. An option that takes one value is refused a second one; of one that it does not have it
    is said what may be meant."""

    def __init__(self, *, params: list[click.Parameter], **kwargs: Any) -> None:
        super().__init__(params=in_order([*params, *help_all(params)]), **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.color = colour()
        words = list(args)
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as e:
            raise unknown_option(e, words, ctx) from None
        if not ctx.resilient_parsing:
            self._refuse_other_values(ctx, words)
            for param in self.params:
                if isinstance(param, GroupedOption) and param.settle and ctx.params[param.name]:
                    param.settle(ctx)
        return rest

    def _refuse_other_values(self, ctx: click.Context, words: list[str]) -> None:
        *_, order = self.make_parser(ctx).parse_args(list(words))
        for param in dict.fromkeys(order):
            if isinstance(param, GroupedOption) and not param.multiple and order.count(param) > 1:
                refuse_other_value(param, words, ctx)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        arguments = (p for p in self.params if isinstance(p, click.Argument))
        return [*(p.make_metavar(ctx) for p in arguments), "[OPTIONS]"]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        whole = shows_all(ctx)
        blocks = cleandoc(self.help or ""), *(self.epilog or "").strip().split("\n\n")
        about, *rest = [block for block in blocks if whole or not block.startswith(EXAMPLES)]
        usage = " ".join((ctx.command_path, *self.collect_usage_pieces(ctx)))
        formatter.write(click.style(usage, bold=True) + "\n")
        _write_block(about, formatter)
        lines = option_lines(ctx, formatter.width + _MARGIN)
        formatter.write("".join(f"{line}\n" for line in lines))
        for block in rest:
            formatter.write("\n")
            _write_block(block, formatter)
        if not whole:
            formatter.write(
                f"{num_rare(self)} more options: --help-all."
                " Search them: lora-profile options WORD\n"
            )


class ModelArgument(click.Argument):
    """MODEL; without one the model that the file of --peft-config was trained on."""

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        config = ctx.params.get("peft_config")
        if self.required and self.value_is_missing(value) and config is not None:
            if not config.model:
                raise UsageError("MODEL is missing; the adapter's config names no base model.")
            value = (config.model,)
        return super().process_value(ctx, value)


class DefaultGroup(click.Group):
    """A group whose command `default` may go unnamed: `tool X --option` means `tool default X
    --option`.

    Those of `lazy_commands` are imported when they are asked for: `name` is `name_command` of the
    module given.
    """

    default = "predict"

    def __init__(self, *args: Any, lazy_commands: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy_commands = lazy_commands

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, *self.lazy_commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.lazy_commands and cmd_name not in self.commands:
            module = import_module(self.lazy_commands[cmd_name])
            self.add_command(getattr(module, f"{cmd_name}_command"))
        return super().get_command(ctx, cmd_name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.color = colour()
        if args and args[0] not in (*self.list_commands(ctx), "-h", "--help", "--version"):
            self._refuse_misspelt_command(ctx, *args)
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def _refuse_misspelt_command(self, ctx: click.Context, word: str, *rest: str) -> None:
        """A word that is nearly a command, and that no model is called by, is not looked for on the
        hub."""
        if ctx.resilient_parsing or word.startswith("-") or "/" in word or Path(word).exists():
            return
        if (option := _OPTION_OF_VERB.get(word)) is not None and rest:
            meant = " ".join(filter(None, ("lora-profile", *rest, option)))
            raise click.UsageError(f"unknown command {word}. Did you mean `{meant}`?", ctx)
        close = [name for name in nearest(word, self.list_commands(ctx), 1) if _alike(word, name)]
        if close and not is_bundled(word):
            meant = " ".join(("lora-profile", close[0], *rest))
            raise click.UsageError(f"unknown command {word}. Did you mean `{meant}`?", ctx)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(click.style("lora-profile MODEL or COMMAND [OPTIONS]", bold=True) + "\n")
        _write_block(cleandoc(self.help or ""), formatter)
        formatter.write(f"\n{click.style('Commands', bold=True)}\n")
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            about = command.short_help if command else ""
            formatter.write(f"  {click.style(f'{name:11}', bold=True)}{about}\n")
        for block in (self.epilog or "").strip().split("\n\n"):
            formatter.write("\n")
            _write_block(block, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list["CompletionItem"]:
        return [*super().shell_complete(ctx, incomplete), *complete_model(ctx, None, incomplete)]


_OPTION_OF_VERB = {"explain": "--explain", "fit": "", "layers": "--per-layer"}
"""Words that are options of the default command where other tools have a command."""


class CommandOrTrainers(HelpCommand):
    """A command whose argument may be the command line of a trainer. No option is read from that
    one's first word on: all that stands there is the trainer's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        parser = self.make_parser(ctx)
        parser.allow_interspersed_args = False
        with suppress(click.UsageError):  # which is raised again where all words are read
            values, *_ = parser.parse_args(list(args))
            (name,) = (p.name for p in self.params if isinstance(p, click.Argument))
            rest = values[name] if isinstance(values[name], tuple) else ()  # nothing is click's own
            start = len(args) - len(rest)
            if starts_training(rest) and args[start - 1 : start] != ["--"]:
                args = [*args[:start], "--", *rest]
        return super().parse_args(ctx, args)


def command(
    name: str, short_help: str, epilog: str | None = None, cls: type[click.Command] = HelpCommand
) -> Callable[[Callable[..., None]], click.Command]:
    """`click.command` of a verb; `epilog` are its examples and exit codes."""
    return click.command(
        name, cls=cls, short_help=short_help, epilog=epilog, context_settings=HELP_NAMES
    )


_MARGIN = 2
"""Columns that click leaves free."""
EXAMPLES = "Examples"
"""How the block of an epilog begins that the shorter help leaves out."""


def _write_block(text: str, formatter: click.HelpFormatter) -> None:
    """Prose as wide as there is room, each of its lines apart, and examples, which are indented."""
    for line in text.split("\n"):
        is_prose = not line.startswith("  ")
        shown = (wrapped if is_prose else _example)(line, formatter.width + _MARGIN)
        formatter.write(f"{shown}\n")


def _example(line: str, width: int) -> str:
    """A command, and what it does beneath it where both do not go into one line; a command that is
    too long alone goes on as a shell reads it."""
    if len(line) <= width:
        return line
    command, *remark = line.strip().split("   ", 1)
    words = wrapped(command, width - 6).split("\n")
    return "\n      ".join(["  " + " \\\n    ".join(words), *(text.strip() for text in remark)])


def _alike(word: str, name: str) -> bool:
    from difflib import SequenceMatcher

    return SequenceMatcher(None, word.lower(), name).ratio() >= 0.75


def is_bundled(name: str) -> bool:
    from lora_profiler.facts.catalog.bundled import model_lines

    return name.lower() in model_lines()


def complete_model(ctx: click.Context, param: Any, incomplete: str) -> list["CompletionItem"]:
    from lora_profiler.facts.catalog import bundled_models

    known = [name for model in bundled_models() for name in (model.id, *model.aliases)]
    begun = incomplete.lower()
    return items(name for name in known if begun and name.lower().startswith(begun))


def model_argument(metavar: str) -> Callable[[Any], Any]:
    """One model of a command, whose name may be several words: `llama 3.1 70b`."""
    return click.argument(
        "model",
        cls=ModelArgument,
        metavar=metavar,
        nargs=-1,
        required=True,
        shell_complete=complete_model,
        callback=lambda ctx, param, words: " ".join(words),
    )


def complete_gpu(ctx: click.Context, param: Any, incomplete: str) -> list["CompletionItem"]:
    from lora_profiler.facts.catalog import bundled_gpus

    keys = ["auto", *(gpu.key for gpu in bundled_gpus())]
    return items(key for key in keys if key.startswith(incomplete.lower()))


def complete_trainer(ctx: click.Context, param: Any, incomplete: str) -> list["CompletionItem"]:
    from lora_profiler.facts.stacks import trainers, versions

    names = [*trainers(), *(stack.key for name in trainers() for stack in versions(name)[1:])]
    return items(name for name in names if name.startswith(incomplete.lower()))


def items(words: Iterable[str]) -> list["CompletionItem"]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(word) for word in words]


def run(command: click.Command, args: Sequence[str] | None, prog_name: str) -> NoReturn:
    """Runs `command` and ends the process: errors made on purpose become one message on stderr and
    their exit code."""
    if sys.stdout is None:  # closed by whoever started us, who wants the exit code alone
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    stdout = sys.stdout
    try:
        code = command.main(args, prog_name=prog_name, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as e:
        show_message(messages.ERROR, message_of(e))
        code = UsageError.exit_code
    except LoraProfilerError as e:
        show_message(messages.ERROR, str(e))
        code = e.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        code = 130
    except BrokenPipeError:  # the reader of our output left, as `head` does
        _drop_stdout()
        code = _READER_LEFT
    except SystemExit:
        if sys.stdout is stdout:
            raise
        _drop_stdout()  # the same, met by click, which wraps stdout and ends with 1
        code = _READER_LEFT
    except OSError as e:
        if e.filename is not None and e.errno in _OUT_OF_REACH:
            what = f"{messages.printable(str(e.filename))} cannot be read or written"
        elif e.filename is None and e.errno in _NO_ROOM:
            _drop_stdout()
            what = "the output cannot be written"
        else:
            raise
        show_message(messages.ERROR, f"{what}: {e.strerror}")
        code = UsageError.exit_code
    sys.exit(code if isinstance(code, int) else 0)


_READER_LEFT = 128 + 13
"""As of a process that SIGPIPE ended."""
_OUT_OF_REACH = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _drop_stdout() -> None:
    """What stdout still holds goes nowhere, and is not tried again as Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_new_file(path: str | None, force: bool) -> None:
    """Refuses a place where no file can or should be made, before any work is done. Raises
    UsageError."""
    if path is None:
        return
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"`{path}` is a folder; name a file in it.")
    if target.exists() and not force:
        raise UsageError(f"{path} exists; name another file, or add --force to replace it.")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {target.parent}; make it first.")


def write_out(text: str, path: str | None, show: Callable[[], None] | None = None) -> None:
    """`text` to the file, or to stdout; a terminal gets `show()` instead where there is one.

    The file is whole or not there. One that is there already is replaced only where the command was
    given --force, also if it came while the command ran.
    """
    if path is not None:
        from lora_profiler.measuring.records.locks import write_for_user

        context = click.get_current_context(silent=True)
        try:
            write_for_user(Path(path), text, replace=bool(context and context.params.get("force")))
        except FileExistsError:
            raise UsageError(
                f"{path} has come while this command ran; name another file, or add --force."
            ) from None
        except OSError as e:
            raise UsageError(f"{path} cannot be written: {e.strerror}.") from None
        click.echo(f"Wrote {path}.", err=True)
    elif show is not None and sys.stdout.isatty():
        show()
    else:
        click.echo(text, nl=False)


def print_json(document: Mapping[str, Any], output: str | None) -> None:
    import json

    write_out(json.dumps(document, indent=2, allow_nan=False) + "\n", output)


def print_blocks(blocks: Sequence["Block"], form: str, output: str | None) -> None:
    """`blocks` as Markdown ("md") or as text, to the file or to stdout; drawn where that is a
    terminal."""
    from lora_profiler.report import terminal

    if form == "md":
        from lora_profiler.report.render import markdown

        write_out(markdown(blocks), output)
    else:
        text = terminal.plain(blocks, PIPE_WIDTH)
        if output is None and "utf" not in (sys.stdout.encoding or "").lower():
            text = terminal.ascii_text(text)
        write_out(text, output, partial(terminal.show, blocks))


def print_answer(
    payload: Callable[[], Mapping[str, Any]],
    blocks: Callable[[], Sequence["Block"]],
    rows: Callable[[], Sequence[dict[str, Any]]] = list,
) -> None:
    """As JSON, as CSV of `rows`, or drawn, where the command's --format and -o say."""
    given = click.get_current_context().params
    if given["form"] == "json":
        print_json(payload(), given["output"])
    elif given["form"] == "csv":
        from lora_profiler.report.render import csv_text

        write_out(csv_text(rows()), given["output"])
    else:
        print_blocks(blocks(), given["form"], given["output"])


def show_message(kind: str, text: str) -> None:
    """An error or a warning on stderr, in colour on a terminal, which breaks no word of it."""
    if not sys.stderr.isatty():
        click.echo(messages.message_text(kind, text), err=True)
        return
    width = get_terminal_size().columns
    first, *rest = (
        wrapped(line, width, messages.INDENT if number else " " * len(f"{kind}: "))
        for number, line in enumerate(messages.message_lines(text))
    )
    title = click.style(f"{kind}:", fg="red" if kind == messages.ERROR else "yellow", bold=True)
    is_dim = kind == messages.WARNING
    for begin, line in ((f"{title} ", first.lstrip()), *(("", line) for line in rest)):
        click.echo(begin + _typed(line, dim=is_dim), err=True, color=colour())


def _typed(line: str, *, dim: bool) -> str:
    """The line with what can be typed, between backticks, in bold."""
    return "".join(
        click.style(part, bold=bool(number % 2) or None, dim=(dim and not number % 2) or None)
        for number, part in enumerate(line.split("`"))
    )


def colour() -> bool | None:
    """False where NO_COLOR forbids colours (no-color.org), else what click finds out."""
    return False if os.environ.get("NO_COLOR") else None


def warn(text: str) -> None:
    show_message(messages.WARNING, text)


def warn_of(
    predictions: Sequence["Prediction"], gpu: "Gpu | None" = None, trainer: "Trainer | None" = None
) -> None:
    """Everything worth a warning about the ways to train one model on `gpu`, each once."""
    from lora_profiler.report.setup_words import caution_lines

    for line in caution_lines(predictions, gpu, trainer):
        warn(line)
