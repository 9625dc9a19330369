"""That benchmarks/README.md names everything that is there, and that everything there can be
imported."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.__main__ import README, commands, page
from benchmarks.pages import RESULTS

BENCHMARKS = RESULTS.parent
COMMANDS = [command for found in commands().values() for command in found]
MODULES = sorted(path.stem for path in BENCHMARKS.glob("[a-z]*.py"))
SELDOM = {"liger": "triton"}
"""What not every environment of the tests has."""


def is_command(path: Path) -> bool:
    return 'if __name__ == "__main__":' in path.read_text("utf-8")


def test_the_tables_are_those_of_the_commands() -> None:
    assert README.read_text("utf-8") == page(), "python -m benchmarks --write"


def test_every_command_is_in_one_group() -> None:
    found = [path.stem for path in BENCHMARKS.glob("[a-z]*.py") if is_command(path)]
    assert sorted(command.name for command in COMMANDS) == sorted([*found, "league"])


def test_every_shared_module_is_named() -> None:
    named = set(re.findall(r"`(\w+)`", README.read_text("utf-8")))
    assert set(MODULES) <= named


def test_every_file_of_results_is_written_by_one_command() -> None:
    written = sorted(path for each in COMMANDS for path in each.written if path[:8] == "results/")
    assert written == sorted(f"results/{path.name}" for path in RESULTS.iterdir())


@pytest.mark.parametrize("name", [*MODULES, "league.__main__"])
def test_every_module_is_imported(name: str) -> None:
    if name in SELDOM:
        pytest.importorskip(SELDOM[name])
    import_module(f"benchmarks.{name}")
