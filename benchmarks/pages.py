"""How a benchmark is asked, and what it leaves in `results/`: pages of Markdown, documents of
JSON."""

import argparse
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def parser_of(
    description: str | None, **options: bool | int | float | str | Path
) -> argparse.ArgumentParser:
    """--help shows the text of the module as it stands, which says what the options mean. One whose
    default is False is a flag; others take what their default is."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=raw)
    for name, default in options.items():
        flag = f"--{name.replace('_', '-')}"
        if default is False:
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=type(default), default=default)
    return parser


def checkouts(
    arguments: Sequence[str], known: Collection[str], *, needs_all: bool = False
) -> dict[str, str]:
    """NAME=FOLDER of a command line, by name. Raises SystemExit with the usage where none is there,
    a name is not known, or one is missing that is needed."""
    named = dict(argument.partition("=")[::2] for argument in arguments)
    if not named or not all(named.values()) or not named.keys() <= set(known):
        raise SystemExit(f"usage: NAME=FOLDER ..., of {', '.join(known)}; no page was written")
    if needs_all and (missing := [name for name in known if name not in named]):
        raise SystemExit(
            f"usage: add {' '.join(f'{n}=FOLDER' for n in missing)}; no page was written"
        )
    return named


def write_page(name: str, text: str) -> None:
    (RESULTS / f"{name}.md").write_text(text, "utf-8")


def write_document(name: str, document: object) -> None:
    write_json(RESULTS / f"{name}.json", document)


def write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def write_lines(path: Path, head: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
    """A document of `head` and `rows`, a row a line."""
    lines = ",\n".join(map(json.dumps, rows))
    path.write_text(f'{json.dumps(head)[:-1]}, "rows": [\n{lines}\n]}}\n', "utf-8")


def tell(name: str, text: str, document: object, *, writes: bool) -> None:
    """Prints the page, and writes it with its document if so asked."""
    print(text)
    if writes:
        write_page(name, text)
        write_document(name, document)


def read_document(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def versions_of(*packages: str) -> dict[str, str]:
    return {name: version(name) for name in packages}


def words_of(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def page_of(title: str, *blocks: str | Iterable[str]) -> str:
    """Markdown: a heading, and paragraphs, lists and tables with a blank line between them. A block
    that is empty is none."""
    texts = [block if isinstance(block, str) else "\n".join(block) for block in blocks]
    return "\n\n".join([f"# {title}", *filter(None, texts)]) + "\n"


def table(heads: str, rows: Iterable[Iterable[object]]) -> list[str]:
    """Lines of Markdown. Heads are parted by `|`; a column whose head begins with `>` is aligned to
    the right."""
    names = [head.strip() for head in heads.split("|")]
    marks = ["---:" if name.startswith(">") else "---" for name in names]
    lines = [_line(row) for row in ([name.removeprefix(">") for name in names], marks, *rows)]
    lines[0] = lines[0].replace("|  |", "| |")
    return lines


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
