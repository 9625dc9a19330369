"""LLaMA-Factory: its arguments' defaults, with bf16 as nine in ten of its examples have it."""

from dataclasses import replace

from lora_profiler.facts.stacks.stack import (
    SHARED_LEAVES,
    Packing,
    Refusal,
    Stack,
    Variant,
    by_method,
    overruled,
)
from lora_profiler.facts.stacks.transformers_loops import (
    ADAMW_FOREACH,
    ADAMW_FUSED,
    ALIASES,
    LIGER,
    OF_ADAPTERS,
)

_TRAINER = Stack(
    name="llamafactory",
    library="LLaMA-Factory",
    version="0.9.6",
    peft_types=("lora", "oft"),
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
        "packed rows stay rows; neat_packing adds a block mask (LLaMA-Factory ff6d4d1,"
        " data/collator.py)",
    ),
    leaves=(*SHARED_LEAVES, *OF_ADAPTERS, "double_quant"),
    variants=(LIGER, Variant("pure_bf16", {"dtype": "bfloat16", "precision": "pure"}, ("full",))),
)

_DPO = replace(
    _TRAINER,
    name="llamafactory-dpo",
    call="DPO trainer",
    about=(
        "stage: dpo, and the rest as its trainer has it. A batch counts pairs: the model sees"
        " twice as many rows.",
    ),
    defaults=overruled(_TRAINER, {"loss": "llamafactory-dpo", "loop_state": "trl-dpo"}),
    packing=None,
    rows=2,
    holds=(
        *_TRAINER.holds[:2],
        "float32 logits of both answers, for the policy and then the reference; the reference is"
        " the model without adapters, or a bfloat16 copy (LLaMA-Factory ff6d4d1,"
        " train/dpo/trainer.py, concatenated_forward; train/trainer_utils.py, create_ref_model)",
    ),
    refusals=(Refusal("packed", "pairs are not packed"),),
)

GUIDED = "llamafactory"
VERSIONS = (
    _TRAINER,
    replace(
        _TRAINER,
        version="0.9.1",
        peft_types=("lora",),
        about=(
            "As 0.9.6, over transformers 4.46: AdamW is torch's foreach, and the float32 logits are"
            " copied to shift them.",
            *_TRAINER.about[1:],
        ),
        defaults=overruled(_TRAINER, {**ADAMW_FOREACH, "transformers": "4.48"}),
    ),
    _DPO,
    replace(
        _DPO,
        name="llamafactory-orpo",
        about=(
            "stage: dpo with pref_loss: orpo or simpo, and the rest as its trainer has it. A batch"
            " counts pairs: the model sees twice as many rows.",
        ),
        defaults=overruled(_DPO, {"loss": "llamafactory-orpo"}),
        holds=(
            *_TRAINER.holds[:2],
            "logits of both answers in float32, and no reference (LLaMA-Factory ff6d4d1,"
            " hparams/finetuning_args.py, use_ref_model)",
        ),
    ),
    replace(
        _DPO,
        name="llamafactory-kto",
        call="KTO trainer",
        about=(
            "stage: kto, and the rest as its trainer has it. A batch counts answers, each of which"
            " is desirable or not.",
        ),
        defaults=overruled(_DPO, {"loss": "llamafactory-kto", "loop_state": "trl-kto"}),
        rows=1,
        holds=(
            *_TRAINER.holds[:2],
            "both models also run over other prompts' answers, without gradients; their float32"
            " logits"
            " of the batch stay (LLaMA-Factory ff6d4d1, train/kto/trainer.py,"
            " concatenated_forward)",
        ),
        refusals=(Refusal("packed", "answers are not packed"),),
    ),
)
