"""TRL's GRPOTrainer: `GRPOConfig` and PEFT's `LoraConfig` as they are made without arguments."""

from lora_profiler.stacks.stack import Options, Refusal, Stack, by_method
from lora_profiler.stacks.transformers_trainer import ALIASES, PEFT_LORA
from lora_profiler.stacks.trl_sft import COMMON, HOLDS, QUANTIZED

_COMMON: Options = {
    **{name: value for name, value in COMMON.items() if name != "seq_len"},
    "max_completion_length": 512,
    "loop_state": "trl-grpo",
}

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
            "--beta 0.04 adds the reference; use_vllm=True is --use-vllm, with --vllm-share for"
            " what it takes of the card.",
        ),
        defaults=by_method(_COMMON, adapter=PEFT_LORA, base=QUANTIZED),
        packing=None,
        aliases=ALIASES,
        holds=(
            *HOLDS,
            "all completions of an optimizer step, batch x accumulation, are made at once by"
            " transformers' generate, and stay as ids and masks until the next ones (TRL 1.16,"
            " grpo_config.py; grpo_trainer.py, _prepare_inputs)",
            "the loss is made of the completions' tokens alone (TRL 1.16, grpo_trainer.py,"
            " _get_per_token_logps_and_entropies)",
            "old and reference log-probabilities come from passes without gradients over a"
            " micro-batch at a time, each less than its training pass; the reference is the model"
            " with its adapters switched off, or a frozen copy (TRL 1.16, grpo_trainer.py)",
        ),
        refusals=(Refusal("packed", "completions are padded, not packed"),),
    ),
)
