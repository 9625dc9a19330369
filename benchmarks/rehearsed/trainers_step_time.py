"""The time of a rehearsed step in other projects' trainers against the predicted step time, and
where the two differ.

    python -m benchmarks.rehearsed.trainers_step_time --python PYTHON --library NAME=FOLDER:...
        [--clone NAME=REPOSITORY] [--only TEXT] [--again]

transformers' Trainer, TRL's SFTTrainer and DPOTrainer (cells of `rehearsed.trainers`), torchtune,
LLaMA-Factory, axolotl, LitGPT and Unsloth by their own commands (cells of `rehearsed.frameworks`,
whose options these are). A row of `results/rehearsed_time_of_others.jsonl` is written as each ends,
and `results/rehearsed_time_of_others.md`; what is there is not run again. --only takes cells whose
key has the text; --again writes the page anew. Both times are predicted: nothing was measured.
"""

import json
import os
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from functools import partial
from math import hypot
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.pages import page_of, table
from benchmarks.questions import workload_on
from benchmarks.rehearsed.framework_cells import Cell as Command
from benchmarks.rehearsed.framework_cells import cells as commands
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
from benchmarks.rehearsed.frameworks import asked, profiled
from benchmarks.rehearsed.step_time import BOUND
from benchmarks.rehearsed.trainers import Cell as Trained
from benchmarks.rehearsed.trainers import cells as trained
from benchmarks.runner import Asked, Rows
from lora_profiler.errors import RehearsalError
from lora_profiler.facts.catalog import Gpu, find_gpu, find_model
from lora_profiler.measuring.records.serialize import setup_from_dict
from lora_profiler.memory.analytic.kernels import counted_kernels
from lora_profiler.planning.nearest import kernels_of, rehearsed_time
from lora_profiler.question.support.generations import as_made
from lora_profiler.rehearsal.build import find_compiler, stubs
from lora_profiler.rehearsal.environment import read_environment
from lora_profiler.rehearsal.launch import Request, pretended, rehearse
from lora_profiler.runs.comparison.throughput import quantile
from lora_profiler.steptime import PARTS, constants_for, rates_of
from lora_profiler.steptime.roofline import loaded, step_of, weights

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
"""Of `rehearsed.trainers`: trainer, method, model, card, and values of options."""
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
LEAST = 0.003
MOST = 8
CAUSES: Mapping[str, str] = {
    "litgpt": "LitGPT's own model makes queries, keys and values by one product, multiplies"
    " grouped adapters by a convolution, and rotates and norms in float32, with conversions on both"
    " sides; its rules count transformers' kernels. The host bounds these short steps, so that"
    " launches are the difference.",
    "unsloth": "Its loss multiplies by the head inside Triton's kernels, which a rehearsal prices"
    " by their bytes alone. With a 4-bit base it pads tensors for its products and copies what its"
    " kernel rotates, which its rules do not count. The host bounds these short steps, so that"
    " launches are the difference.",
}
"""Of scripts whose names begin so, why their step is not the predicted one."""
SAME: Mapping[str, str] = {
    "triton _fg_kernel": "glu", "triton _DWf_DW_dfg_kernel": "glu_backward",
    "triton _rms_layernorm_forward": "rms_norm",
    "triton _rms_layernorm_backward": "rms_norm_backward", "triton _rope_embedding_QK": "rotate",
    "triton _fl_partial_kernel": "loss", "triton _fl_combine_kernel": "loss",
    "triton _fl_scale_kernel": "loss", "triton _fl_backward_kernel": "loss", "_log_softmax": "loss",
    "_log_softmax_backward_data": "loss", "addmm_": "products", "bmm": "products", "mm": "products",
}  # fmt: skip
"""What an operator is called where the two sides have the same under names of their own."""
BEYOND, REST = "kernels beyond an operator's first", "all others"


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
    libraries: Mapping[str, str],
    clones: Mapping[str, str],
    folder: Path,
    question: tuple[str, Trained | Command],
) -> dict[str, Any]:
    """The name of a script, the question in words, and what one step of the script launches."""
    script, cell = question
    if isinstance(cell, Trained):
        words = cell.command.split()
        trainer = Path(__file__).parent / "inside" / "trainer.py"
        command = ["python", str(trainer), json.dumps(cell.question())]
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
    row = {"script": script, "asked": words, "card": cell.card, "torch": environment.torch}
    with patch.dict(os.environ, variables), chdir(folder):
        try:
            (rehearsal,) = rehearse(request, stubs(environment, find_compiler()), output=2)
        except RehearsalError as error:
            return row | {"status": "error", "error": str(error)}
    return row | {"status": rehearsal.status, "work": rehearsal.work}


def answered(words: Sequence[str]) -> dict[str, Any]:
    (answer,) = profiled(*words)["predictions"]
    return dict(answer)


def compared(row: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """Both times, and what makes them differ, as shares of the predicted one: by part, and the
    operators that differ most, with how often each runs. `answer`: of the command, in JSON."""
    gpu, told = find_gpu(row["card"]), answer["step_time"]
    found, seconds = rehearsed_time(row["work"], gpu), told["seconds"]
    assert found.time is not None, found.reason
    parts = {
        part: (found.time.parts.get(part, 0.0) - told["part_seconds"].get(part, 0.0)) / seconds
        for part in PARTS
    }
    return {
        **row,
        "rehearsed_seconds": found.time.seconds,
        "predicted_seconds": seconds,
        "difference": found.time.seconds / seconds - 1,
        "parts": {part: share for part, share in parts.items() if abs(share) >= LEAST},
        "operators": operators(row, answer, gpu, found.launches - row["work"]["update_launches"]),
        "launches": found.launches - row["work"]["update_launches"],
        "counted": told["launches"] * answer["setup"]["accumulation"],
    }


def operators(
    row: Mapping[str, Any], answer: Mapping[str, Any], gpu: Gpu, launches: int
) -> list[tuple[str, int, int, float, float]]:
    """(name, times in the rehearsal, times in the prediction, what it adds on the card, what it
    adds with its launches), both as shares of the predicted step; those that add most, and the
    rest. What they add together is the difference of all micro-batches' time.

    Of two times hypot(device, host) the difference is exactly a sum over devices and hosts, each
    weighed by its own mean over the mean time.
    """
    setup, seconds = setup_from_dict(answer["setup"]), answer["step_time"]["seconds"]
    model = as_made(find_model(answer["model"]["id"], offline=True), setup)
    counted = counted_kernels(workload_on(model, setup, row["card"], row["torch"]))
    rates, (constants, _) = rates_of(gpu), constants_for(gpu)
    assert rates is not None
    times: Counter[tuple[str, int]] = Counter()
    spent: defaultdict[tuple[str, int], float] = defaultdict(float)
    for side, kernels in enumerate((kernels_of(row["work"]["step"]), counted.kernels)):
        for kernel in kernels:
            product, copy, rest = weights(kernel, rates, constants.fixed)
            each = max(product / constants.eta, copy / constants.beta, rest)
            name = SAME.get(kernel.op, kernel.op)
            count = kernel.count * (setup.accumulation if side else 1)
            times[name, side] += count
            spent[name, side] += count * each
    added = loaded(step_of(counted, setup), rates, constants.fixed).added
    if added:  # the first micro-batch adds its gradients to none
        times["add_", 1] -= added.count
        spent["add_", 1] -= added.seconds(constants.eta, constants.beta)
    predicted = answer["step_time"]["launches"] * setup.accumulation
    of_steps = (launches, predicted - (added.count if added else 0))
    for side, all_of_them in enumerate(of_steps):
        times[BEYOND, side] = all_of_them - sum(n for (_, of), n in times.items() if of == side)
    launch = constants.fixed.launch_seconds
    device = [sum(s for (_, of), s in spent.items() if of == side) for side in (0, 1)]
    host = [launch * sum(n for (_, of), n in times.items() if of == side) for side in (0, 1)]
    both = sum(map(hypot, device, host))
    named = []
    for name in dict.fromkeys(name for name, _ in times):
        more = spent[name, 0] - spent[name, 1]
        launched = launch * (times[name, 0] - times[name, 1])
        whole = (more * sum(device) + launched * sum(host)) / both
        named.append((name, times[name, 0], times[name, 1], more / seconds, whole / seconds))
    named.sort(key=lambda each: -abs(each[-1]))
    left = named[MOST:]
    return [*named[:MOST], (REST, *(sum(each[i] for each in left) for i in (1, 2, 3, 4)))]  # type: ignore[list-item]


def page(rows: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]) -> str:
    found = [compared(row, answer) for row, answer in zip(rows, answers, strict=True)]
    found.sort(key=lambda row: -abs(row["difference"]))
    differences = [abs(row["difference"]) for row in found]
    within = sum(difference <= BOUND for difference in differences)
    return page_of(
        "The time of a rehearsed step of others",
        "Written by `python -m benchmarks.rehearsed.trainers_step_time`: one step of trainers'"
        " own code"
        " over torch's CUDA build on pretended cards, its kernels priced by the roofline, beside"
        " the step time that `lora-profile` tells of the same question from rules. Both are"
        " predicted; nothing was measured.",
        f"{within} of {len(found)} within {BOUND:.0%}: median"
        f" {quantile(differences[::-1], 0.5):.2%}, largest {differences[0]:.2%}. Where parts"
        f" differ: shares of the predicted step, from {LEAST:.1%}. Launches are without the"
        " update's.",
        table(
            "script | card | >rehearsed, s | >predicted, s | >difference | where | >launches"
            " | >counted",
            map(_cells, found),
        ),
        f"## Beyond {BOUND:.0%}, and why",
        "What each operator adds, those that add most: on the card, and with its launches, which"
        " together are the difference of the micro-batches' time. Beyond an operator's first:"
        " kernels that the stub libraries counted and no operator of the rehearsal's list stands"
        " for.",
        *(block for row in found[: len(found) - within] for block in _beyond(row)),
        "Asked:",
        (f"- `{' '.join(row['asked'])}`" for row in found),
    )


def _beyond(row: Mapping[str, Any]) -> tuple[str | list[str], ...]:
    operators = table(
        "operator | >times, rehearsed | >predicted | >on the card, of the step | >with its"
        " launches",
        (
            (op, f"{n:,}", f"{m:,}", f"{share:+.2%}", f"{whole:+.2%}")
            for op, n, m, share, whole in row["operators"]
        ),
    )
    title = f"### {row['script']}: {row['difference']:+.2%}"
    return title, cause_of(row["script"]), operators


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    card = row["card"]
    times = (f"{row[f'{kind}_seconds']:.4f}" for kind in ("rehearsed", "predicted"))
    where = ", ".join(f"{part} {share:+.1%}" for part, share in row["parts"].items())
    counts = (f"{row[kind]:,}" for kind in ("launches", "counted"))
    script = row["script"].replace(f" {card}", "")
    return script, card, *times, f"{row['difference']:+.2%}", where, *counts


def cause_of(script: str) -> str:
    return next((text for start, text in CAUSES.items() if script.startswith(start)), "")


@contextmanager
def questions(options: Namespace) -> Iterator[Asked]:
    with data_folder() as folder:
        made = partial(run, options.python, *places(options), folder)
        yield ((each[0], each) for each in scripts().items()), made


BENCHMARK = Rows(
    text=__doc__,
    name="rehearsed_time_of_others",
    page=lambda rows: page(rows, [answered(row["asked"]) for row in rows]),
    key=lambda row: row["script"],
)

if __name__ == "__main__":
    BENCHMARK.main(questions, **PLACES)
