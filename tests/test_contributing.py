"""What the documents for contributors name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATHS = r"`((?:lora_profiler|tests|benchmarks|space|conda)/[\w./*-]*)`"


@pytest.mark.parametrize("page", ["contributing", "design"])
def test_every_path_is_there(page: str) -> None:
    named = re.findall(PATHS, (ROOT / "docs" / f"{page}.md").read_text("utf-8"))
    missing = [path for path in named if not list(ROOT.glob(path))]
    assert len(named) > (20 if page == "contributing" else 0)
    assert not missing
