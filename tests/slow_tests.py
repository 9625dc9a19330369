"""Tests that take four tenths of a second or more, by `data/slow_tests.txt`, which
`pytest --whole --record-slow` writes: their marker `slow` comes from there."""

from collections import defaultdict
from pathlib import Path
from statistics import median

import pytest

FILE = Path(__file__).parent / "data" / "slow_tests.txt"
LEAST_SECONDS = 0.4
"""On an idle machine, of a function's median cell."""


def mark(items: list[pytest.Item]) -> None:
    """Cells of a grid are drawn by their grid."""
    slow = set(FILE.read_text().split())
    for item in items:
        if _function(item.nodeid) in slow and not item.get_closest_marker("grid"):
            item.add_marker(pytest.mark.slow)


def _function(nodeid: str) -> str:
    return nodeid.partition("[")[0]


class Recorder:
    """A plugin of pytest that writes the file; what did not run stays as it was."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.seconds[_function(report.nodeid)].append(report.duration)

    def pytest_sessionfinish(self) -> None:
        named = {name for name in FILE.read_text().split() if name not in self.seconds}
        named |= {
            name for name, seconds in self.seconds.items() if median(seconds) >= LEAST_SECONDS
        }
        FILE.write_text("".join(f"{name}\n" for name in sorted(named)))
