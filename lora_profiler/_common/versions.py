"""The version of this package, and those of the distributions that are installed beside it."""

from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec

from lora_profiler.errors import UnbuildableError

__version__ = "0.4.0"
TRACING = ("torch", "transformers", "peft")
"""Packages that a trace of a real step needs."""


@cache
def installed_version(distribution: str) -> str | None:
    """None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # some 20 ms

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    versions = ((name, installed_version(name)) for name in distributions)
    return {name: version for name, version in versions if version is not None}


def missing(packages: Iterable[str] = TRACING) -> list[str]:
    """Those of `packages` that cannot be imported, told without importing any."""
    return [name for name in packages if find_spec(name) is None]


def require(purpose: str, packages: Iterable[str] = TRACING) -> None:
    """Raises UnbuildableError, which names those of `packages` that are missing and the extra that
    brings them. Imports none."""
    if absent := missing(packages):
        raise UnbuildableError(
            f"{purpose} needs {', '.join(absent)}; install them: pip install"
            " 'lora-profiler[measure]'."
        )
