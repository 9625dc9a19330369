"""TRL's SFTTrainer: `SFTConfig` and PEFT's `LoraConfig` as they are made without arguments."""

from lora_profiler.stacks.stack import Options, Packing, Stack, by_method
from lora_profiler.stacks.transformers_trainer import ADAMW_FOREACH, ADAMW_FUSED, ALIASES, PEFT_LORA

COMMON: Options = {
    "batch_size": 8,
    "seq_len": 1024,
    "accumulation": 1,
    "dtype": "float32",
    "precision": "amp",
    **ADAMW_FUSED,
    "checkpointing": True,
    "loss": "trl",
    "kernels": "transformers",
    "loop_state": "trl",
}
"""What SFTConfig and DPOConfig agree in. Of a model's name weights are loaded in float32 (TRL 1.16,
`trainer/utils.py`, create_model_from_path)."""
QUANTIZED: Options = {"double_quant": False, "recipe": "trl", "adapter_dtype": "bfloat16"}
"""bitsandbytes' own default of double quantisation, and bfloat16 adapters (sft_trainer.py)."""
HOLDS = (
    "what transformers' Trainer keeps, and an attention mask (rehearsed:"
    " benchmarks/results/rehearsed_trainers.md)",
    "no logits: loss, entropy and accuracy come from one pass over tiles of min(tokens, 4,096) x"
    " 32,768 logits, with float32 gradients of the hidden states and of a trained head (TRL 1.16;"
    " --loss trl)",
    "on a 4-bit base adapters are made bfloat16 (TRL 1.16, sft_trainer.py)",
)

VERSIONS = (
    Stack(
        name="trl-sft",
        library="TRL",
        version="1.16",
        call="SFTTrainer",
        about=(
            "SFTConfig() and peft.LoraConfig() as they are, on a model's name: bfloat16 autocast"
            " over float32 weights, checkpointing, max_length 1,024. A model that the script loads"
            " itself has its own format: --dtype bfloat16.",
            "`trl sft` takes other ones: --rank 16 --alpha 32 --dropout 0.05.",
        ),
        defaults=by_method(COMMON, adapter=PEFT_LORA, base=QUANTIZED),
        packing=Packing(one_row=True),
        aliases=ALIASES,
        holds=HOLDS,
    ),
    Stack(
        name="trl-sft",
        library="TRL",
        version="0.14",
        call="SFTTrainer",
        about=(
            "SFTConfig() and peft.LoraConfig() as they are, on a model's name, with transformers"
            " 4.48: float32 weights, max_seq_length 1,024, no checkpointing, all logits.",
            "bf16=True is --precision amp, which on a 4-bit base turns embeddings and head back to"
            " bfloat16 (--recipe kbit-norms).",
        ),
        defaults=by_method(
            {
                "batch_size": 8,
                "seq_len": 1024,
                "accumulation": 1,
                "dtype": "float32",
                "precision": "pure",
                **ADAMW_FOREACH,
                "checkpointing": False,
                "use_reentrant": True,
                "loss": "plain",
                "kernels": "transformers",
                "transformers": "4.48",
            },
            adapter=PEFT_LORA,
            base={"double_quant": False, "recipe": "kbit"},
        ),
        packing=Packing(one_row=False),
        aliases=ALIASES,
        holds=(
            "a 4-bit base is prepared by PEFT's prepare_model_for_kbit_training, and with bf16 cast"
            " back but for the norms (TRL 0.14, sft_trainer.py; utils.py,"
            " peft_module_casting_to_bf16)",
        ),
    ),
)
