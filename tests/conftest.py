"""Tests see no profiles but those that they make: a user's own would answer in place of the rules."""

import os
import tempfile

import pytest


def pytest_configure(config: pytest.Config) -> None:
    os.environ["LORA_PROFILER_CACHE"] = tempfile.mkdtemp(prefix="lora-profiler-tests-")
