"""LoRA with transformers' Trainer: python trainer.py --model Qwen/Qwen2.5-0.5B"""

import argparse

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments


class RandomTokens(Dataset):
    """Sequences of one length, as a packed data set has them."""

    def __init__(self, vocab_size, seq_len, count=1000):
        self.tokens = torch.randint(0, vocab_size, (count, seq_len))

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, i):
        return {"input_ids": self.tokens[i], "labels": self.tokens[i]}


parser = argparse.ArgumentParser()
parser.add_argument("--model", default="Qwen/Qwen2.5-0.5B")
parser.add_argument("--seq-len", type=int, default=1024)
parser.add_argument("--batch-size", type=int, default=2)
parser.add_argument("--eval-batch-size", type=int, help="evaluate after every step")
parser.add_argument("--output", default="trainer-output")
args = parser.parse_args()

model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16)
model = get_peft_model(
    model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
)
model.enable_input_require_grads()
arguments = TrainingArguments(
    output_dir=args.output,
    per_device_train_batch_size=args.batch_size,
    gradient_accumulation_steps=2,
    gradient_checkpointing=True,
    bf16=True,
    max_steps=100,
    logging_steps=1,
    save_strategy="no",
    report_to="none",
    per_device_eval_batch_size=args.eval_batch_size or 8,
    eval_strategy="steps" if args.eval_batch_size else "no",
    eval_steps=1,
)
tokens = RandomTokens(model.config.vocab_size, args.seq_len)
few = torch.utils.data.Subset(tokens, range(2 * (args.eval_batch_size or 1)))
Trainer(model=model, args=arguments, train_dataset=tokens, eval_dataset=few).train()
