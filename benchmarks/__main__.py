"""What the benchmarks are, for README.md beside this file.

    python -m benchmarks [--write]

Prints a table of the commands, folder by folder: what each answers, in the words of its own text,
what it writes, and which pages of the docs cite it. --write puts them into README.md.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

from benchmarks.pages import parser_of, table

HERE = Path(__file__).parent
README = HERE / "README.md"
BEGIN, END = "<!-- commands:begin -->\n", "<!-- commands:end -->\n"
FOLDERS = {
    "truth": "Predictions against real steps, traces and each other",
    "rehearsed": "Rehearsals: torch's CUDA build over stub libraries, no GPU",
    "public": "What others measured and published, their files and their estimators",
    "speed": "How quickly the program answers, and how it looks",
    "": "All folders",
}
_WRITTEN = re.compile(
    r"`((?:results|tests/data|docs|reports|lora_profiler/\S+/data)/[^`\s]+\.[a-z.]+)`"
)


@dataclass(frozen=True)
class Module:
    path: Path

    @property
    def name(self) -> str:
        """Behind `benchmarks.`."""
        return ".".join(self.path.relative_to(HERE).with_suffix("").parts).removesuffix(".__main__")

    @property
    def is_command(self) -> bool:
        return 'if __name__ == "__main__":' in self.path.read_text("utf-8")

    @property
    def text(self) -> str:
        return ast.get_docstring(ast.parse(self.path.read_text("utf-8"))) or ""

    @property
    def answer(self) -> str:
        """What it says of itself first."""
        return " ".join(self.text.partition("\n\n")[0].split())

    @property
    def written(self) -> tuple[str, ...]:
        """The files that its text names, of those that it can write."""
        return tuple(dict.fromkeys(_WRITTEN.findall(self.text)))

    @property
    def pages(self) -> list[str]:
        """The docs that name it, or what it writes of results."""
        results = [path for path in self.written if path.startswith("results/")]
        of_results = (word for path in results for word in (path, f"`{Path(path).name}`"))
        names = (f"benchmarks.{self.name}", str(self.path.relative_to(HERE.parent)), *of_results)
        whole = re.compile("|".join(rf"{re.escape(name)}(?!\w)" for name in names))
        return [name for name, text in _docs().items() if whole.search(text)]


@cache
def _docs() -> dict[str, str]:
    root = HERE.parent
    docs = root / "docs"
    pages = sorted(docs.rglob("*.md"), key=lambda page: (len(page.parts), page))
    found = {str(page.relative_to(docs)): page.read_text("utf-8") for page in pages}
    return {"README.md": (root / "README.md").read_text("utf-8"), **found}


def modules(folder: str) -> list[Module]:
    found = sorted([*(HERE / folder).glob("[a-z]*.py"), *(HERE / folder).glob("*/__main__.py")])
    own = [path for path in found if folder or path.parent == HERE]
    return [Module(path) for path in own]


def tables() -> Iterator[str]:
    for folder, title in FOLDERS.items():
        yield f"\n### {folder or 'benchmarks'}: {title}\n\n"
        own = modules(folder)
        rows = (
            (f"`{each.name}`", each.answer, _paths(each.written), ", ".join(each.pages) or "-")
            for each in own
            if each.is_command
        )
        yield "\n".join(table("command | what it answers | writes | cited in", rows)) + "\n"
        shared = [f"- `{each.name}`: {each.answer}" for each in own if not each.is_command]
        yield "\n" + "\n".join(shared) + "\n" if shared else ""


def _paths(paths: tuple[str, ...]) -> str:
    """Files that differ in their ending alone are one."""
    words = []
    for stem, group in groupby(paths, key=lambda path: path.partition(".")[0]):
        ends = [path.removeprefix(f"{stem}.") for path in group]
        words.append(f"`{stem}.{ends[0] if len(ends) == 1 else '{' + ','.join(ends) + '}'}`")
    return ", ".join(words) or "-"


def page() -> str:
    """README.md with the tables as they are today."""
    before, _, rest = README.read_text("utf-8").partition(BEGIN)
    return before + BEGIN + "".join(tables()) + "\n" + END + rest.partition(END)[2]


def main() -> None:
    options = parser_of(__doc__, write=False).parse_args()
    if options.write:
        README.write_text(page(), "utf-8")
    else:
        print("".join(tables()), end="")


if __name__ == "__main__":
    main()
