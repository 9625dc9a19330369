"""Loops over transformers' models: the step that the rules are written for and the one that most
people write themselves; and transformers' Trainer with PEFT's adapters, `TrainingArguments` and
`LoraConfig` as they are made without arguments."""

from dataclasses import replace

from lora_profiler.facts.stacks.stack import (
    CHECKPOINT_DTYPE,
    GUIDE,
    SHARED_LEAVES,
    Options,
    Packing,
    Refusal,
    Stack,
    Variant,
    as_guided,
    by_method,
)
from lora_profiler.question.workload import FULLY_SHARDED

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
LIGER = Variant("Liger's kernels", {"kernels": "liger", "loss": "fused"})
WIDE_SHARDS = Variant(
    "mixed precision under FSDP", {"dtype": "float32", "precision": "amp"}, ("full",), FULLY_SHARDED
)
"""accelerate casts every trained weight to float32 before FSDP shards it (accelerate 1.15,
`accelerator.py`, `utils/fsdp_utils.py`)."""
OF_ADAPTERS = ("targets", "dropout")
_LEAVES = (*SHARED_LEAVES, *OF_ADAPTERS, "dtype", "precision", "recipe", "double_quant")
_GUIDE = by_method(
    {"dtype": "bfloat16", "precision": "amp"},
    adapter={"checkpointing": True},
    base={"double_quant": True, "recipe": "kbit"},
)
"""PEFT's guides: bf16=True, and `prepare_model_for_kbit_training`, which checkpoints layers unless
it is kept from it (peft 5d602fdb, src/peft/utils/other.py; docs/source/developer_guides/
quantization.md)."""
_HOLDS = (
    "compute_loss keeps no output: the logits die in backward; accelerate's float32 copy of them"
    " is gone before it (transformers 5.24, trainer.py)",
    "labels and an attention mask of all micro-batches (DataCollatorForLanguageModeling); a"
    " running loss and the norm of gradients; 8-bit optimizers keep states of embeddings in"
    " 32 bit; equal to its own code in rehearsals (benchmarks/results/rehearsed_trainers.md)",
)
_REFUSALS = (
    Refusal("loss", "its loss is made of all logits, or Liger's (use_liger_kernel)", ("chunked",)),
)


def _older(version: str, about: str, optimizer: Options) -> Stack:
    """transformers 4: what its code holds otherwise `lora_profiler/question/support/generations.py`
    says."""
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
        leaves=_LEAVES,
        variants=(LIGER, WIDE_SHARDS),
        guide=_GUIDE,
        trains_encoders=True,
    )


_TRAINER = (
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
        leaves=_LEAVES,
        variants=(LIGER, WIDE_SHARDS),
        guide=_GUIDE,
        trains_encoders=True,
    ),
    _older(
        "4.57",
        "As version 5, but from_pretrained(name) makes float32 weights of any checkpoint."
        " Checkpointing is reentrant, and each expert of Mixtral is a separate layer.",
        ADAMW_FUSED,
    ),
    _older(
        "4.48",
        "As version 4.57, but with foreach AdamW and a shifted copy of the float32 logits. Keys and"
        " values are repeated for SDPA.",
        ADAMW_FOREACH,
    ),
    _older(
        "4.45",
        "As version 4.48, but the head casts the logits to float32. FlashAttention 2 of Mistral,"
        " Qwen2 and Phi-3 gets repeated heads too.",
        ADAMW_FOREACH,
    ),
)
_OWN_LOOPS = (
    Stack(
        name="bare",
        library="",
        version="",
        call="a plain PyTorch loop",
        about=(
            "The options' own defaults: loss.backward() and optimizer.step() with nothing of the"
            " model's output kept.",
        ),
        defaults=by_method({}),
        packing=Packing(one_row=False),
        aliases=ALIASES,
        holds=("no output: the logits die in backward",),
        leaves=None,
        trains_encoders=True,
    ),
    Stack(
        name="loop",
        library="",
        version="",
        call="a loop that holds its output",
        about=("As bare, in a loop that writes out = model(...) and keeps out through the step.",),
        defaults=by_method({"hold_outputs": True}),
        packing=Packing(one_row=False),
        aliases=ALIASES,
        holds=(
            "the logits, through backward and the optimizer step, until the next forward pass has"
            " returned",
        ),
        leaves=None,
        guide=by_method(
            {}, adapter={"checkpointing": True}, base={"double_quant": True, "recipe": "kbit"}
        ),
        trains_encoders=True,
    ),
)
_GUIDED = replace(
    as_guided(_TRAINER[0]),
    name=GUIDE,
    call="Trainer as guides pass it",
    about=(
        "As in PEFT's and TRL's guides: bf16=True over bfloat16 weights (float16 on GPUs without"
        " it), all linear layers. Adapters use gradient checkpointing; QLoRA also"
        " prepare_model_for_kbit_training and double quantisation.",
        "Encoders as in transformers' guides: weights as they are published, no autocast.",
    ),
    refusals=(),  # who trains is open
    guide={},
)
VERSIONS = (_GUIDED, *_OWN_LOOPS, *_TRAINER)
