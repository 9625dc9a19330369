"""Liger-Kernel's RMSNorm, SwiGLU and rotary embedding, in place of transformers' own."""

from typing import Any

from lora_profiler.question.kernel_set import KernelSet

_PATCHED = """
cohere_compass deepseek_v2 deepseek_v4 exaone4 falcon_h1 gemma gemma2 gemma3 gemma3_text gemma4
gemma4_text gemma4_unified gemma4_unified_text glm4 glm4v glm4v_moe gpt_oss granite granitemoe
hunyuan_v1_dense hunyuan_v1_moe internvl jamba llama llama4 llama4_text llava ministral ministral3
mistral mistral3 mixtral mllama mllama_text_model muse_glimmer nemotron olmo2 olmo3 paligemma phi3
pixtral qwen2 qwen2_5_vl qwen2_5_vl_text qwen2_vl qwen2_vl_text qwen3 qwen3_5 qwen3_5_moe
qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen3_vl qwen3_vl_moe qwen3_vl_moe_text
qwen3_vl_text smollm3 smolvlm
"""
_BY_AXOLOTL = frozenset(_PATCHED.split())
"""Types into which axolotl's plugin puts any of Liger's kernels but a loss: those of Liger-Kernel
0.8.1 (`transformers/monkey_patch.py`, MODEL_TYPE_TO_APPLY_LIGER_FN) and those that axolotl 067b021
or 0.19 has branches for (`integrations/liger/plugin.py`); it warns that others stay as they are."""
FEATURE = KernelSet(
    title="Liger's kernels",
    assumption=(
        "Liger-Kernel's RMSNorm, SwiGLU and rotary embedding keep and write over what its source"
        " says; partial sums of the norms' gradients, one a multiprocessor, are left out."
    ),
    types=("gemma3", "llama", "mistral", "qwen2", "qwen3", "smollm3"),
    takes_other_bases=True,
    takes_fake_quantized=True,
    put_in_by={"axolotl": _BY_AXOLOTL},
    argument="use_liger_kernel",
    package="liger_kernel",
)


def refusals(workload: Any) -> dict[str, object]:
    model = workload.model
    act = model.config.get("hidden_act")
    # Gemma's GeGLU is by tanh, whatever is asked
    is_gated = model.model_type.startswith("gemma") or act in ("silu", "swish")
    return {
        f"Liger's MLP is SwiGLU's, and {model.id} has {act}; leave --kernels out.": (
            model.model_type in FEATURE.types and not is_gated
        )
    }
