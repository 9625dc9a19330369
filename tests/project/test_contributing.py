"""What the documents for contributors name is there."""

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATHS = r"`((?:lora_profiler|tests|benchmarks|space|conda)/[\w./*-]*)`"


@pytest.mark.parametrize("page", ["contributing", "design"])
def test_every_path_is_there(page: str) -> None:
    named = re.findall(PATHS, (ROOT / "docs" / f"{page}.md").read_text("utf-8"))
    missing = [path for path in named if not list(ROOT.glob(path))]
    assert len(named) > (20 if page == "contributing" else 0)
    assert not missing


def test_every_name_of_the_reference_is_there() -> None:
    """A page of docs is built of them, which takes minutes to fail."""
    text = (ROOT / "docs" / "reference" / "python.md").read_text("utf-8")
    names = re.findall(r"^::: *([\w.]+)", text, re.MULTILINE)
    assert len(names) > 30
    for name in names:
        home, _, own = name.rpartition(".")
        found = find_spec(name) if home == "lora_profiler" and own.islower() else None
        assert found or hasattr(import_module(home), own), name
