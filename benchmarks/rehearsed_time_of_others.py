"""The time of a rehearsed step of trainers that others wrote, beside the step time that
`lora-profile` tells of the same question, and where the two differ.

    python -m benchmarks.rehearsed_time_of_others --python PYTHON --library NAME=FOLDER:...
        [--clone NAME=REPOSITORY] [--only TEXT] [--again]

transformers' Trainer, TRL's SFTTrainer and DPOTrainer (cells of `rehearsed_trainers`), torchtune,
LLaMA-Factory, axolotl, LitGPT and Unsloth by their own commands (cells of `rehearsed_frameworks`,
whose options these are). A row of `results/rehearsed_time_of_others.jsonl` is written as each ends,
and `results/rehearsed_time_of_others.md`; what is there is not run again. --only takes cells whose
key has the text; --again writes the page anew. Both times are predicted: nothing was measured.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.framework_cells import Cell as Command
from benchmarks.framework_cells import cells as commands
from benchmarks.rehearsed_frameworks import (
    ROOT,
    asked,
    changed,
    command_of,
    environment_of,
    profiled,
    text_of,
    write_data,
)
from benchmarks.rehearsed_time import BOUND
from benchmarks.rehearsed_trainers import Cell as Trained
from benchmarks.rehearsed_trainers import cells as trained
from lora_profiler.catalog import find_gpu
from lora_profiler.errors import RehearsalError
from lora_profiler.planning.rehearsed_time import rehearsed_time
from lora_profiler.rehearsal.build import stubs
from lora_profiler.rehearsal.cards import pretended
from lora_profiler.rehearsal.compiler import find_compiler
from lora_profiler.rehearsal.environment import read_environment
from lora_profiler.rehearsal.launch import Request, rehearse

RESULTS = Path(__file__).parent / "results"
ROWS, PAGE = (RESULTS / f"rehearsed_time_of_others.{end}" for end in ("jsonl", "md"))
TRAINED = (
    "transformers full HuggingFaceTB/SmolLM2-135M a100_sxm_80gb 1 512",
    "transformers lora Qwen/Qwen3-0.6B h100_sxm_80gb 2 1024",
    "transformers lora meta-llama/Llama-3.2-1B h100_sxm_80gb 2 1024 amp",
    "transformers qlora meta-llama/Llama-3.2-1B a100_sxm_80gb 2 512 16",
    "transformers full Qwen/Qwen2.5-0.5B h100_sxm_80gb 2 512 adamw_8bit",
    "transformers qlora meta-llama/Llama-3.1-8B t4 1 1024 True float16",
    "trl-sft full HuggingFaceTB/SmolLM2-135M a100_sxm_80gb 2 1024",
    "trl-sft lora Qwen/Qwen3-0.6B a100_sxm_80gb 4 1024",
    "trl-sft qlora meta-llama/Llama-3.2-1B h100_sxm_80gb 4 512",
    "trl-sft lora meta-llama/Llama-3.1-8B h100_sxm_80gb 2 2048 2",
    "trl-dpo lora Qwen/Qwen2.5-0.5B a100_sxm_80gb 2 1024",
    "trl-dpo qlora meta-llama/Llama-3.1-8B h100_sxm_80gb 1 1024",
)
"""Of `rehearsed_trainers`: trainer, method, model, card, and values of options."""
COMMANDS = (
    "torchtune 1B_lora_single_device meta-llama/Llama-3.2-1B a100_sxm_80gb",
    "torchtune 1B_lora_single_device meta-llama/Llama-3.2-1B h100_sxm_80gb",
    "torchtune 0.5B_full_single_device Qwen/Qwen2.5-0.5B a100_sxm_80gb",
    "torchtune 1B_full_single_device meta-llama/Llama-3.2-1B a100_sxm_80gb",
    "llamafactory qwen3_lora_sft Qwen/Qwen3-0.6B a100_sxm_80gb",
    "llamafactory qwen3_lora_sft HuggingFaceTB/SmolLM2-135M t4",
    "llamafactory qwen3_lora_sft_otfq Qwen/Qwen3-0.6B a100_sxm_80gb",
    "llamafactory qwen3_full_sft HuggingFaceTB/SmolLM2-135M a100_sxm_80gb",
    "axolotl lora-1b meta-llama/Llama-3.2-1B a100_sxm_80gb",
    "axolotl qlora-1b meta-llama/Llama-3.2-1B a100_sxm_80gb",
    "axolotl lora-1b meta-llama/Llama-3.1-8B h100_sxm_80gb",
    "litgpt lora meta-llama/Llama-3.2-1B a100_sxm_80gb",
    "litgpt full HuggingFaceTB/SmolLM2-135M h100_sxm_80gb",
    "unsloth lora HuggingFaceTB/SmolLM2-135M a100_sxm_80gb",
    "unsloth qlora meta-llama/Llama-3.2-1B h100_sxm_80gb",
)
"""Of `framework_cells`: framework, file or method, model and card."""


def scripts() -> dict[str, Trained | Command]:
    """By name."""
    named: dict[str, Trained | Command] = {}
    for cell in trained():
        values = map(str, cell.options.values())
        named[" ".join([cell.trainer, cell.method, cell.model, cell.card, *values])] = cell
    for command in commands():
        of = Path(command.file).stem or command.words[1]
        named.setdefault(" ".join([command.framework, of, command.model, command.card]), command)
    return {name: named[name] for name in (*TRAINED, *COMMANDS)}


def run(
    python: Path,
    cell: Trained | Command,
    libraries: Mapping[str, str],
    clones: Mapping[str, str],
    folder: Path,
) -> dict[str, Any]:
    """The question in words, and what one step of the script launches."""
    if isinstance(cell, Trained):
        words = cell.command.split()
        script = Path(__file__).parent / "rehearsed_trainer.py"
        command = ["python", str(script), json.dumps(cell.question())]
        variables = {"PYTHONPATH": str(ROOT)}
    else:
        library = libraries[cell.framework]
        text = changed(text_of(cell, clones), cell.changes) if cell.file else ""
        words, _ = asked(cell, text, folder)
        command = command_of(cell, text, folder, library)
        variables = environment_of(cell, command, library)
    environment = read_environment(python)
    request = Request(
        command=tuple(command),
        python=python,
        card=pretended(find_gpu(cell.card), 0),
        pretends_data=True,
        with_work=True,
    )
    row = {"asked": words, "card": cell.card, "torch": environment.torch}
    with patch.dict(os.environ, variables), chdir(folder):
        try:
            (rehearsal,) = rehearse(request, stubs(environment, find_compiler()), output=2)
        except RehearsalError as error:
            return row | {"status": "error", "error": str(error)}
    return row | {"status": rehearsal.status, "work": rehearsal.work}


def compared(row: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """Both times and what makes them differ, as shares of the predicted one. `answer`: the step's
    time in the command's JSON."""
    found = rehearsed_time(row["work"], find_gpu(row["card"]))
    assert found.time is not None
    seconds = answer["seconds"]
    parts = {
        part: (found.time.parts.get(part, 0.0) - answer["part_seconds"].get(part, 0.0)) / seconds
        for part in dict.fromkeys([*answer["part_seconds"], *found.time.parts])
    }
    return {
        "rehearsed_seconds": found.time.seconds,
        "predicted_seconds": seconds,
        "difference": found.time.seconds / seconds - 1,
        "parts": parts,
        "launches": found.launches,
        "by_bytes": found.by_bytes,
        "unseen": found.library_calls - found.products,
    }


def answered(words: Sequence[str]) -> dict[str, Any]:
    (answer,) = profiled(*words)["predictions"]
    return answer["step_time"] or {"refused": answer["step_time_refusal"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", type=Path)
    parser.add_argument("--library", action="append", default=[])
    parser.add_argument("--clone", action="append", default=[])
    parser.add_argument("--only", default="")
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    libraries, clones = (
        dict(each.split("=", 1) for each in words) for words in (options.library, options.clone)
    )
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    known = {row["script"] for row in rows}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        write_data(folder / "data")
        for script, cell in scripts().items():
            if options.again or script in known or options.only not in script:
                continue
            row = {"script": script, **run(options.python, cell, libraries, clones, folder)}
            print(script, row["status"], file=sys.stderr, flush=True)
            rows.append(row)
            with open(ROWS, "a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
