"""Kernels counted by rules against those of a traced step: real models, three methods, and the time
that both ways take.

    python -m benchmarks.kernel_count [--write]

Prints the report; `--write` writes it to `results/kernel_count.md`. Two minutes on one core; needs
the test extra.
"""

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import torch

from lora_profiler.analytic.kernels import counted_kernels
from lora_profiler.catalog import find_gpu, find_model
from lora_profiler.kernels import StepKernels
from lora_profiler.steptime import predict_step_time
from lora_profiler.traced.kernels import step_kernels
from lora_profiler.workload import LoraConfig, Quantization, TrainSetup, Workload

RESULTS = Path(__file__).parent / "results" / "kernel_count.md"
CARD = "a100_sxm_80gb"
MODELS = (
    "HuggingFaceTB/SmolLM2-135M",
    "openai-community/gpt2",
    "facebook/opt-1.3b",
    "EleutherAI/pythia-1.4b",
    "Qwen/Qwen2.5-7B",
    "Qwen/Qwen3-4B",
    "google/gemma-2-2b",
    "microsoft/Phi-3-mini-4k-instruct",
    "allenai/OLMo-2-1124-7B",
    "mistralai/Mistral-7B-v0.1",
    "meta-llama/Llama-3.1-8B",
    "mistralai/Mixtral-8x7B-v0.1",
)
EVERY = LoraConfig(r=16, lora_dropout=0.05)
ATTENTION = LoraConfig(
    r=16, lora_dropout=0.05, target_modules=("q_proj", "k_proj", "v_proj", "o_proj")
)
METHODS: dict[str, Callable[[LoraConfig], TrainSetup]] = {
    "full": lambda lora: TrainSetup(seq_len=1024, batch_size=2),
    "LoRA, checkpointing": lambda lora: TrainSetup(
        lora=lora, seq_len=1024, batch_size=2, checkpointing=True
    ),
    "QLoRA after k-bit preparation": lambda lora: TrainSetup(
        lora=lora, quantization=Quantization(recipe="kbit"), seq_len=1024, batch_size=2
    ),
}


@dataclass(frozen=True, slots=True)
class Way:
    """One way to get a step's kernels: these, the seconds that it took, and those predicted of the
    step."""

    kernels: StepKernels
    took: float
    step_seconds: float

    @property
    def moved_bytes(self) -> int:
        return sum(k.count * k.moved_bytes for k in self.kernels.kernels)

    @property
    def flops(self) -> int:
        return sum(k.count * k.flops for k in self.kernels.kernels)


def by_way(kernels_of: Callable[[Workload], StepKernels], workload: Workload) -> Way:
    start = perf_counter()
    kernels = kernels_of(workload)
    took = perf_counter() - start
    time = predict_step_time(kernels, find_gpu(CARD), workload.setup)
    assert time is not None, "the card's peaks are known"
    return Way(kernels, took, time.seconds)


def row(model: str, method: str) -> str:
    """One line of the table, with what the second way says over the first."""
    spec = find_model(model)
    setup = METHODS[method](ATTENTION if spec.model_type == "mixtral" else EVERY)
    workload = Workload(model=spec, setup=setup)
    counted, traced = by_way(counted_kernels, workload), by_way(step_kernels, workload)
    ratios = (
        counted.moved_bytes / traced.moved_bytes,
        counted.flops / traced.flops,
        counted.step_seconds / traced.step_seconds,
    )
    return (
        f"| {model} | {method} | {counted.kernels.launches} / {traced.kernels.launches} |"
        f" {counted.moved_bytes / 1e9:.1f} | {counted.step_seconds:.3f} |"
        f" {' | '.join(f'{ratio:.6f}' for ratio in ratios)} | {1000 * counted.took:.0f} |"
        f" {traced.took:.1f} |"
    )


def report() -> str:
    lines = [
        "# Kernels counted by rules against those of a trace",
        "",
        (
            "Written by `python -m benchmarks.kernel_count --write`. 2 samples of 1,024 tokens,"
            " bfloat16, LoRA of rank 16 with"
        ),
        (
            "dropout on every linear layer (Mixtral: on attention); seconds of a step on one A100"
            " SXM 80 GB. Ratios are counted over"
        ),
        "traced; 1 is equal. A count is timed without anything remembered, a trace with its"
        " libraries loaded. Traced by "
        + ", ".join(
            f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "bitsandbytes")
        )
        + ".",
        "",
        (
            "| model | method | launches, counted / traced | GB moved | seconds | bytes | FLOPs |"
            " seconds | count, ms | trace, s |"
        ),
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    step_kernels(
        Workload(model=find_model(MODELS[0]), setup=TrainSetup(seq_len=64))
    )  # the libraries are loaded by the first one
    return "\n".join([*lines, *(row(model, method) for model in MODELS for method in METHODS), ""])


def main() -> None:
    torch.set_num_threads(1)
    # the libraries hold a million objects, which would be looked through again and again
    gc.disable()
    text = report()
    print(text)
    if "--write" in sys.argv[1:]:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
