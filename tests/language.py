"""Sentences that users read, and the rules that they keep: no banned word, few words a sentence.

    python tests/language.py [--list ROOM]

prints the counts by room; with --list, what breaks the rules in one. `tests/project/test_language.py` holds
every room to zero.
"""

import ast
import functools
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
BANNED = ROOT / "tests/data/banned_words.txt"
MAX_WORDS = 15
"""Of a sentence on the command line and in the dashboard."""
MAX_WORDS_DOCS = 30
GENERATED = ("docs/combinations.md", "docs/league.md", "docs/reference/trainers.md")
"""Pages of words from the package or of other estimators."""
_LEAST_WORDS = 3
"""A literal of fewer is a key, a label of a column or a format."""


class Text(NamedTuple):
    """Something that a user reads. `room` is the part of the product that shows it."""

    room: str
    place: str
    text: str


class Sums(NamedTuple):
    sentences: int
    words: int
    banned: int
    long: int
    reading_ease: float
    """Flesch: 60 to 70 is plain English, below 30 is a law."""


@functools.cache
def banned_pattern() -> re.Pattern[str]:
    """Any of the first column of the file, as whole words."""
    lines = BANNED.read_text("utf-8").splitlines()
    phrases = [
        phrase.strip()
        for line in lines
        if line and not line.startswith("#")
        for phrase in line.split("|")[0].split(",")
    ]
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, phrases))})(?![\w-])", re.IGNORECASE)


def sentences(text: str) -> Iterator[list[str]]:
    """The words of each: what ends with a full stop, a colon, a semicolon or the line. A list of
    single words, as of accepted values, is one word."""
    for sentence in re.split(r"(?<=[.!?:;])\s+|\n", text):
        words = [word for word in sentence.split() if re.search(r"[^\W\d_]", word)]
        is_list = len(words) > 2 and all(word.endswith(",") for word in words[:-1])
        if words:
            yield words[:1] if is_list else words


def syllables(word: str) -> int:
    groups = re.findall(r"[aeiouy]+", re.sub(r"e$", "", word.lower()))
    return max(len(groups), 1)


def sums(texts: Iterable[Text], limit: int) -> Sums:
    banned = banned_pattern()
    found = [words for text in texts for words in sentences(text.text)]
    num_words = sum(map(len, found))
    num_syllables = sum(syllables(word) for words in found for word in words)
    ease = (
        206.835 - 1.015 * num_words / len(found) - 84.6 * num_syllables / num_words
        if num_words
        else 0.0
    )
    return Sums(
        sentences=len(found),
        words=num_words,
        banned=sum(len(banned.findall(text.text)) for text in texts),
        long=sum(len(words) > limit for words in found),
        reading_ease=ease,
    )


def faults(text: Text, limit: int) -> Iterator[str]:
    for word in banned_pattern().findall(text.text):
        yield f"{text.place}: {word!r} in {text.text[:100]!r}"
    for words in sentences(text.text):
        if len(words) > limit:
            yield f"{text.place}: {len(words)} words: {' '.join(words)}"


# --- what users read ------------------------------------------------------------------------------


@functools.cache
def texts() -> list[Text]:
    return [*_literals(), *_golden(), *_docs()]


def limit_of(room: str) -> int:
    return MAX_WORDS_DOCS if room.startswith("docs") else MAX_WORDS


def _literals() -> Iterator[Text]:
    """Literals of some words in the package, docstrings of commands among them."""
    for path in sorted((ROOT / "lora_profiler").rglob("*.py")):
        name = path.relative_to(ROOT / "lora_profiler")
        room = "/".join(name.parts[:-1][:2]) or name.stem
        for line, text in _strings(ast.parse(path.read_text("utf-8")), commands=room == "cli"):
            if len(text.split()) >= _LEAST_WORDS and not text.startswith("CREATE TABLE"):
                yield Text(room, f"lora_profiler/{name}:{line}", text)


def _strings(tree: ast.AST, *, commands: bool) -> Iterator[tuple[int, str]]:
    """Each literal with its line, "x" for what a formatted one puts in; docstrings are left out,
    but for those that are the help of a command."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            name = str(getattr(node, "name", ""))
            shown = commands and not name.startswith("_") and name.endswith(("_command", "root"))
            skipped |= {
                statement.value
                for statement in body
                if isinstance(statement, ast.Expr) and not shown
            }
        for name in ("annotation", "returns"):
            if annotation := getattr(node, name, None):
                skipped |= set(ast.walk(annotation))
        if node in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            skipped |= set(ast.walk(node))
            parts = (p.value if isinstance(p, ast.Constant) else "x" for p in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def _golden() -> Iterator[Text]:
    for path in sorted((ROOT / "tests/golden").glob("*.txt")):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if not line.startswith("$ "):
                yield Text("golden", f"tests/golden/{path.name}:{number}", line)


def _docs() -> Iterator[Text]:
    """Prose, without code, tables and generated numbers."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = re.sub(r"(?ms)^ *```.*?^ *```|<[^>]*>|^\|.*?$", "", path.read_text("utf-8"))
        for paragraph in re.split(r"\n\s*\n|\n(?=[-*] )", text):
            prose = re.sub(r"\]\([^)]*\)|[`*#\[\]]", "", " ".join(paragraph.split()))
            if prose:
                place = str(path.relative_to(ROOT))
                room = "docs/generated" if place in GENERATED else "docs"
                yield Text(room, place, prose)


def main() -> None:
    every = texts()
    if sys.argv[1:2] == ["--list"]:
        for text in every:
            if text.room == sys.argv[2]:
                print(*faults(text, limit_of(text.room)), sep="\n", end="")
        return
    by_room = {
        room: sums([text for text in every if text.room == room], limit_of(room))
        for room in sorted({text.room for text in every})
    }
    num_long = sum(total.long for total in by_room.values())
    print(f"{'room':24}{'sentences':>10}{'banned':>8}{'long':>6}{'ease':>7}")
    for room, total in {**by_room, "all": sums(every, 0)._replace(long=num_long)}.items():
        print(
            f"{room:24}{total.sentences:10,}{total.banned:8}{total.long:6}{total.reading_ease:7.1f}"
        )


if __name__ == "__main__":
    main()
