"""What `--write peft` writes, rehearsed on a simulated GPU, against the question.

    python -m benchmarks.rehearsed.written_scripts --python PYTHON

PYTHON is of an environment with a CUDA build of torch, transformers, PEFT and bitsandbytes; no card
is needed, no weights are fetched. Each script runs unchanged for three steps. Writes
`results/written_scripts.md`; five minutes on two cores.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.pages import page_of, parser_of, table, write_page
from benchmarks.questions import flags, workload_on
from benchmarks.rehearsing import rehearsed, workspaces_bytes
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.planning.engine import predict
from lora_profiler.planning.setups import setup_for
from lora_profiler.question.workload import Method, Workload
from lora_profiler.trainer_files.writing import written

CARD = "a100_sxm_80gb"


class Cell(NamedTuple):
    model: str
    method: Method
    options: Mapping[str, Any]

    @property
    def words(self) -> str:
        return f"{self.model} --method {self.method} {flags(self.options)}"

    def workload(self, torch: str) -> Workload:
        model = find_model(self.model, offline=True)
        setup = setup_for(model, "transformers", self.method, **self.options)
        return workload_on(model, setup, CARD, torch)


_ONE, _HALF = "meta-llama/Llama-3.2-1B", "Qwen/Qwen2.5-0.5B"
_ALL = {"targets": "all-linear"}
CELLS = (
    Cell(_ONE, "full", {"batch_size": 2, "seq_len": 512}),
    Cell(_ONE, "lora", {"batch_size": 2, "seq_len": 512}),
    Cell(_ONE, "qlora", {"batch_size": 2, "seq_len": 512, **_ALL}),
    Cell(_HALF, "full", {"batch_size": 1, "seq_len": 512, "optimizer": "adafactor"}),
    Cell(_HALF, "lora", {"batch_size": 4, "seq_len": 512, "precision": "amp", "dropout": 0.05}),
    Cell(_HALF, "lora", {"batch_size": 2, "seq_len": 1024, "checkpointing": True, **_ALL}),
    Cell(
        _HALF,
        "lora",
        {"batch_size": 2, "seq_len": 1024, "checkpointing": True, "use_reentrant": True, **_ALL},
    ),
    Cell(_HALF, "lora", {"batch_size": 1, "seq_len": 512, "adapter_dtype": "bfloat16", **_ALL}),
    Cell(_HALF, "full", {"batch_size": 2, "seq_len": 256, "label_smoothing_factor": 0.1}),
    Cell(_HALF, "qlora", {"batch_size": 2, "seq_len": 512, "recipe": "kbit", **_ALL}),
    Cell(_HALF, "lora", {"batch_size": 2, "seq_len": 512, "accumulation": 4, "rank": 64}),
    Cell(_HALF, "lora", {"batch_size": 1, "seq_len": 512, "eval_batch_size": 4}),
)


def document_of(python: str, script: str) -> dict[str, Any]:
    """The document of `lora-profile rehearse` over the script."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.py"
        path.write_text(script)
        done = rehearsed(python, CARD, ["python", str(path)])
    if not done.stdout:
        raise SystemExit(done.stderr[-2000:])
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def row(python: str, cell: Cell) -> tuple[str, ...]:
    script = written("peft", cell.workload("2.13"), "train.py")
    document = document_of(python, script)
    (rank,) = document["ranks"]
    if document["status"] != "done":
        return (f"`{cell.words}`", document["status"], "", "", "")
    answer = predict(cell.workload(rank["torch"]), may_trace=False)
    counted = rank["held"]["requested_bytes"] - workspaces_bytes(rank)
    predicted = answer.peak.total_bytes
    off = f"{predicted - counted:+,}" if predicted != counted else "equal"
    return (f"`{cell.words}`", f"{counted:,}", f"{predicted:,}", answer.exactness, off)


def main() -> None:
    python = parser_of(__doc__, python="python").parse_args().python
    rows = []
    for cell in CELLS:
        rows.append(row(python, cell))
        print(*rows[-1], file=sys.stderr, flush=True)
    text = page_of(
        "Written scripts, rehearsed",
        "`python -m benchmarks.rehearsed.written_scripts`: what `lora-profile ... --trainer"
        " transformers"
        f" --write peft train.py` writes, run unchanged over torch's CUDA build on a pretended"
        f" {find_gpu(CARD).name}; the requested peak in bytes, BLAS workspaces left out, beside"
        " what was predicted of the question. Nothing here was measured on a card.",
        table("asked | >rehearsed | >predicted | says | >difference", rows),
    )
    write_page("written_scripts", text)


if __name__ == "__main__":
    main()
