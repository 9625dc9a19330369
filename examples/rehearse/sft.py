"""LoRA with TRL's SFTTrainer and its defaults: python sft.py --model meta-llama/Llama-3.2-1B"""

import argparse

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="meta-llama/Llama-3.2-1B")
parser.add_argument("--max-length", type=int, default=1024)
parser.add_argument("--batch-size", type=int, default=4)
parser.add_argument("--output", default="sft-output")
args = parser.parse_args()

texts = ["The quick brown fox jumps over the lazy dog. " * 200] * 200
trainer = SFTTrainer(
    model=args.model,
    args=SFTConfig(
        output_dir=args.output,
        max_length=args.max_length,
        per_device_train_batch_size=args.batch_size,
        max_steps=100,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    ),
    train_dataset=Dataset.from_dict({"text": texts}),
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.train()
