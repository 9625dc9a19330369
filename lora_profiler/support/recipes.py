"""What recipes do to a 4-bit base beyond PEFT's own preparation. No torch."""

BACK_IN_16_BIT = ("lm_head", "embed_tokens", "wte", "wpe")
"""Modules that the recipe "kbit-norms" turns back to bfloat16 (TRL 0.14 `trainer/utils.py`,
peft_module_casting_to_bf16)."""
