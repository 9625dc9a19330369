"""DPO with LoRA by TRL's DPOTrainer and its defaults: python dpo.py --model
meta-llama/Llama-3.2-1B"""

import argparse

from datasets import Dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="meta-llama/Llama-3.2-1B")
parser.add_argument("--max-length", type=int, default=1024)
parser.add_argument("--output", default="dpo-output")
args = parser.parse_args()

pair = {
    "prompt": "What does the fox do? " * 20,
    "chosen": "It jumps over the lazy dog. " * 200,
    "rejected": "It sleeps. " * 200,
}
trainer = DPOTrainer(
    model=args.model,
    args=DPOConfig(
        output_dir=args.output,
        max_length=args.max_length,
        max_steps=100,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    ),
    train_dataset=Dataset.from_list([pair] * 200),
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.train()
