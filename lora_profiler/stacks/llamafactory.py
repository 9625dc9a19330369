"""LLaMA-Factory: its arguments' defaults, with bf16 as nine in ten of its examples have it."""

from lora_profiler.stacks.stack import Gap, Packing, Stack, by_method
from lora_profiler.stacks.transformers_trainer import ADAMW_FUSED, ALIASES

VERSIONS = (
    Stack(
        name="llamafactory",
        library="LLaMA-Factory",
        version="0.9.6",
        call="trainer",
        about=(
            "Its arguments' defaults (batch 8, cutoff_len 2,048, checkpointing, lora_rank 8,"
            " lora_target all), and bf16: true, as 90 % of its examples say; full fine-tuning then"
            " trains float32 weights, unless pure_bf16 says otherwise (--dtype bfloat16"
            " --precision pure).",
            "cutoff_len is the most: batches are padded to their longest.",
        ),
        defaults=by_method(
            {
                "batch_size": 8,
                "seq_len": 2048,
                "accumulation": 1,
                "dtype": "bfloat16",
                "precision": "amp",
                **ADAMW_FUSED,
                "checkpointing": True,
                "use_reentrant": True,
                "loss": "plain",
                "kernels": "transformers",
                "loop_state": "llamafactory",
            },
            full={"dtype": "float32"},
            adapter={
                "rank": 8,
                "alpha": 16.0,
                "dropout": 0.0,
                "targets": "all-linear",
                "adapter_dtype": "float32",
            },
            base={"double_quant": True, "recipe": "stock"},
        ),
        packing=Packing(one_row=False),
        aliases={**ALIASES, "targets": {"all": {"targets": "all-linear"}}},
        holds=(
            "layers are checkpointed the reentrant way unless use_reentrant_gc is false"
            " (LLaMA-Factory ff6d4d1, model/model_utils/checkpointing.py)",
            "every trained weight is cast to float32 under bf16 (LLaMA-Factory ff6d4d1,"
            " model/adapter.py); not under ZeRO-3",
            "packed rows stay rows of the batch, with a block mask under neat_packing"
            " (LLaMA-Factory ff6d4d1, data/collator.py)",
        ),
        gaps=(
            Gap(
                "its loop keeps 8 bytes of single values more than TRL's: read off rehearsals of"
                " its own command (0.9.6), not found in its source"
            ),
        ),
    ),
)
