"""What the benchmarks are, for README.md beside this file.

    python -m benchmarks [--write]

Prints a table of the commands, group by group: what each answers, in the words of its own text,
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
GROUPS = {
    "Real steps on a CPU": (
        "saved_bytes peaks records distributed data_lengths calibration mathematics"
    ),
    "Traces, profiles and plans": "bundle laws profiles held_out ranks fragmentation liger plans",
    "Rehearsals: torch's CUDA build over stub libraries, no GPU": (
        "rehearsed_rules rehearsed_trainers rehearsed_frameworks rehearsed_files"
        " rehearsed_generation rehearsed_scripts written_scripts rehearsed_time"
        " rehearsed_time_of_others boundary_verdicts crossover_points"
    ),
    "What others measured and published, and their estimators": (
        "public_accuracy public_command peak_intervals as_typed threads step_time league"
    ),
    "Facts that rules are held to by tests": (
        "oracle_grid sdpa_choices packed_layers projected_optimizers rehearsed_hqq deepspeed_ranks"
        " deepspeed_rehearsed context_rehearsed"
    ),
    "How the program answers": (
        "startup throughput compile_speed dashboard looks trainer_files misread_keys written_files"
        " fuzz"
    ),
    "Pages, and what the package brings": (
        "accuracy combinations reports pictures terminal_pictures static_page extract_shapes"
        " fetch_inputs"
    ),
}
"""Every module that is a command."""
_WRITTEN = re.compile(
    r"`((?:results|tests/data|docs|reports|lora_profiler/\S+/data)/[^`\s]+\.[a-z.]+)`"
)


@dataclass(frozen=True)
class Command:
    name: str

    @property
    def path(self) -> Path:
        package = HERE / self.name / "__main__.py"
        return package if package.exists() else HERE / f"{self.name}.py"

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
        names = (f"benchmarks.{self.name}", f"benchmarks/{self.name}.py", *of_results)
        whole = re.compile("|".join(rf"{re.escape(name)}(?!\w)" for name in names))
        return [name for name, text in _docs().items() if whole.search(text)]


@cache
def _docs() -> dict[str, str]:
    root = HERE.parent
    docs = root / "docs"
    pages = sorted(docs.rglob("*.md"), key=lambda page: (len(page.parts), page))
    found = {str(page.relative_to(docs)): page.read_text("utf-8") for page in pages}
    return {"README.md": (root / "README.md").read_text("utf-8"), **found}


def commands() -> dict[str, list[Command]]:
    return {title: [Command(name) for name in names.split()] for title, names in GROUPS.items()}


def tables() -> Iterator[str]:
    for title, found in commands().items():
        yield f"\n### {title}\n\n"
        rows = (
            (f"`{each.name}`", each.answer, _paths(each.written), ", ".join(each.pages) or "-")
            for each in found
        )
        yield "\n".join(table("command | what it answers | writes | cited in", rows)) + "\n"


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
