"""A measured process's time limit that passes when a test says so, not when a machine is slow."""

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from lora_profiler.measuring.harness import Heartbeat


def passes(
    when: Callable[[Heartbeat], bool], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Heartbeat], None]:
    """What `measure_case` is given as its progress: the limit is over once `when` says so of a
    heartbeat."""
    ahead = 0.0
    monkeypatch.setattr(
        "lora_profiler.measuring.harness.runner.time",
        SimpleNamespace(monotonic=lambda: time.monotonic() + ahead),
    )

    def progress(heartbeat: Heartbeat) -> None:
        nonlocal ahead
        if when(heartbeat):
            ahead = 1e6

    return progress
