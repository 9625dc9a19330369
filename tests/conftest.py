"""Tests see no profiles but those that they make: a user's own, or the package's, would answer in place of the rules."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from lora_profiler.compiled import bundle

THE_BUNDLE = bundle.BUNDLED


settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
"""A machine that others use as well is no reason to fail."""


def pytest_configure(config: pytest.Config) -> None:
    folder = tempfile.mkdtemp(prefix="lora-profiler-tests-")
    os.environ["LORA_PROFILER_CACHE"] = folder
    bundle.BUNDLED = Path(folder) / "no-bundle"
