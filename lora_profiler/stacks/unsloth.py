"""Unsloth: its arguments' defaults and its notebooks, as near as options come."""

from lora_profiler.stacks.stack import Gap, Packing, Refusal, Stack, by_method
from lora_profiler.stacks.transformers_trainer import ALIASES

VERSIONS = (
    Stack(
        name="unsloth",
        library="Unsloth",
        version="2026.10",
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
                "loss": "unsloth",
                "loop_state": "unsloth",
            },
            full={"kernels": "transformers"},
            adapter={
                "kernels": "unsloth",
                "lora_kernels": "unsloth",
                "rank": 16,
                "alpha": 16.0,
                "dropout": 0.0,
                "targets": "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
                "adapter_dtype": "float32",
            },
            base={"double_quant": True, "recipe": "stock"},
        ),
        packing=Packing(one_row=True),
        aliases=ALIASES,
        holds=(
            "layers are checkpointed the reentrant way, and their inputs but the last one's wait in"
            " the host's memory; two buffers take them back in turn (unsloth-zoo 2026.10.9,"
            " gradient_checkpointing.py)",
            "rows are laid end to end, with positions and the length of each (Unsloth 2026.10.9,"
            " trainer.py, padding_free)",
            "q, k and v, o, and the MLP run as one function each with their adapters; 4-bit weights"
            " are unpacked into a buffer that stays (Unsloth 2026.10.9, kernels/fast_lora.py,"
            " kernels/utils.py)",
            "cosines and sines of all positions of the model stay (Unsloth 2026.10.9,"
            " models/llama.py, LlamaRotaryEmbedding)",
            "float32 logits of some labelled tokens at a time (unsloth-zoo 2026.10.9,"
            " fused_losses/fused_linear.py)",
        ),
        gaps=(
            Gap(
                "full fine-tuning runs code that it writes after transformers' and compiles: priced"
                " as transformers' own",
                ("full",),
            ),
        ),
        refusals=(Refusal("recipe", "it prepares the 4-bit base itself", ("kbit", "trl")),),
    ),
)
