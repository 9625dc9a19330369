"""Tests see no profiles but those that they make: a user's own, or the package's, would answer in
place of the rules."""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from commands import Done, Run
from lora_profiler.compiled import library

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
"""A machine that others use as well is no reason to fail."""


@pytest.fixture(scope="module", autouse=True)
def a_settled_heap() -> Iterator[None]:
    """What the modules before have left is nobody's any more: whoever collects garbage or looks for
    tensors passes it by."""
    gc.collect()
    gc.freeze()
    yield


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """`lora-profile` in this process."""
    from lora_profiler.cli.main import main

    def run_(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capfd.readouterr()
        return Done(ended.value.code or 0, out, err)  # type: ignore[arg-type]

    return run_


def pytest_configure(config: pytest.Config) -> None:
    folder = tempfile.mkdtemp(prefix="lora-profiler-tests-")
    os.environ["LORA_PROFILER_CACHE"] = folder
    library.BUNDLED = Path(folder) / "no-bundle"
