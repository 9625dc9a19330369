"""What most of Unsloth's notebooks run, with the numbers of a cell, in JSON."""

import json
import sys

from unsloth import FastLanguageModel  # type: ignore[import-not-found]  # isort: skip  (first, it asks)
from datasets import Dataset  # type: ignore[import-untyped]
from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

told = json.loads(sys.argv[1])
model, tokenizer = FastLanguageModel.from_pretrained(
    told["model"],
    max_seq_length=told["length"],
    load_in_4bit=told["load_in_4bit"],
    use_exact_model_name=True,  # and not its mirror in 4 bit
)
model = FastLanguageModel.get_peft_model(
    model,
    r=16,
    lora_alpha=16,
    lora_dropout=told["lora_dropout"],
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    use_gradient_checkpointing="unsloth",
)
SFTTrainer(
    model=model,
    processing_class=tokenizer,
    train_dataset=Dataset.from_dict({"text": [" a" * 3000] * 64}),
    args=SFTConfig(
        output_dir=told["folder"],
        per_device_train_batch_size=told["per_device_train_batch_size"],
        gradient_accumulation_steps=told["gradient_accumulation_steps"],
        max_length=told["length"],
        dataset_text_field="text",
        optim="adamw_8bit",
        max_steps=4,
        report_to="none",
    ),
).train()
