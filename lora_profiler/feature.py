"""Finds features: folders `features/<kind>/<value>/`, one for each value of an option that is not
the default. The rest of the package names none of them: it asks here by kind and value.

A folder has up to three files. Each is imported only when something asks for it:

- `__init__.py` is data (`FEATURE`), and small functions of the question. No torch, no engine.
- `law.py` says what the feature costs, in the terms of the rules. No torch.
- `stand_in.py` runs: the library's own function, or code that holds the same memory. torch.

Names that begin with an underscore hold what several features of a kind share.
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

Kind = Literal["losses", "optimizers"]
File = Literal["", "law", "stand_in"]
_FOLDER = Path(__file__).parent / "features"


@cache
def names(kind: Kind) -> tuple[str, ...]:
    """The values of a kind, in alphabetical order. Imports none of them."""
    found = (_FOLDER / kind).glob("[!_]*/__init__.py")
    return tuple(sorted(_value(kind, file.parent.name) for file in found))


def _value(kind: Kind, folder: str) -> str:
    return folder if kind == "optimizers" else folder.replace("_", "-")


def has_file(kind: Kind, name: str, file: str) -> bool:
    """Whether a feature has a file of that name."""
    return name in names(kind) and (_FOLDER / kind / _folder(name) / f"{file}.py").is_file()


def _folder(name: str) -> str:
    return name.replace("-", "_")


@cache
def part(kind: Kind, name: str, file: File, needed: str) -> Any:
    """What `file` of a feature calls `needed`; None where there is no such feature, file or name.
    `file` is "" for the folder itself."""
    if not has_file(kind, name, file or "__init__"):
        return None
    path = ("lora_profiler.features", kind, _folder(name), *filter(None, (file,)))
    return getattr(import_module(".".join(path)), needed, None)


def of_kind(kind: Kind) -> Mapping[str, Any]:
    """`FEATURE` of each value. Imports all of them: for help and for trainers' files."""
    return {name: part(kind, name, "", "FEATURE") for name in names(kind)}
