"""Trainers themselves on simulated GPUs, each steady peak against that of `--trainer`.

    python -m benchmarks.rehearsed.trainers --python PYTHON [--seconds N] [--again]

transformers' Trainer and TRL's SFTTrainer, DPOTrainer, GRPOTrainer, KTOTrainer, ORPOTrainer and
RewardTrainer train real architectures at full size with their own defaults but for the options of a
cell; PYTHON is of an environment with a CUDA build of torch, transformers, PEFT, TRL and
bitsandbytes. No card is needed, no weights are fetched.
Writes a row of `results/rehearsed_trainers.jsonl` as each ends, and
`results/rehearsed_trainers.md`; what is there is not run again. --again predicts all rows anew.
Half an hour on two cores.
"""

import json
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from benchmarks.pages import page_of
from benchmarks.questions import flags, workload_on
from benchmarks.rehearsed.forked import ForkedRehearsals
from benchmarks.rehearsed.peaks import Family, predicted, predicted_anew
from benchmarks.rows import Row
from benchmarks.runner import Asked, Rows
from lora_profiler.facts.catalog import find_model
from lora_profiler.planning.setups import setup_for
from lora_profiler.question.support.generations import as_made
from lora_profiler.question.workload import Method, Workload

FAMILY = Family(
    name="rehearsed_trainers",
    heads="command",
    cells=lambda row: (f"`{row['command']}`",),
    named=lambda row: f"`{row['command']}`",
    group=("trainer", lambda row: str(json.loads(row["key"])[0])),
)
CARDS = ("a100_sxm_80gb", "h100_sxm_80gb", "t4")
HALF = {"dtype": "float16"}
"""A T4 has no products of bfloat16."""


@dataclass(frozen=True)
class Cell:
    """`options` as on the command line."""

    trainer: str
    method: Method
    model: str
    card: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return json.dumps([self.trainer, self.method, self.model, self.card, dict(self.options)])

    @property
    def _told(self) -> Mapping[str, Any]:
        """With the format of the model that the trainer is handed; TRL makes its own of a name."""
        if not self.trainer.startswith("trl"):
            return self.options
        return {"dtype": find_model(self.model, offline=True).dtype, **self.options}

    @property
    def command(self) -> str:
        asked = f"{self.model} --method {self.method} --trainer {self.trainer}"
        return f"{asked} {flags(self._told)} --gpu {self.card}"

    def workload(self, torch: str) -> Workload:
        model = find_model(self.model, offline=True)
        setup = setup_for(model, self.trainer, self.method, **self._told)
        if self.trainer == "transformers":  # with default_data_collator
            setup = replace(setup, loop_state="transformers-unmasked")
        return workload_on(as_made(model, setup), setup, self.card, torch)

    def question(self) -> dict[str, Any]:
        """What the trainer is given: what the options name, and nothing else."""
        model, o = find_model(self.model, offline=True), self.options
        arguments: dict[str, Any] = {"per_device_train_batch_size": o["batch_size"]}
        if "accumulation" in o:
            arguments["gradient_accumulation_steps"] = o["accumulation"]
        if "checkpointing" in o:
            arguments["gradient_checkpointing"] = o["checkpointing"]
        if "precision" in o:
            arguments["bf16"] = o["precision"] == "amp"
            arguments["fp16"] = o["precision"] == "amp-float16"
        if "optimizer" in o:
            arguments["optim"] = OPTIMIZERS[o["optimizer"]]
        if "beta" in o:
            arguments["beta"] = o["beta"]
        lora: dict[str, Any] | None = None
        if self.method != "full":
            lora = {"target_modules": o["targets"]} if "targets" in o else {}
            lora |= {"r": o["rank"]} if "rank" in o else {}
        return {
            "trainer": self.trainer,
            "model": self.model,
            "seq_len": o["seq_len"],
            "completion": o.get("max_completion_length"),
            "dtype": o.get("dtype", model.dtype),
            "quantization": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
            if self.method == "qlora"
            else None,
            "lora": lora,
            "arguments": arguments,
        }


OPTIMIZERS = {"adamw_8bit": "adamw_bnb_8bit", "adafactor": "adafactor", "sgd": "sgd"}

_SMALL = ("HuggingFaceTB/SmolLM2-135M", "Qwen/Qwen2.5-0.5B", "Qwen/Qwen3-0.6B")
_ONE = "meta-llama/Llama-3.2-1B"
_EIGHT = "meta-llama/Llama-3.1-8B"
_SEVENTY = "meta-llama/Llama-3.1-70B"
_BY_LAWS = (
    "ibm-granite/granite-3.3-8b-instruct", "allenai/Olmo-3-1025-7B", "google/gemma-3-4b-it",
    "tiiuae/Falcon-H1-1.5B-Base", "HuggingFaceTB/SmolLM3-3B", "zai-org/GLM-4-9B-0414",
    "Qwen/Qwen3.5-2B",
)  # fmt: skip
"""Of types that no rule knows."""


def cells() -> Iterator[Cell]:
    for card in CARDS:
        usual = HALF if card == "t4" else {}
        for model in (*_SMALL, _ONE):
            yield _cell("transformers", "full", model, card, 1, 512, **usual)
            yield _cell("transformers", "lora", model, card, 2, 1024, **usual)
            yield _cell("transformers", "lora", model, card, 4, 1024, checkpointing=True, **usual)
            yield _cell("transformers", "qlora", model, card, 2, 512, rank=16, **usual)
        yield _cell("transformers", "lora", _EIGHT, card, 1, 512, targets="all-linear", **usual)
        yield _cell("transformers", "qlora", _EIGHT, card, 1, 1024, checkpointing=True, **usual)
        if card == "t4":
            for precision in ("amp", "amp-float16", "pure"):  # torch or TRL refuses some of them
                of_trl = {"precision": precision, **usual}
                for model in _SMALL[:2]:
                    yield _cell("trl-sft", "lora", model, card, 2, 1024, **of_trl)
                    yield _cell("trl-sft", "qlora", model, card, 2, 1024, rank=16, **of_trl)
                    yield _cell("trl-dpo", "qlora", model, card, 1, 512, **of_trl)
            wide = {"dtype": "float32", "precision": "amp-float16"}
            yield _cell("trl-sft", "full", _SMALL[0], card, 2, 512, **wide)
            continue
        for model in (*_SMALL, _ONE):
            yield _cell("transformers", "lora", model, card, 2, 1024, precision="amp")
            yield _cell("transformers", "full", model, card, 2, 512, optimizer="adamw_8bit")
            yield _cell("trl-sft", "full", model, card, 2, 1024)
            yield _cell("trl-sft", "lora", model, card, 4, 1024)
            yield _cell("trl-sft", "lora", model, card, 2, 2048, rank=32, targets="all-linear")
            yield _cell("trl-sft", "qlora", model, card, 4, 512)
            yield _cell("trl-dpo", "lora", model, card, 2, 1024)
        for model in (_EIGHT, "mistralai/Mistral-7B-v0.1", "Qwen/Qwen2.5-7B"):
            yield _cell("transformers", "lora", model, card, 1, 2048, checkpointing=True)
            yield _cell("trl-sft", "lora", model, card, 2, 2048, accumulation=2)
            yield _cell("trl-sft", "qlora", model, card, 2, 2048, targets="all-linear")
            yield _cell("trl-dpo", "qlora", model, card, 1, 1024)
        for trainer in ("transformers", "trl-sft", "trl-dpo"):  # a peak in the update, and sums
            small, of_update = (trainer, "full", _SMALL[0], card, 1, 64), {"optimizer": "adafactor"}
            yield _cell(*small, **of_update)
            yield _cell(*small, accumulation=3, **of_update)
            yield _cell(trainer, "lora", _SMALL[0], card, 2, 512, accumulation=4)
        made = {"max_completion_length": 128}
        yield _cell("trl-grpo", "full", _SMALL[0], card, 8, 256, **made)
        yield _cell("trl-grpo", "full", _SMALL[1], card, 8, 256, beta=0.04, **made)
        yield _cell("trl-grpo", "lora", _SMALL[0], card, 8, 192, dtype="float32", **made)
        yield _cell("trl-grpo", "lora", _ONE, card, 8, 512, **made)
        yield _cell("trl-grpo", "qlora", _ONE, card, 4, 256, accumulation=4, beta=0.04, **made)
        yield _cell("trl-grpo", "qlora", _EIGHT, card, 8, 256, targets="all-linear", **made)
        for trainer in ("trl-kto", "trl-orpo", "trl-reward"):
            yield _cell(trainer, "lora", _SMALL[0], card, 2, 512)
            if card == CARDS[0]:
                yield _cell(trainer, "full", _SMALL[0], card, 2, 512)
                yield _cell(trainer, "lora", _ONE, card, 2, 1024, accumulation=2)
                yield _cell(trainer, "qlora", _ONE, card, 2, 512)
        yield _cell("trl-sft", "qlora", _SEVENTY, card, 1, 1024, targets="all-linear")
        yield _cell("transformers", "qlora", _SEVENTY, card, 1, 512, checkpointing=True)
        yield _cell("trl-sft", "lora", _SEVENTY, card, 1, 1024, targets="all-linear")
        yield _cell("transformers", "lora", _SEVENTY, card, 1, 512, checkpointing=True)
    for model in _BY_LAWS:
        wide = {"dtype": "float32", "targets": "all-linear"}
        yield _cell("trl-sft", "lora", model, CARDS[0], 2, 1024, **wide)


def _cell(
    trainer: str, method: Method, model: str, card: str, batch: int, length: int, **more: Any
) -> Cell:
    options = {"batch_size": batch, "seq_len": length, **more}
    return Cell(trainer=trainer, method=method, model=model, card=card, options=options)


@contextmanager
def asked(options: Namespace) -> Iterator[Asked]:
    with ForkedRehearsals(options.python, "trainers_server", with_hub=True) as rehearsals:

        def made(cell: Cell) -> dict[str, Any]:
            start = time.monotonic()
            found = rehearsals.ask(cell.card, cell.question())
            return {
                "key": cell.key,
                "command": cell.command,
                "torch": rehearsals.torch,
                "seconds": round(time.monotonic() - start),
                **found,
                **predicted(partial(cell.workload, rehearsals.torch)),
            }

        yield ((cell.key, cell) for cell in cells()), made


def page(rows: Sequence[Row]) -> str:
    return page_of(
        "Trainers, rehearsed",
        "`python -m benchmarks.rehearsed.trainers`: transformers' Trainer and TRL's SFTTrainer,"
        " DPOTrainer, GRPOTrainer, KTOTrainer, ORPOTrainer and RewardTrainer, their own code over"
        " torch's CUDA build on pretended cards, models at full size; the requested peak of the"
        " third step, BLAS workspaces left out, beside what `--trainer` says."
        " Nothing here was measured on a card.",
        FAMILY.summary(rows, with_case=True),
        "## Every run, the worst first",
        FAMILY.every_run(rows),
        *FAMILY.others(rows),
    )


def again(row: Row) -> dict[str, Any]:
    (cell,) = (cell for cell in cells() if cell.key == row["key"])
    return predicted_anew(row, predicted(partial(cell.workload, row["torch"])))


BENCHMARK = Rows(text=__doc__, name=FAMILY.name, page=page, again=again)

if __name__ == "__main__":
    BENCHMARK.main(asked)
