"""Errors and warnings as lines: what is wrong, beneath it where or why, and what to type."""

import re
from collections.abc import Iterable, Iterator

# --- printable text -------------------------------------------------------------------------------

# Text that came from elsewhere, made fit to be printed: nothing in it moves a cursor, colours a
# line or hides a word.


def printable(text: str) -> str:
    """`text` on one line: white space as spaces, and every other character that does not print as
    its escape, as in \\x1b.

    Control characters, marks that turn the direction of writing, lone surrogates and private
    characters are those.
    """
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else ascii(character)[1:-1]


# --- messages -------------------------------------------------------------------------------------

ERROR = "error"
WARNING = "warning"
INDENT = "  "

_SENTENCE_END = re.compile(r"(?<=[.?!;])\s+(?=[^\W\d_]|[`'\"/~-])|(?<=`)\s+(?=[A-Z])")
_LOWER_NAMES = frozenset({"torch", "transformers", "bitsandbytes", "axolotl", "accelerate", "hqq"})
"""Names that keep their small letter where they begin a line."""


def message_lines(text: str) -> list[str]:
    """A message as it is shown: a line for each of its lines, sentences and clauses that ";" ends.

    What can be typed stands between backticks.

    Examples:
        >>> message_lines("rank is 0; give at least 1.")
        ['rank is 0', 'Give at least 1.']
    """
    parts = [
        re.sub(r"`\.$", "`", printable(part.strip()))
        for line in text.split("\n")
        for part in _sentences(line)
        if part.strip()
    ]
    first, *rest = parts or [""]
    if re.match(r"(There|The|No|This|These|An?) ", first):
        first = first[0].lower() + first[1:]
    return [first.rstrip(".;"), *(_capitalised(part.rstrip(";")) for part in rest)]


def _sentences(line: str) -> Iterator[str]:
    """Split outside backticks: `trl sft ... --bf16 false` is one command."""
    whole = re.sub(r"`[^`]*`", lambda typed: typed[0].replace(" ", "\0"), line)
    return (part.replace("\0", " ") for part in _SENTENCE_END.split(whole))


def message_text(kind: str, text: str) -> str:
    """The message without colours, each line but the first indented; no newline at its end."""
    first, *rest = (line.replace("`", "") for line in message_lines(text))
    return "\n".join((f"{kind}: {first}", *(INDENT + line for line in rest)))


def messages_in(kind: str, lines: Iterable[str]) -> Iterator[str]:
    """Messages of a kind among the lines that a command wrote, each with its own lines."""
    message: list[str] = []
    for line in lines:
        if message and line.startswith(INDENT):
            message.append(line.strip())
            continue
        if message:
            yield "\n".join(message)
        message = [line.removeprefix(f"{kind}: ")] if line.startswith(f"{kind}: ") else []
    if message:
        yield "\n".join(message)


def _capitalised(line: str) -> str:
    word = re.match(r"[a-z]+(?=[\s,:])", line)
    return line if word is None or word[0] in _LOWER_NAMES else line[0].upper() + line[1:]
