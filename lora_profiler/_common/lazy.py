"""Names of a package that are imported when first used, so that importing it costs nothing."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path


def attach_stub(
    package: str, file: str
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of the package whose `__init__.py` is `file`.

    Each name stands once, in `__init__.pyi`, where type checkers read it too (Scientific Python's
    SPEC 1): `from HOME import NAME as NAME` on a line, as ruff sorts imports.
    """
    lines = Path(file).with_suffix(".pyi").read_text(encoding="utf-8").splitlines()
    homes = {words[-1]: words[1] for words in map(str.split, lines)}

    def __getattr__(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return __getattr__, lambda: sorted({*vars(sys.modules[package]), *homes}), sorted(homes)
