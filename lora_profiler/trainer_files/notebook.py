"""The arguments of an Unsloth notebook or script, as far as its text tells: nothing is run."""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lora_profiler.trainer_files.document import Document, Entry, TrainerFileError

MAX_BYTES = 16_000_000
"""Notebooks hold pictures."""
_CALLS = r"Fast\w*Model\.(from_pretrained|get_peft_model)|\w*(Config|Arguments|Trainer)"
_HAS_BF16 = r"is_bf(loat)?16_supported$"
_UNKNOWN = object()
_MAGIC = r"(?m)^(\s*)[!%?].*$"


def cells_of(text: str, name: str) -> list[str]:
    """The code cells of a notebook, or a script as one."""
    if not name.endswith(".ipynb"):
        return [text]
    try:
        cells = json.loads(text)["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TrainerFileError(f"{name} is no notebook.") from None


def parse_calls(text: str, name: str, folder: Path | None) -> Document:
    """The keyword arguments of the calls that load a model and train it, the first of each name.
    Lines are counted over the code cells.

    Values that are neither written there nor assigned plainly above are left out, as are cells that
    are no Python.
    """
    constants: dict[str, Any] = {}
    entries: dict[str, Entry] = {}
    start = 0
    for cell in cells_of(text, name):
        source = re.sub(_MAGIC, r"\1pass", cell)
        with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            _add_cell(ast.parse(source), start, constants, entries)
        start += cell.count("\n") + 1
    if "model_name" not in entries:
        raise TrainerFileError(f"{name}: no call of from_pretrained with a model is read there.")
    return Document(name, entries, folder)


def _add_cell(
    tree: ast.AST, start: int, constants: dict[str, Any], entries: dict[str, Entry]
) -> None:
    for node in _in_order(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], _plain(node.value, constants)
            if isinstance(target, ast.Name) and value is not _UNKNOWN:
                constants.setdefault(target.id, value)
        elif isinstance(node, ast.Call) and re.fullmatch(_CALLS, ast.unparse(node.func)):
            _add_arguments(node, start, constants, entries)


def _in_order(tree: ast.AST) -> Iterator[ast.Assign | ast.Call]:
    """Assignments before the calls of the same line, both as they stand in the file."""
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Assign | ast.Call)]
    yield from sorted(nodes, key=lambda n: (n.lineno, isinstance(n, ast.Call), n.col_offset))


def _add_arguments(
    call: ast.Call, start: int, constants: Mapping[str, Any], entries: dict[str, Entry]
) -> None:
    named = [(word.arg, word.value) for word in call.keywords if word.arg]
    if call.args and ast.unparse(call.func).endswith("from_pretrained"):
        named.insert(0, ("model_name", call.args[0]))
    for key, node in named:
        value = _plain(node, constants)
        if value is not _UNKNOWN:
            entries.setdefault(key, Entry(key, value, start + node.lineno))


def _plain(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    """The value of an expression that is written out, `_UNKNOWN` for one that would have to be
    run."""
    if isinstance(node, ast.Name):
        return constants.get(node.id, _UNKNOWN)
    if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch."):
        return node.attr
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        value = _plain(node.operand, constants)
        return _UNKNOWN if value is _UNKNOWN else not value
    if isinstance(node, ast.Call) and re.search(
        r"is_bf(loat)?16_supported$", ast.unparse(node.func)
    ):
        return True
    if isinstance(node, ast.BinOp):
        left, right = _plain(node.left, constants), _plain(node.right, constants)
        if isinstance(left, int) and isinstance(right, int):
            if isinstance(node.op, ast.Add):
                return left + right
            if isinstance(node.op, ast.Sub):
                return left - right
            if isinstance(node.op, ast.Mult) and abs(left) < 2**31 and abs(right) < 2**31:
                return left * right
        return _UNKNOWN
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return _UNKNOWN
