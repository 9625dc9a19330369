"""TRL's DPOTrainer: `DPOConfig` and PEFT's `LoraConfig` as they are made without arguments."""

from lora_profiler.stacks.stack import Refusal, Stack, by_method
from lora_profiler.stacks.transformers_trainer import ALIASES, PEFT_LORA
from lora_profiler.stacks.trl_sft import COMMON, HOLDS, QUANTIZED

VERSIONS = (
    Stack(
        name="trl-dpo",
        library="TRL",
        version="1.16",
        call="DPOTrainer",
        about=(
            "DPOConfig() and peft.LoraConfig() as they are, on a model's name: bfloat16 autocast"
            " over float32 weights, checkpointing, max_length 1,024. A batch counts"
            " pairs: the model sees twice as many rows.",
        ),
        defaults=by_method(
            {**COMMON, "loop_state": "trl-dpo"},
            adapter={**PEFT_LORA, "dropout": 0.0},
            base=QUANTIZED,
        ),
        packing=None,
        aliases=ALIASES,
        rows=2,
        holds=(
            *HOLDS,
            "the reference is the model with its adapters switched off, in a pass without"
            " gradients; without adapters a second, frozen copy of the model (TRL 1.16,"
            " dpo_trainer.py; measured)",
        ),
        refusals=(Refusal("packed", "pairs are not packed; padding_free has no option here"),),
    ),
)
