"""That benchmarks/README.md names everything that is there, and that everything there can be
imported."""

from importlib import import_module

import pytest

from benchmarks.__main__ import FOLDERS, README, modules, page
from benchmarks.pages import RESULTS

MODULES = [each for folder in FOLDERS for each in modules(folder)]
SELDOM = {"truth.liger": "triton"}
"""What not every environment of the tests has."""


def test_the_tables_are_those_of_the_commands() -> None:
    assert README.read_text("utf-8") == page(), "python -m benchmarks --write"


def test_every_file_of_results_is_written_by_one_command() -> None:
    commands = [each for each in MODULES if each.is_command]
    written = sorted(path for each in commands for path in each.written if path[:8] == "results/")
    assert written == sorted(f"results/{path.name}" for path in RESULTS.iterdir())


@pytest.mark.parametrize("name", [each.name for each in MODULES])
def test_every_module_is_imported(name: str) -> None:
    if name in SELDOM:
        pytest.importorskip(SELDOM[name])
    import_module(f"benchmarks.{name}")
