"""Unsloth: its arguments' defaults and its notebooks, as near as options come."""

from lora_profiler.stacks.stack import Gap, Packing, Refusal, Stack, by_method
from lora_profiler.stacks.transformers_trainer import ALIASES

VERSIONS = (
    Stack(
        name="unsloth",
        library="Unsloth",
        version="2026.8",
        call="notebooks",
        about=(
            "get_peft_model's defaults (rank 16, alpha 16, the seven projections), and what most of"
            " its 420 notebooks set: batch 2, accumulation 4, 2,048 tokens, adamw_8bit,"
            ' use_gradient_checkpointing="unsloth".',
        ),
        defaults=by_method(
            {
                "batch_size": 2,
                "seq_len": 2048,
                "accumulation": 4,
                "dtype": "bfloat16",
                "precision": "amp",
                "optimizer": "adamw_8bit",
                "checkpointing": True,
                "use_reentrant": True,
                "offload_checkpoints": True,
                "loss": "fused",
                "kernels": "liger",
                "attention": "efficient",  # xformers', of heads repeated for backward
                "loop_state": "trl",
            },
            adapter={
                "rank": 16,
                "alpha": 16.0,
                "dropout": 0.0,
                "targets": "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
                "adapter_dtype": "float32",
            },
            base={"double_quant": True, "recipe": "stock"},
        ),
        packing=Packing(one_row=True, attention="flash_attention_2"),
        aliases=ALIASES,
        holds=(
            "layers are checkpointed the reentrant way, and their inputs but the last one's wait in"
            " the host's memory; two buffers take them back in turn (unsloth-zoo ce232d6,"
            " gradient_checkpointing.py)",
        ),
        gaps=(
            Gap(
                "its kernels and its LoRA layers are its own: priced as Liger's kernels and PEFT's"
                " layers, the nearest that have rules"
            ),
            Gap(
                "its loss makes up to 2 GiB of float32 logits at once (unsloth-zoo 2026.10.9,"
                " fused_losses/fused_linear.py), before half of the card's free memory, at most"
                " 4 GiB (ce232d6, cross_entropy_loss.py): priced as Liger's, in smaller chunks"
            ),
        ),
        refusals=(Refusal("recipe", "it prepares the 4-bit base itself", ("kbit", "trl")),),
    ),
)
