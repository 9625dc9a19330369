"""transformers' Trainer and those of TRL that `TRAINERS` names, each as a question says: imported
by `trainers_server`, and a script, whose argv[1] is the question in JSON."""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import transformers
import trl
from transformers.generation import GenerationMixin
from trl.experimental import orpo

LIBRARY = torch.library.Library("aten", "IMPL")
RUN = Path(os.environ["LORA_PROFILER_RUN"])
TOKEN = " a"
"""One, to the tokenizer that stands in for a model's."""
WORDS = "The quick brown fox jumps over the lazy dog. " * 2000


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


def half_chosen(mask: torch.Tensor) -> torch.Tensor:
    """As torch's nonzero, where one answer of two is desirable, or all tokens count."""
    count = mask.shape[0] // 2 if mask.dim() == 1 else mask.numel()
    return torch.empty((mask.dim(), count), dtype=torch.int64, device=mask.device).t()


def by_kto(question: dict[str, Any]) -> Any:
    """With what a pretended card cannot tell: which answers are desirable."""
    LIBRARY.impl("nonzero", half_chosen, "CUDA", allow_override=True)
    row = {"prompt": "What does it do? ", "completion": WORDS}
    return trl.KTOTrainer(
        model=question["model"],
        args=trl.KTOConfig(
            **common(question), max_length=question["seq_len"], model_init_kwargs=load(question)
        ),
        train_dataset=datasets.Dataset.from_list(
            [{**row, "label": True}, {**row, "label": False}] * 32
        ),
        peft_config=adapters(question),
    )


def by_reward(question: dict[str, Any]) -> Any:
    config = adapters(question)
    if config is not None:
        config.task_type = "SEQ_CLS"
    rows = torch.randint(0, 1000, (64, question["seq_len"])).tolist()
    return trl.RewardTrainer(
        model=question["model"],
        args=trl.RewardConfig(
            **common(question), max_length=question["seq_len"], model_init_kwargs=load(question)
        ),
        train_dataset=datasets.Dataset.from_dict({"chosen_ids": rows, "rejected_ids": rows}),
        peft_config=config,
    )


def by_orpo(question: dict[str, Any]) -> Any:
    pair = {"prompt": "What does it do? ", "chosen": WORDS, "rejected": WORDS[1:]}
    return orpo.ORPOTrainer(
        model=question["model"],
        args=orpo.ORPOConfig(
            **common(question), max_length=question["seq_len"], model_init_kwargs=load(question)
        ),
        train_dataset=datasets.Dataset.from_list([pair] * 64),
        peft_config=adapters(question),
    )


def completions(mask: torch.Tensor, made: int) -> torch.Tensor:
    """As torch's nonzero, where the last `made` columns are true."""
    count = mask.shape[0] * made if mask.dim() == 2 else mask.numel()
    return torch.empty((mask.dim(), count), dtype=torch.int64, device=mask.device).t()


def by_grpo(question: dict[str, Any]) -> Any:
    """With what a pretended card cannot tell: that no completion ends before its last token, which
    tokens are a completion's, and a reward of each."""
    made = question["completion"]
    LIBRARY.impl("nonzero", partial(completions, made=made), "CUDA", allow_override=True)
    prompt = {"prompt": TOKEN * (question["seq_len"] - made)}

    class GRPOTrainer(trl.GRPOTrainer):  # type: ignore[misc]
        def _generate_single_turn(self, prompt_ids: Any, *args: Any, **more: Any) -> Any:
            left = iter(range(made))
            GenerationMixin._has_unfinished_sequences = (  # type: ignore[method-assign]
                lambda *_, **__: next(left, None) is not None
            )
            super()._generate_single_turn(prompt_ids, *args, **more)
            return [[1] * made for _ in prompt_ids], None

        def _calculate_rewards(self, inputs: Any, prompts: Any, *_: Any) -> Any:
            return torch.zeros(len(prompts), 1, device=self.accelerator.device)

    return GRPOTrainer(
        model=question["model"],
        reward_funcs=len,
        args=trl.GRPOConfig(
            **common(question), max_completion_length=made, model_init_kwargs=load(question)
        ),
        train_dataset=datasets.Dataset.from_list([prompt] * 64),
        peft_config=adapters(question),
    )


TRAINERS = {
    "transformers": by_transformers, "trl-sft": by_sft, "trl-dpo": by_dpo, "trl-grpo": by_grpo,
    "trl-kto": by_kto, "trl-orpo": by_orpo, "trl-reward": by_reward,
}  # fmt: skip

if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    TRAINERS[told["trainer"]](told).train()
