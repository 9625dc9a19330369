"""Packages: this one's version, those installed beside it, and names that are imported when first
used."""

import sys
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

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
        from lora_profiler.errors import UnbuildableError  # the bare package imports none of itself

        raise UnbuildableError(
            f"{purpose} needs {', '.join(absent)}; install them: pip install"
            " 'lora-profiler[measure]'."
        )


def load(packages: Iterable[str] = TRACING) -> None:
    """Imports `packages`. Raises UnbuildableError for one that is installed and broken, as torch is
    with libraries of another CUDA."""
    import logging

    # bitsandbytes looks for faster products on CPUs where PEFT imports it; a trace computes none
    for looks_for_them in ("bitsandbytes.backends.cpu", "kernels"):
        logging.getLogger(looks_for_them).setLevel(logging.ERROR)
    for name in packages:
        try:
            import_module(name)
        except (ImportError, OSError) as e:
            from lora_profiler.errors import UnbuildableError

            why = str(e).partition("\n")[0]
            raise UnbuildableError(f"{name} is installed and cannot be loaded: {why}") from e


def attach_stub(
    package: str, file: str
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of the package whose `__init__.py` is `file`, which
    import its names when they are first used: importing the package costs nothing.

    Each name stands once, in `__init__.pyi`, where type checkers read it too (Scientific Python's
    SPEC 1): `from HOME import NAME as NAME` on a line, as ruff sorts imports.
    """
    lines = Path(file).with_suffix(".pyi").read_text(encoding="utf-8").splitlines()
    homes = {words[-1]: words[1] for words in map(str.split, lines)}

    def __getattr__(name: str) -> object:
        if name in homes:
            return getattr(import_module(homes[name]), name)
        is_public = package == "lora_profiler" and not name.startswith("_")
        if is_public and (found := moved(package, name)) is not None:
            return found
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__, lambda: sorted({*vars(sys.modules[package]), *homes}), sorted(homes)


# --- public names that moved ----------------------------------------------------------------------

MOVED = {
    "question.batching.batches": "Batches batches_of",
    "question.batching.data": "read_lengths",
    "question.batching.sample_lengths": "SampleLengths",
    "facts.catalog": "bundled_gpus bundled_models",
    "facts.catalog.gpus": "Price",
    "runs.comparison.errors": "Comparison",
    "runs.comparison.throughput": "Throughput throughput",
    "errors": "TargetModulesError UnsupportedModelError",
    "measuring.harness": "MeasurementError",
    "planning.advise": "Remedy advise",
    "planning.answers": "answers",
    "planning.crossover": "Crossover",
    "planning.engine": "peak_bytes",
    "planning.fit": "Fit smallest_cards",
    "planning.memory_savings": "Lever best_lever",
    "planning.over_data": "OverData",
    "planning.plan": "TrainingPlan",
    "planning.planned": "Offer PlannedRun",
    "memory.prediction": "FlopCount LayerCost Moment ParameterCount",
    "measuring.records.record": "Environment Measurement Record",
    "report.json.bench": "bench_payload bench_schema",
    "report.json.plan": "plan_schema",
    "report.json.predict": "answer_dict predict_schema prediction_dict",
}
"""Names by module. `lora_profiler` has them too until 0.6, with a DeprecationWarning."""


def moved(package: str, name: str) -> object:
    """What `name` is, None where it never was a name of the package."""
    home = next((home for home, names in MOVED.items() if name in names.split()), None)
    if home is None:
        return None
    import warnings
    from importlib import import_module

    module = f"{package}.{home}"
    warnings.warn(
        f"{package}.{name} is deprecated and ends with 0.6: from {module} import {name}",
        DeprecationWarning,
        stacklevel=3,
    )
    found: object = getattr(import_module(module), name)
    return found
