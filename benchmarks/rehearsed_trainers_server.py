"""Run by `rehearsed_trainers` in an environment with a CUDA build of torch, transformers, PEFT and
TRL, over stub libraries: reads a question a line, trains with the trainer itself in a process of
its own. Weights are checkpoints of holes."""

import os
from pathlib import Path
from typing import Any

import torch
from rehearsed.settings import Settings
from rehearsed.weights import stand_in

from benchmarks.forked_rehearsals_server import serve
from lora_profiler.rehearsal import __file__ as rehearsal

RUN = Path(os.environ["LORA_PROFILER_RUN"])
CATALOGUE = Path(rehearsal).parents[1] / "catalog" / "data" / "models.json"
stand_in(Settings(folder=RUN, steps=0, models=CATALOGUE, snapshot=None, pretends_data=True))

import datasets  # noqa: E402
import peft  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402

STEADY = 2
"""Steps before the one whose peak is told: by then optimizer states are there."""
WORDS = "The quick brown fox jumps over the lazy dog. " * 2000


class Peaks(transformers.TrainerCallback):  # type: ignore[misc]
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == STEADY:
            torch.cuda.reset_peak_memory_stats()


def rehearse(question: dict[str, Any]) -> dict[str, Any]:
    try:
        trainer = TRAINERS[question["trainer"]](question)
        trainer.add_callback(Peaks())
        trainer.train()
    except torch.OutOfMemoryError as error:
        return {"status": "out_of_memory", "error": str(error)[:200]}
    except Exception as error:
        said, _, _ = f"{type(error).__name__}: {error}".partition(" from file")
        return {"status": "error", "error": said[:300]}
    stats = torch.cuda.memory_stats()
    before = stats["requested_bytes.all.current"]
    torch._C._cuda_clearCublasWorkspaces()
    after = torch.cuda.memory_stats()["requested_bytes.all.current"]
    return {
        "status": "done",
        "workspaces_bytes": before - after,
        **{
            f"{counter}_bytes": stats[f"{counter}_bytes.all.peak"]
            for counter in ("requested", "allocated", "reserved")
        },
    }


def load(question: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of from_pretrained."""
    found: dict[str, Any] = {"dtype": question["dtype"]}
    if question["quantization"]:
        found["quantization_config"] = transformers.BitsAndBytesConfig(
            **question["quantization"]
            | {"bnb_4bit_compute_dtype": getattr(torch, question["dtype"])}
        )
        found["device_map"] = {"": 0}
    return found


def adapters(question: dict[str, Any]) -> Any:
    lora = question["lora"]
    return None if lora is None else peft.LoraConfig(task_type="CAUSAL_LM", **lora)


def common(question: dict[str, Any]) -> dict[str, Any]:
    return {
        "output_dir": str(RUN / "output"),
        "max_steps": STEADY + 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        **question["arguments"],
    }


def tokens(question: dict[str, Any], *, labels: bool) -> Any:
    rows = torch.randint(0, 1000, (64, question["seq_len"])).tolist()
    columns = {"input_ids": rows} | ({"labels": rows} if labels else {})
    return datasets.Dataset.from_dict(columns)


def by_transformers(question: dict[str, Any]) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(question["model"], **load(question))
    config = adapters(question)
    return transformers.Trainer(
        model=model if config is None else peft.get_peft_model(model, config),
        args=transformers.TrainingArguments(**common(question)),
        train_dataset=tokens(question, labels=True),
    )


def by_sft(question: dict[str, Any]) -> Any:
    return trl.SFTTrainer(
        model=question["model"],
        args=trl.SFTConfig(
            **common(question), max_length=question["seq_len"], model_init_kwargs=load(question)
        ),
        train_dataset=tokens(question, labels=False),
        peft_config=adapters(question),
    )


def by_dpo(question: dict[str, Any]) -> Any:
    pair = {"prompt": "What does it do? ", "chosen": WORDS, "rejected": WORDS[1:]}
    return trl.DPOTrainer(
        model=question["model"],
        args=trl.DPOConfig(
            **common(question), max_length=question["seq_len"], model_init_kwargs=load(question)
        ),
        train_dataset=datasets.Dataset.from_list([pair] * 64),
        peft_config=adapters(question),
    )


TRAINERS = {"transformers": by_transformers, "trl-sft": by_sft, "trl-dpo": by_dpo}

if __name__ == "__main__":
    serve(rehearse)
