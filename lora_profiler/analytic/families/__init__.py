"""The families that the ledger knows: each one's forward pass as a short program, read next to transformers' own code."""

from lora_profiler.analytic.families import gemma, gpt2, gpt_neox, llama, moe, opt, phi3
from lora_profiler.analytic.families.family import Family

FAMILIES: dict[str, Family] = {
    "llama": llama.LLAMA,
    "mistral": llama.MISTRAL,
    "qwen2": llama.QWEN2,
    "qwen3": llama.QWEN3,
    "olmo2": llama.OLMO2,
    "phi3": phi3.PHI3,
    "gemma": gemma.GEMMA,
    "gemma2": gemma.GEMMA2,
    "gemma3_text": gemma.GEMMA3,
    "gpt2": gpt2.GPT2,
    "gpt_neox": gpt_neox.GPT_NEOX,
    "opt": opt.OPT,
    "mixtral": moe.MIXTRAL,
    "qwen3_moe": moe.QWEN3_MOE,
}

__all__ = ["FAMILIES", "Family"]
