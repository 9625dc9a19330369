"""Kernels in place of transformers' own, Liger-Kernel's and fms-acceleration's: which models they
are known of. No torch."""

from lora_profiler.errors import refuse
from lora_profiler.support.model_types import FOAK_TYPES, LIGER_TYPES, type_of
from lora_profiler.workload import Workload

ASSUMPTION = (
    "Liger-Kernel's RMSNorm, SwiGLU and rotary embedding keep and write over what its source says;"
    " partial sums of the norms' gradients, one a multiprocessor, are left out."
)

_PATCHED = """
cohere_compass deepseek_v2 deepseek_v4 exaone4 falcon_h1 gemma gemma2 gemma3 gemma3_text gemma4
gemma4_text gemma4_unified gemma4_unified_text glm4 glm4v glm4v_moe gpt_oss granite granitemoe
hunyuan_v1_dense hunyuan_v1_moe internvl jamba llama llama4 llama4_text llava ministral ministral3
mistral mistral3 mixtral mllama mllama_text_model muse_glimmer nemotron olmo2 olmo3 paligemma phi3
pixtral qwen2 qwen2_5_vl qwen2_5_vl_text qwen2_vl qwen2_vl_text qwen3 qwen3_5 qwen3_5_moe
qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen3_vl qwen3_vl_moe qwen3_vl_moe_text
qwen3_vl_text smollm3 smolvlm
"""
PATCHED_BY_AXOLOTL = frozenset(_PATCHED.split())
"""Types into which axolotl's plugin puts any of Liger's kernels but a loss: those of Liger-Kernel
0.8.1 (`transformers/monkey_patch.py`, MODEL_TYPE_TO_APPLY_LIGER_FN) and those that axolotl 067b021
or 0.19 has branches for (`integrations/liger/plugin.py`); it warns that others stay as they are."""


def check_kernels(workload: Workload) -> None:
    """Raises UsageError where the kernels do not take the model, or nothing here says what they
    keep of it."""
    model, setup, kind = workload.model, workload.setup, type_of(workload.model)
    if setup.is_litgpt_2023:
        _check_litgpt(workload)
    is_foak, is_liger = setup.kernels == "foak", setup.kernels == "liger"
    act = model.config.get("hidden_act")
    # Gemma's GeGLU is by tanh, whatever is asked
    is_gated = model.model_type.startswith("gemma") or act in ("silu", "swish")
    refuse(
        {
            f"fms-acceleration's kernels are known of {', '.join(FOAK_TYPES)}, not of"
            f" {model.model_type}; leave --kernels out.": is_foak and not kind.foak,
            f"Liger's kernels are known of {', '.join(LIGER_TYPES)}, not of {model.model_type};"
            " leave --kernels out.": is_liger and not kind.liger,
            f"Liger's MLP is SwiGLU's, and {model.id} has {act}; leave --kernels out.": (
                is_liger and not is_gated
            ),
        }
    )


def _check_litgpt(workload: Workload) -> None:
    """Raises UsageError for what LitGPT's tables of 2023 did not run."""
    setup, lora, kind = workload.setup, workload.setup.lora, workload.model.model_type
    refuse(
        {
            f"LitGPT's model of 2023 is known as Llama alone, not as {kind}; leave --kernels"
            " out.": kind != "llama",
            "LitGPT's model of 2023 is known with adapters on q_proj and v_proj alone; take"
            " --targets q_proj,v_proj.": (
                lora is not None and set(lora.target_modules or ()) != {"q_proj", "v_proj"}
            ),
            "LitGPT's model of 2023 is known of one process without checkpointing and autocast;"
            " leave them out.": setup.checkpointing or setup.is_shared or setup.autocast_dtype,
        }
    )
