"""Cross-entropy of a Triton kernel that writes the gradient over the logits: Liger-Kernel's
cross_entropy (ead96b6), and Unsloth's of 2024 (015bdef)."""

from lora_profiler.question.loss import LossFacts, Spelling

FEATURE = LossFacts(
    title="Liger's cross_entropy: the gradient is written over the logits",
    assumption=(
        "The triton loss: a Triton kernel writes the gradient over the logits. 16-bit logits are"
        " copied to float32: Liger's cross_entropy under transformers 5; Unsloth's under 4.48 and"
        " 4.45, over a shifted copy."
    ),
    kept="the logits in float32, 4 B x tokens x V; final norm, rotary tables",
    logits="all logits or their gradient, and in float32",
    takes_flat_units=True,
    scales_in=("unsloth",),  # unsloth 2024.8, `kernels/cross_entropy_loss.py`, DO_SOFTCAPPING
    spelled={
        "axolotl": Spelling(
            switches=("liger_cross_entropy",),
            written={
                "plugins": ("axolotl.integrations.liger.LigerPlugin",),
                "liger_fused_linear_cross_entropy": False,
                "liger_cross_entropy": True,
            },
        )
    },
)
