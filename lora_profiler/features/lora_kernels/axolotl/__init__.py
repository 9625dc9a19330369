"""axolotl's LoRA kernels (067b021, `kernels/lora.py`)."""

from lora_profiler.question.lora_kernel_set import TYPES, LoraKernelSet

_WORDS = """
bart bert bloom cohere deepseek_v2 deepseek_v3 deepseek_v32 falcon falcon_h1 glm46v glm4_moe glm4v
glm4v_moe glm_moe_dsa gpt2 gpt_bigcode gpt_neox gptj idefics3 internvl lfm2 llama4 llava minimax_m2
mistral4 mllama mpt olmo olmo2 olmo3 olmoe opt phi phi3 qwen2_5_vl qwen2_vl qwen3_vl_moe roberta
smolvlm stablelm t5
"""
_STOPS = frozenset(_WORDS.split())
"""Types of which it finds no attention to put its LoRA kernels into and raises an error: what
patch_self_attn_lora (`monkeypatch/lora_kernels.py`) of 067b021 and 0.19 said, run over transformers
5.16; of GLM-V and InternVL by its search for their classes alone."""
FEATURE = LoraKernelSet(
    title="axolotl's LoRA kernels",
    types=TYPES,
    stops_at=_STOPS,
    stopped="axolotl stops at its LoRA kernels of this type: it runs with each of them off",
    stores_scales=True,
)
