"""Frameworks' own commands on simulated GPUs, each steady peak against `lora-profile` with the same
file.

    python -m benchmarks.rehearsed.frameworks --python PYTHON --library NAME=FOLDER:...
        [--clone NAME=REPOSITORY] [--only TEXT] [--again]

`tune run`, `llamafactory-cli train`, `axolotl train`, `litgpt finetune_lora` and Unsloth, over
checkpoints of holes. PYTHON is of an environment with a CUDA build of torch; each `--library` names
what goes on PYTHONPATH for a framework (its package and its pins), each `--clone` a git repository
of it with the commit of `framework_cells`; files are fetched from GitHub where none is named, and
kept nowhere. Writes a row of `results/rehearsed_frameworks.jsonl` as each rehearsal ends, and
`results/rehearsed_frameworks.md`; what is there is not run again. --only takes cells whose key has
the text; --again predicts all rows anew. About forty minutes on two busy cores.
"""

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import rehearsing
from benchmarks.pages import page_of
from benchmarks.rehearsed.framework_cells import FRAMEWORKS, Cell, cells
from benchmarks.rehearsed.framework_commands import (
    PLACES,
    ROOT,
    changed,
    command_of,
    data_folder,
    environment_of,
    places,
    text_of,
)
from benchmarks.rehearsed.peaks import Family, predicted_anew
from benchmarks.rows import Row
from benchmarks.runner import Asked, Rows
from lora_profiler.facts.catalog import find_gpu
from lora_profiler.question.support.library_memory import WORKSPACES, workspace_bytes

LOWER_BOUND = "the peak is a lower bound"
LIMIT_SECONDS = 900


def profiled(*words: str) -> dict[str, Any]:
    """What `lora-profile` answers in JSON; {} where it refuses."""
    command = [sys.executable, "-m", "lora_profiler", *words, "--full", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode not in (0, 1):
        print(done.stderr, file=sys.stderr)
        return {"refused": done.stderr.strip().splitlines()[-1]}
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def asked(cell: Cell, text: str, folder: Path) -> tuple[list[str], list[str]]:
    """The question, in words, and what of a file is not modelled: as `read` says it."""
    length = ["--seq-len", str(cell.length), "--gpu", cell.card]
    if not cell.file:
        return [cell.model, "--trainer", cell.trainer, *cell.words, *length], []
    (folder / "asked.yaml").write_text(text)
    read = profiled("read", str(folder / "asked.yaml"))
    words = read["command"][1:]
    gaps = sorted({key["not_modelled"] for key in read["keys"] if key["not_modelled"]})
    return [*words, *(length[2:] if "--seq-len" in words else length)], gaps


def predicted(words: Sequence[str]) -> dict[str, Any]:
    document = profiled(*words)
    if "refused" in document:
        return document
    (answer,) = document["predictions"]
    return {
        "predicted_bytes": answer["peak"]["total_bytes"],
        "exactness": answer["exactness"],
        "error_bound": answer["error_bound"],
        "is_lower_bound": any(LOWER_BOUND in words for words in answer["assumptions"]),
    }


def rehearsed(
    python: str, cell: Cell, command: Sequence[str], library: str, folder: Path
) -> dict[str, Any]:
    """The steady peak of three steps, in bytes."""
    environment = os.environ | environment_of(cell, command, library)
    where: dict[str, Any] = {"env": environment, "cwd": folder, "timeout": LIMIT_SECONDS}
    try:
        done = rehearsing.rehearsed(python, cell.card, command, "--pretend-data", **where)
    except subprocess.TimeoutExpired:
        return {"status": "error", "error": f"not done in {LIMIT_SECONDS} s"}
    if not done.stdout:
        return {"status": "error", "error": done.stderr.strip().splitlines()[-1][:300]}
    document = json.loads(done.stdout)
    (rank,) = document["ranks"]
    if document["status"] != "done":
        error = rank["error"] or {"type": document["status"], "message": done.stderr[-300:]}
        told = f"{error['type']}: {error['message']}"[:300]
        print(done.stderr[-3000:], file=sys.stderr)
        return {"status": document["status"], "error": told}
    return {
        "status": "done",
        "requested_bytes": rank["peaks"]["steady"]["requested_bytes"],
        "workspaces_bytes": rehearsing.workspaces_bytes(rank),
        "whole_requested_bytes": rank["peaks"]["whole"]["requested_bytes"],
        "attention": rank["attention"],
    }


def run(
    python: str, libraries: Mapping[str, str], clones: Mapping[str, str], folder: Path, cell: Cell
) -> dict[str, Any]:
    library = libraries[cell.framework]
    text = changed(text_of(cell, clones), cell.changes) if cell.file else ""
    started = time.monotonic()
    words, gaps = asked(cell, text, folder)
    row: dict[str, Any] = {"key": cell.key, "framework": cell.framework, "file": cell.address}
    row |= {"asked": words, "not_modelled": gaps}
    row |= rehearsed(python, cell, command_of(cell, text, folder, library), library, folder)
    return row | {"seconds": round(time.monotonic() - started)} | predicted(words)


def counted_bytes(row: Mapping[str, Any]) -> int:
    """Without workspaces, which are told by their size: Unsloth's buffer of a weight of 2,048 x
    8,192 is as large as one of an H100's two."""
    card = find_gpu(row["asked"][row["asked"].index("--gpu") + 1])
    most = WORKSPACES * workspace_bytes(card.platform())
    return int(row["requested_bytes"] - min(row["workspaces_bytes"], most))


def is_exact(row: Mapping[str, Any]) -> bool:
    """Whether the answer to the file is exact: it names nothing that is not modelled."""
    return row["exactness"] == "exact" and not row["not_modelled"]


def _says(row: Mapping[str, Any]) -> str:
    bound = "lower bound" if row.get("is_lower_bound") else "estimate"
    return "exact" if is_exact(row) else bound


FAMILY = Family(
    name="rehearsed_frameworks",
    heads="file | asked",
    cells=lambda row: (row["file"] or row["framework"], f"`{' '.join(row['asked'])}`"),
    named=lambda row: f"{row['file'] or row['framework']}, `{' '.join(row['asked'])}`",
    says=_says,
    counted=counted_bytes,
    group=("framework", lambda row: str(row["framework"])),
)


def page(rows: Sequence[Row]) -> str:
    versions = ", ".join(f"{name} {each.version}" for name, each in FRAMEWORKS.items())
    return page_of(
        "Frameworks, rehearsed",
        f"`python -m benchmarks.rehearsed.frameworks`: {versions}, their own commands over torch's"
        " CUDA build on pretended cards, models at full size; the requested peak of later steps,"
        " BLAS workspaces left out, beside what `lora-profile FILE` says. Files are the frameworks'"
        " own, by address, and not kept here. Nothing here was measured on a card.",
        FAMILY.summary(rows),
        "## Every run, the worst first",
        FAMILY.every_run(rows),
        *FAMILY.others(rows),
    )


@contextmanager
def questions(options: Namespace) -> Iterator[Asked]:
    with data_folder() as folder:
        made = partial(run, str(options.python), *places(options), folder)
        yield ((cell.key, cell) for cell in cells()), made


def again(row: Row) -> dict[str, Any]:
    return predicted_anew(row, predicted(row["asked"]))


BENCHMARK = Rows(text=__doc__, name=FAMILY.name, page=page, again=again)

if __name__ == "__main__":
    BENCHMARK.main(questions, **PLACES)
