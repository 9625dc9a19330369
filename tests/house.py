"""The rooms of `lora_profiler` as docs/design.md shows them: made of the layers in pyproject.toml,
the imports, and each package's own first paragraph."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "lora_profiler"


def floors() -> list[list[str]]:
    """Rooms of the topmost layer first; those of a layer together."""
    tools = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))["tool"]
    layers = tools["importlinter"]["contracts"][0]["layers"]
    return [re.split(r" [:|] ", layer) for layer in layers]


def imports() -> dict[str, set[str]]:
    """The rooms that each room imports; those of the lowest layer, which all do, left out."""
    *upper, _base = floors()
    rooms = [room for floor in upper for room in floor]
    names = {room: {n for path in _files(room) for n in _imported(_tree(path))} for room in rooms}
    return {
        room: {n.split(".")[1] for n in found if "." in n} & set(rooms) - {room}
        for room, found in names.items()
    }


def drawing() -> str:
    """A table for docs/design.md: a line for each room and each package in one."""
    seen, lines = imports(), ["| room | what is in it | imports |", "| --- | --- | --- |"]
    for room in (room for floor in floors() for room in floor if room != "__main__"):
        below = ", ".join(f"`{name}`" for name in seen if name in seen.get(room, ()))
        lines.append(f"| **`{_written(room)}`** | {_said(room)} | {below} |")
        lines += [f"| `{_written(part)}` | {_said(part)} | |" for part in _parts(room)]
    return "\n".join(lines) + "\n"


def _parts(room: str) -> Iterator[str]:
    for init in sorted((PACKAGE / room).glob("*/__init__.py")):
        if not init.parent.name.startswith("_"):
            yield f"{room}/{init.parent.name}"


def _files(room: str) -> list[Path]:
    folder = PACKAGE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lora_profiler"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("lora_profiler"))


def _written(part: str) -> str:
    return f"{part}/" if (PACKAGE / part).is_dir() else f"{part}.py"


def _said(part: str) -> str:
    """The first paragraph of the package's docstring, on one line."""
    folder = PACKAGE / part
    said = ast.get_docstring(
        _tree(folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py"))
    )
    assert said, f"lora_profiler/{part} says nothing of itself"
    return " ".join(said.split("\n\n")[0].split())
