"""Command lines that a project documents for its training scripts: in Markdown, shell scripts, and
the heads and comments of the scripts themselves."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path

_TRAINS = re.compile(
    r"\.backward\(|\btrainer\w*\.train\(|\b\w*Trainer\(|\bmodel\.fit\(|\btraining_step\(|run_exp\("
)
_STARTED = re.compile(
    r"^(?:uv run |!)?((?:[A-Z_]+=\S+ +)*)"
    r"((?:python3?|accelerate|torchrun|trl|tune|litgpt|axolotl|llamafactory-cli) .*)"
)
_SET = re.compile(r"""^(?:export +)?([A-Z_]+)=("[^"]*"|'[^']*'|\S*)\s*$""")
_COMMENT = re.compile(r"^\s*(?:#+\s|\$ |> |- |`)?\s*")
_RANKS = re.compile(r"--(?:nproc[-_]per[-_]node|num_processes|nnodes)[= ](\d+)")
_RANKS_OF_FILE = re.compile(r"^num_(?:processes|machines): *(\d+)", re.MULTILINE)
_OPEN = re.compile(r"[$<\[|]|\.\.\.|/path/|path_to|path/to|your[-_]|YOUR|^/")
"""Of a word that its reader is to replace."""
_ASKS = re.compile(r"HfArgumentParser|TrlParser|fire\.Fire|required=True")
"""Of a script that does not run without arguments."""
_TEXTS = {".md", ".mdx", ".rst", ".sh", ".py"}
_LEFT_OUT = re.compile(
    r"(^|/)(tests?|\.github|docker|research_projects|utils)/|(^|[/_])test_|_flax\b"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Documented:
    """`folder` is where `words` are typed, and `script` what they run, both in the checkout;
    `source` is the page and line that has them, the script itself where no page does."""

    repository: str
    script: str
    folder: str
    words: tuple[str, ...]
    environment: Mapping[str, str]
    source: str

    def ranks(self, checkout: Path) -> int:
        """Processes on all machines."""
        line = " ".join(self.words)
        counts = [int(count) for count in _RANKS.findall(line)]
        for word in self.words:
            file = checkout / self.folder / word
            if word.endswith((".yaml", ".yml")) and file.exists():
                counts += map(int, _RANKS_OF_FILE.findall(file.read_text("utf-8")))
        return max(counts, default=1)


def documented(checkout: Path, folders: Sequence[str], entry: str | None) -> list[Documented]:
    """One of each training script below `folders`, in an order that a hash draws: the first that
    its own text documents, else another page, on one GPU where they do; without arguments where
    nobody documents any and the script asks for none. `entry`: the folder of what the project's
    own command runs, as trl's `trl sft`."""
    name = checkout.name
    scripts = [
        path
        for folder in folders
        for path in sorted((checkout / folder).rglob("*.py") if folder else checkout.glob("*.py"))
        if not _LEFT_OUT.search(str(path.relative_to(checkout))) and _trains(path)
    ]
    by_script: dict[str, list[Documented]] = {}
    for page in _pages(checkout):
        for each in _commands(checkout, page, entry):
            by_script.setdefault(each.script, []).append(each)
    for script in scripts:
        place = str(script.relative_to(checkout))
        if _ASKS.search(script.read_text("utf-8")):
            continue
        plain = Documented(
            repository=name, script=place, folder=str(script.parent.relative_to(checkout)),
            words=("python", script.name), environment={}, source=place,
        )  # fmt: skip
        by_script.setdefault(place, [plain])
    trained = {str(path.relative_to(checkout)) for path in scripts}
    chosen = [
        min(each, key=lambda one: (one.ranks(checkout), not one.source.startswith(script)))
        for script, each in by_script.items()
        if script in trained
    ]
    return sorted(chosen, key=lambda one: sha256(one.script.encode()).hexdigest())


def interleaved(lists: Sequence[Sequence[Documented]]) -> list[Documented]:
    """A first one of each project, a second one of each, ..., so that any beginning is a sample."""
    return [each for row in zip_longest(*lists) for each in row if each is not None]


def _trains(path: Path) -> bool:
    return _TRAINS.search(path.read_text("utf-8", "replace")) is not None


def _pages(checkout: Path) -> Iterator[Path]:
    for path in sorted(checkout.rglob("*")):
        if path.suffix in _TEXTS and path.is_file() and ".git" not in path.parts:
            yield path


def _commands(checkout: Path, page: Path, entry: str | None) -> Iterator[Documented]:
    variables: dict[str, str] = {}
    for number, line in _joined(page.read_text("utf-8", "replace")):
        if given := _SET.match(line):
            value = given[2].strip("\"'")
            is_named = value.startswith("path to ")  # "path to save model": one word is typed there
            variables[given[1]] = value.replace(" ", "-") if is_named else value
        started = _STARTED.match(line)
        if started is None:
            continue
        try:
            words = shlex.split(_with(variables, started[2].split("`")[0]), comments=True)
        except ValueError:
            continue
        script = _script(checkout, page.parent, words, entry)
        if script is None or any(map(_OPEN.search, words)):
            continue
        folder, place = script
        environment = dict(each.split("=", 1) for each in shlex.split(started[1]))
        environment.pop("CUDA_VISIBLE_DEVICES", None)
        yield Documented(
            repository=checkout.name, script=place, folder=folder, words=tuple(words),
            environment=environment, source=f"{page.relative_to(checkout)}:{number}",
        )  # fmt: skip


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """Lines with those that a backslash continues, without marks of comments."""
    begun, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        line = _COMMENT.sub("", line).rstrip() if not begun else line.strip().lstrip("# ")
        first = first if begun else number
        if line.endswith("\\"):
            begun += line[:-1] + " "
            continue
        yield first, begun + line
        begun = ""


def _with(variables: Mapping[str, str], line: str) -> str:
    for name, value in variables.items():
        line = re.sub(rf"\$\{{?{name}\b\}}?", lambda _, value=value: value, line)
    return line


def _script(
    checkout: Path, beside: Path, words: Sequence[str], entry: str | None
) -> tuple[str, str] | None:
    """Where the command is typed and what it runs; None where that is no file of the checkout."""
    if entry and words[0] == entry.split("/")[0] and len(words) > 1:
        script = checkout / entry / f"{words[1]}.py"
        return (".", str(script.relative_to(checkout))) if script.exists() else None
    if "-m" in words[:-1]:
        names = [word for word, before in zip(words[1:], words, strict=False) if before == "-m"]
        names = [f"{names[-1].replace('.', '/')}.py"]
    else:
        names = [word for word in words if word.endswith(".py")][:1]
    for name in names:
        for folder in (
            beside,
            checkout,
            *(each for each in beside.parents if checkout in each.parents),
        ):
            script = (folder / name).resolve()
            if script.exists() and checkout in script.parents:
                return str(folder.relative_to(checkout)), str(script.relative_to(checkout))
    return None
