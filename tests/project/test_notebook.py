"""The notebook of examples/ runs from top to bottom as it is committed."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart.ipynb"


@pytest.mark.slow
def test_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("torch")
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("LORA_PROFILER_CACHE", str(tmp_path))
    notebook = nbformat.read(QUICKSTART, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=200, resources=resources).execute()
    shown = [of_cell(cell) for cell in notebook.cells if cell.cell_type == "code"]
    install, answer, smaller, measured = shown
    assert install == ""
    assert re.search(r"QLoRA r8 \w.* T4:", answer) and "lp-bars" in answer
    assert "'fits'" in smaller
    predicted, found = (int(n.replace(",", "")) for n in re.findall(r"[\d,]{5,}", measured))
    assert abs(predicted / found - 1) < 0.001


def of_cell(cell: Any) -> str:
    """What stands below it, HTML before text."""
    texts = []
    for output in cell.outputs:
        data = output.get("data", {})
        texts.append(data.get("text/html") or data.get("text/plain") or output.get("text", ""))
    return "".join(texts)


def test_it_is_committed_without_outputs_and_opens_in_colab() -> None:
    notebook = json.loads(QUICKSTART.read_text("utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    first = "".join(notebook["cells"][0]["source"])
    assert "https://colab.research.google.com/github/" in first
    assert f"/blob/main/{QUICKSTART.relative_to(ROOT)})" in first
