"""transformers' Trainer, with PEFT's adapters: `TrainingArguments` and `LoraConfig` as they are
made without arguments."""

from lora_profiler.stacks.stack import CHECKPOINT_DTYPE, Options, Packing, Refusal, Stack, by_method

PEFT_LORA: Options = {"rank": 8, "alpha": 8.0, "targets": "default", "adapter_dtype": "float32"}
"""`peft.LoraConfig()`, version 0.21."""

ADAMW_FUSED: Options = {"optimizer": "adamw", "optimizer_impl": "fused"}
ADAMW_FOREACH: Options = {"optimizer": "adamw", "optimizer_impl": "foreach"}
ALIASES: dict[str, dict[str, Options]] = {
    "optimizer": {
        "adamw_torch": ADAMW_FOREACH,
        "adamw_torch_fused": ADAMW_FUSED,
        "adamw_bnb_8bit": {"optimizer": "adamw_8bit"},
        "lion_32bit": {"optimizer": "lion"},
    },
    "attention": {"fa2": {"attention": "flash_attention_2"}, "sdpa": {"attention": "auto"}},
    "dtype": {
        "bf16": {"dtype": "bfloat16"},
        "fp16": {"dtype": "float16"},
        "fp32": {"dtype": "float32"},
    },
    "targets": {"all": {"targets": "all-linear"}},
}
"""Spellings of `TrainingArguments.optim`, of `attn_implementation`, of dtypes, and LLaMA-Factory's
of every linear layer."""
_COMMON: Options = {
    "batch_size": 8,
    "accumulation": 1,
    "dtype": CHECKPOINT_DTYPE,
    "precision": "pure",
    **ADAMW_FUSED,
    "checkpointing": False,
    "loss": "plain",
    "kernels": "transformers",
    "loop_state": "transformers",
}
_HOLDS = (
    "compute_loss keeps no output: the logits die in backward; accelerate's float32 copy of them"
    " is gone before it (transformers 5.24, trainer.py)",
    "labels apart from the input ids, of all micro-batches of a step at once, a running loss, the"
    " norm of gradients; 8-bit optimizers keep states of embeddings in 32 bit (the same; its own"
    " code, rehearsed, asks for as many bytes: benchmarks/results/rehearsed_trainers.md)",
)
_REFUSALS = (
    Refusal("loss", "its loss is made of all logits, or Liger's (use_liger_kernel)", ("chunked",)),
)


def _older(version: str, about: str, optimizer: Options) -> Stack:
    """transformers 4: what its code holds otherwise `lora_profiler/support/generations.py` says."""
    return Stack(
        name="transformers",
        library="transformers",
        version=version,
        call="Trainer",
        about=(about, "bf16=True is --precision amp. The length is the data's."),
        defaults=by_method(
            {
                **_COMMON,
                **optimizer,
                "dtype": "float32",
                "transformers": version,
                "use_reentrant": True,
            },
            adapter=PEFT_LORA,
            base={"double_quant": False, "recipe": "stock"},
        ),
        packing=Packing(one_row=False),
        aliases=ALIASES,
        holds=_HOLDS,
        refusals=_REFUSALS,
    )


VERSIONS = (
    Stack(
        name="transformers",
        library="transformers",
        version="5.24",
        call="Trainer",
        about=(
            "TrainingArguments() and peft.LoraConfig() as they are, on from_pretrained(name):"
            " weights in the checkpoint's dtype, no autocast.",
            "bf16=True is --precision amp. The length is the data's.",
        ),
        defaults=by_method(
            _COMMON, adapter=PEFT_LORA, base={"double_quant": False, "recipe": "stock"}
        ),
        packing=Packing(one_row=False),
        aliases=ALIASES,
        holds=_HOLDS,
        refusals=_REFUSALS,
    ),
    _older(
        "4.57",
        "As version 5, but from_pretrained(name) made float32 weights of any checkpoint, layers are"
        " checkpointed the reentrant way, and each expert of Mixtral is a layer of its own.",
        ADAMW_FUSED,
    ),
    _older(
        "4.48",
        "As version 4.57, but AdamW is torch's foreach, the float32 logits are copied to shift"
        " them, and SDPA gets keys and values repeated to all heads.",
        ADAMW_FOREACH,
    ),
    _older(
        "4.45",
        "As version 4.48, but the head casts the logits to float32 itself, and FlashAttention 2 of"
        " Mistral, Qwen2 and Phi-3 gets repeated heads too.",
        ADAMW_FOREACH,
    ),
)
