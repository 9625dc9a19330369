"""Liger-Kernel's RMSNorm, SwiGLU and rotary embedding, in place of transformers' own."""

from typing import Any

from lora_profiler.question.kernel_set import KernelSet

FEATURE = KernelSet(
    title="Liger's kernels",
    assumption=(
        "Liger-Kernel's RMSNorm, SwiGLU and rotary embedding keep and write over what its source"
        " says; partial sums of the norms' gradients, one a multiprocessor, are left out."
    ),
    types=("gemma3", "llama", "mistral", "qwen2", "qwen3", "smollm3"),
    takes_other_bases=True,
    takes_fake_quantized=True,
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
