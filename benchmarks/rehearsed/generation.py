"""transformers' generate on a simulated GPU: its peak against that moment in `predict`.

    python -m benchmarks.rehearsed.generation --python PYTHON [--again]

PYTHON is of an environment with a CUDA build of torch, transformers and PEFT. No card is needed, no
weights are fetched. Writes `results/rehearsed_generation.jsonl`, a row a run, and
`results/rehearsed_generation.md`; --again predicts the rows anew.
"""

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.pages import page_of, table
from benchmarks.questions import workload_on
from benchmarks.rehearsed.forked import ForkedRehearsals
from benchmarks.runner import Asked, Rows
from lora_profiler.planning.engine import predict
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload

CARD = "a100_sxm_80gb"
MODELS = (
    "HuggingFaceTB/SmolLM2-135M", "Qwen/Qwen2.5-0.5B", "Qwen/Qwen3-0.6B", "meta-llama/Llama-3.2-1B",
    "mistralai/Mistral-7B-v0.1", "meta-llama/Llama-3.1-8B", "google/gemma-2-2b",
    "EleutherAI/pythia-410m", "microsoft/Phi-3-mini-4k-instruct",
)  # fmt: skip


def questions() -> Iterator[dict[str, Any]]:
    """8 completions, as GRPO's default: long ones, and short ones of long prompts, where the
    prompts' pass is the peak."""
    for model in MODELS:
        for rank in (0, 16):
            for prompt, completion in ((64, 128), (192, 16)):
                yield {
                    "model": model,
                    "rows": 8,
                    "prompt": prompt,
                    "completion": completion,
                    "dtype": "bfloat16",
                    "rank": rank,
                }


def workload_of(question: Mapping[str, Any], torch: str) -> Workload:
    setup = TrainSetup(
        seq_len=question["prompt"] + question["completion"],
        generation_batch_size=question["rows"],
        max_completion_length=question["completion"],
        dtype=question["dtype"],
        lora=LoraConfig(r=question["rank"]) if question["rank"] else None,
    )
    return workload_on(question["model"], setup, CARD, torch)


def predicted(question: Mapping[str, Any], torch: str) -> dict[str, Any]:
    """What generation adds to what lives between two steps."""
    answer = predict(workload_of(question, torch), may_trace=False)
    sizes = {m.moment: m for m in answer.moments if m.step == "steady"}
    added = sizes["generation"].total_bytes - sizes["setup"].total_bytes
    is_pass = "temporaries" in sizes["generation"].bytes
    return {"predicted_bytes": added, "peak_in": "prompts" if is_pass else "last token"}


def counted(row: Mapping[str, Any]) -> int:
    return int(row["requested_bytes"] - row["before_bytes"])


def error(row: Mapping[str, Any]) -> float:
    """Of what generation adds, as a share of all that is there."""
    return float((row["predicted_bytes"] - counted(row)) / row["requested_bytes"])


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    done = [row for row in rows if row["status"] == "done"]
    return page_of(
        "Generation, rehearsed",
        "`python -m benchmarks.rehearsed.generation`: transformers' own `generate` over torch's"
        " CUDA build on a pretended A100, 8 sequences drawn at once, none of which ends before the"
        " last token. Bytes that come on top of the model, beside the moment `generation`; the"
        " error is a share of model and generation together. Nothing here was measured on a card.",
        table(
            "model | >rank | >prompt + completion | peak in | >rehearsed | >predicted | >error",
            map(_cells, done),
        ),
        (f"- {row['model']}: {row['error']}" for row in rows if row not in done),
    )


def _cells(row: Mapping[str, Any]) -> tuple[object, ...]:
    lengths = f"{row['prompt']} + {row['completion']}"
    sizes = (f"{counted(row):,}", f"{row['predicted_bytes']:,}", f"{100 * error(row):+.3f} %")
    return row["model"], row["rank"] or "full", lengths, row["peak_in"], *sizes


@contextmanager
def asked(options: Namespace) -> Iterator[Asked]:
    with ForkedRehearsals(options.python, "generation_server", with_hub=True) as rehearsals:

        def made(question: dict[str, Any]) -> dict[str, Any]:
            row = {**question, "torch": rehearsals.torch, **rehearsals.ask(CARD, question)}
            return row | predicted(question, rehearsals.torch)

        yield ((key(question), question) for question in questions()), made


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("model", "rank", "prompt", "completion"))


def again(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, **predicted(row, row["torch"])}


BENCHMARK = Rows(text=__doc__, name="rehearsed_generation", page=page, key=key, again=again)

if __name__ == "__main__":
    BENCHMARK.main(asked)
