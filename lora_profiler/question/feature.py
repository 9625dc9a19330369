"""Finds features: `features/<kind>/<value>`, a folder or a file for each value of an option that is
not a default. The rest of the package names none of them: it asks here by kind and value.

A folder has up to three files, each imported only when something asks for it. A feature that is one
file has all of it there, and imports torch inside functions.

- `__init__.py` is data (`FEATURE`), and small functions of the question. No torch, no engine.
- `law.py` says what the feature costs, in the terms of the rules. No torch.
- `stand_in.py` runs: the library's own function, or code that holds the same memory. torch.

Names that begin with an underscore hold what several features of a kind share.
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from os import scandir
from os.path import dirname, isfile
from typing import Any, Literal

Kind = Literal[
    "adapters", "bases", "kernels", "loops", "lora_kernels", "losses", "optimizers", "trainers"
]
File = Literal["", "keys", "law", "stand_in", "started", "written"]
_FOLDER = f"{dirname(dirname(__file__))}/features"


@cache
def _modules(kind: Kind) -> Mapping[str, str]:
    """The module of each value of a kind, in alphabetical order."""
    found = []
    for entry in scandir(f"{_FOLDER}/{kind}"):
        name, _, ending = entry.name.partition(".")
        is_feature = ending == "py" or isfile(f"{entry.path}/__init__.py")
        if is_feature and not name.startswith("_"):
            found.append(name)
    is_plain = kind == "optimizers"
    return {name if is_plain else name.replace("_", "-"): name for name in sorted(found)}


def names(kind: Kind) -> tuple[str, ...]:
    """The values of a kind. Imports none of them."""
    return tuple(_modules(kind))


@cache
def has_file(kind: Kind, name: str, file: File) -> bool:
    """Whether a feature that is a folder has that file; "" stands for the folder itself."""
    return isfile(f"{_FOLDER}/{kind}/{_modules(kind).get(name, '_')}/{file or '__init__'}.py")


@cache
def part(kind: Kind, name: str, file: File, needed: str) -> Any:
    """What `file` of a feature calls `needed`; None where there is no such feature, file or name.
    `file` is "" for the folder itself."""
    if name not in _modules(kind):
        return None
    module = f"lora_profiler.features.{kind}.{_modules(kind)[name]}"
    if has_file(kind, name, ""):
        if not has_file(kind, name, file):
            return None
        module = f"{module}.{file}" if file else module
    return getattr(import_module(module), needed, None)


def of_kind(kind: Kind) -> Mapping[str, Any]:
    """`FEATURE` of each value. Imports all of them: for help and for trainers' files."""
    return {name: part(kind, name, "", "FEATURE") for name in names(kind)}
