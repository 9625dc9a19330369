"""LoRA in a loop of one's own: python plain_loop.py --model meta-llama/Llama-3.2-1B"""

import argparse

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="meta-llama/Llama-3.2-1B")
parser.add_argument("--batch-size", type=int, default=1)
parser.add_argument("--seq-len", type=int, default=1024)
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--checkpointing", action="store_true")
parser.add_argument("--hold-outputs", action="store_true")
args = parser.parse_args()

model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16, device_map="cuda")
lora = LoraConfig(
    r=args.rank, lora_alpha=2 * args.rank, target_modules="all-linear", task_type="CAUSAL_LM"
)
model = get_peft_model(model, lora)
if args.checkpointing:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
model.train()
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
for step in range(100):
    tokens = torch.randint(0, model.config.vocab_size, (args.batch_size, args.seq_len)).to("cuda")
    out = model(input_ids=tokens, labels=tokens, use_cache=False)
    loss = out.loss
    if not args.hold_outputs:
        del out
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step}: loss {loss.item():.3f}", flush=True)
