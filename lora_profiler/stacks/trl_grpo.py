"""TRL's GRPOTrainer: `GRPOConfig` and PEFT's `LoraConfig` as they are made without arguments."""

from lora_profiler.stacks.stack import Gap, Options, Refusal, Stack, by_method
from lora_profiler.stacks.transformers_trainer import ALIASES, PEFT_LORA
from lora_profiler.stacks.trl_sft import COMMON, HOLDS, QUANTIZED

_COMMON: Options = {name: value for name, value in COMMON.items() if name != "seq_len"}

VERSIONS = (
    Stack(
        name="trl-grpo",
        library="TRL",
        version="1.16",
        call="GRPOTrainer",
        about=(
            "GRPOConfig() and peft.LoraConfig() as they are: 8 generations of up to 512 tokens a"
            " prompt, bfloat16 autocast over float32 weights, checkpointing, beta 0"
            " without a reference model. --seq-len is prompt and completion together; a batch"
            " counts completions.",
        ),
        defaults=by_method(_COMMON, adapter=PEFT_LORA, base=QUANTIZED),
        packing=None,
        aliases=ALIASES,
        holds=HOLDS,
        gaps=(
            Gap(
                "generation, unless --generation-batch-size says how many completions are made at"
                " once; with vLLM the share of the card that it takes, vllm_gpu_memory_utilization"
                " (0.3 by default), is gone from all moments"
            ),
        ),
        refusals=(Refusal("packed", "completions are padded, not packed"),),
    ),
)
