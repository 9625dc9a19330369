"""What recipes do to a 4-bit base beyond PEFT's own preparation. No torch."""

BACK_IN_16_BIT = ("lm_head", "embed_tokens", "wte", "wpe")
"""Modules that the recipe "kbit-norms" turns back to bfloat16 (TRL 0.14 `trainer/utils.py`,
peft_module_casting_to_bf16)."""


_WIDE_ENDS = ("embed_tokens", "lm_head", "embed_in", "embed_out", "word_embeddings")


def is_wide_end(name: str) -> bool:
    """Whether a module, by its name in the model or in its layer, is one that axolotl turns into
    float32 before a full fine-tuning (067b021, `loaders/model.py`,
    _convert_embedding_modules_dtype; `loaders/utils.py`, get_linear_embedding_layers)."""
    return "norm" in name or name.endswith((".gate", *_WIDE_ENDS))
