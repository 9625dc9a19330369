"""What PyTorch reserves over samples of many lengths, beside what tensors need.

    lora-profile rehearse --gpu a100_sxm_80gb --steps 4 -- \\
        python benchmarks/rehearsed/many_lengths.py CAP fixed|random

A loop as ms-swift's was in 2023: Yi-6B's shapes in bfloat16, LoRA, batch 1, reentrant checkpoints,
float32 logits and a shifted copy of them. Every sample has CAP tokens, or lengths are log-normal up
to it. Prints both peaks as they grow. Under torch 2.15 tensors needed 19.3 GiB of 21.6 reserved
where every sample had 8,192 tokens; over many lengths up to there 17.3 of 26.8, up to 4,096 15.3 of
25.4, up to 2,048 13.4 of 15.4, up to 512 11.9 of 12.0. Blocks of one length do not serve another;
on an RTX 4090, whose 23.5 GiB are less, the same run reserved 22.4, since PyTorch gives unused
blocks back before it runs out.
"""

import random
import sys
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

BATCHES, ACCUMULATION, VOCABULARY = 64, 16, 64_000
_TYPICAL, _SPREAD = 7.0, 1.0
"""Of the logarithm of a sample's tokens."""


def adapted_model() -> Any:
    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=4,
        vocab_size=VOCABULARY,
        max_position_embeddings=8192,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    targets = ["q_proj", "k_proj", "v_proj"]
    return get_peft_model(model, LoraConfig(r=8, lora_dropout=0.05, target_modules=targets)).train()


def loss_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """As transformers made it before version 4.45."""
    with torch.autocast("cuda", torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits.float()
        shifted = logits[..., :-1, :].contiguous().view(-1, VOCABULARY)
        return torch.nn.functional.cross_entropy(shifted, ids[..., 1:].contiguous().view(-1))


def main(cap: int, lengths: str) -> None:
    model = adapted_model()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    draw = random.Random(1)
    for batch in range(BATCHES):
        drawn = round(draw.lognormvariate(_TYPICAL, _SPREAD))
        tokens = cap if lengths == "fixed" else min(cap, drawn)
        ids = torch.randint(0, VOCABULARY, (1, tokens), device="cuda")
        (loss_of(model, ids) / ACCUMULATION).backward()
        if batch % ACCUMULATION == ACCUMULATION - 1:
            optimizer.step()
            optimizer.zero_grad()
        peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        print(batch, tokens, *(f"{size / 2**30:.2f} GiB" for size in peaks), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
