"""What most of Unsloth's notebooks run, with the numbers of a cell, in JSON: SFT, DPO or GRPO."""

import json
import sys
from typing import Any

from unsloth import FastLanguageModel  # type: ignore[import-not-found]  # isort: skip  (first, it asks)
import torch
import trl  # type: ignore[import-not-found]
from datasets import Dataset  # type: ignore[import-untyped]
from transformers.generation import GenerationMixin

LONG = " a" * 3000
GREATEST = 1 << 40
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
told = json.loads(sys.argv[1])
length = told["length"]
common = {
    "output_dir": told["folder"],
    "per_device_train_batch_size": told["per_device_train_batch_size"],
    "gradient_accumulation_steps": told["gradient_accumulation_steps"],
    "optim": "adamw_8bit",
    "max_steps": 4,
    "report_to": "none",
}


def by_sft(model: Any, tokenizer: Any) -> Any:
    return trl.SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"text": [LONG] * 64}),
        args=trl.SFTConfig(max_length=length, dataset_text_field="text", **common),
    )


def by_dpo(model: Any, tokenizer: Any) -> Any:
    pair = {"prompt": "Say a.", "chosen": LONG, "rejected": LONG}
    return trl.DPOTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([pair] * 64),
        args=trl.DPOConfig(max_length=length, **common),
    )


def by_grpo(model: Any, tokenizer: Any) -> Any:
    """With what a pretended card cannot tell: how long rows are, that none is padded, that no
    completion ends before its last token, a reward of each, and that packed rows were found to be
    as good as padded ones, which the first step looks at."""
    made, rows = told["completion"], told["per_device_train_batch_size"]
    counted = {rows, rows * told["gradient_accumulation_steps"]}
    listed, single = torch.Tensor.tolist, torch.Tensor.item

    def tolist(tensor: torch.Tensor) -> Any:
        counts = tensor.is_cuda and tensor.dtype == torch.int64 and tensor.dim() == 1
        if counts and tensor.numel() in counted:
            return [length] * tensor.numel()
        return listed(tensor)

    def item(tensor: torch.Tensor) -> Any:
        found = single(tensor)
        return 0 if tensor.is_cuda and tensor.dtype == torch.int64 else found

    torch.Tensor.tolist, torch.Tensor.item = tolist, item  # type: ignore[method-assign]
    for way in ("grad", "nograd"):
        setattr(model, f"_unsloth_seq_packing_{way}_ok", True)
        for size in ("T", "seg"):
            setattr(model, f"_unsloth_seq_packing_{way}_verified_{size}", GREATEST)

    class Trainer(trl.GRPOTrainer):  # type: ignore[misc]
        def _generate_single_turn(self, prompt_ids: Any, *args: Any, **more: Any) -> Any:
            if told["generates"]:
                left = iter(range(made))
                GenerationMixin._has_unfinished_sequences = (  # type: ignore[method-assign]
                    lambda *_, **__: next(left, None) is not None
                )
                super()._generate_single_turn(prompt_ids, *args, **more)
            each = [[1] * made for _ in prompt_ids]  # vLLM tells log-probabilities too
            return each, None if told["generates"] else [[0.0] * made for _ in prompt_ids]

        def _calculate_rewards(self, inputs: Any, prompts: Any, *_: Any) -> Any:
            return torch.zeros(len(prompts), 1, device=self.accelerator.device)

    return Trainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=len,
        train_dataset=Dataset.from_list([{"prompt": " a" * (length - made)}] * 64),
        args=trl.GRPOConfig(
            num_generations=rows, max_completion_length=made, beta=told["beta"], **common
        ),
    )


model, tokenizer = FastLanguageModel.from_pretrained(
    told["model"],
    max_seq_length=length,
    load_in_4bit=told["load_in_4bit"],
    use_exact_model_name=True,  # and not its mirror in 4 bit
)
model = FastLanguageModel.get_peft_model(
    model,
    r=16,
    lora_alpha=16,
    lora_dropout=told["lora_dropout"],
    target_modules=[*PROJECTIONS, *told.get("whole", ())],
    use_gradient_checkpointing="unsloth",
)
TRAINERS = {"unsloth": by_sft, "unsloth-dpo": by_dpo, "unsloth-grpo": by_grpo}
TRAINERS[told["trainer"]](model, tokenizer).train()
