"""axolotl: its schema's defaults, and what nearly all of its examples set where the schema sets
nothing."""

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
    WIDE_SHARDS,
)

_TRAINER = Stack(
    name="axolotl",
    library="axolotl",
    version="0.18",
    peft_types=("lora",),
    call="trainer",
    about=(
        "The schema's defaults (micro_batch_size 1, adamw_torch_fused), and of its 250 examples"
        " what most set: bf16, sequence_len 2,048, gradient_checkpointing, lora_r 32,"
        " lora_alpha 16, lora_dropout 0.05, lora_target_linear. No packing and no plugin unless"
        " you say so.",
        "sample_packing is --packed MEAN; the cut cross-entropy plugin is --loss cce; Liger's is"
        " --kernels liger with --loss fused, and triton for liger_cross_entropy.",
    ),
    defaults=by_method(
        {
            "batch_size": 1,
            "seq_len": 2048,
            "accumulation": 1,
            "dtype": "bfloat16",
            "precision": "amp",
            **ADAMW_FUSED,
            "checkpointing": True,
            "use_reentrant": True,
            "loss": "plain",
            "kernels": "transformers",
            "loop_state": "axolotl",
        },
        adapter={
            "rank": 32,
            "alpha": 16.0,
            "dropout": 0.05,
            "targets": "all-linear",
            "adapter_dtype": "float32",
            "lora_kernels": "axolotl",
        },
        base={"double_quant": True, "recipe": "stock"},
    ),
    packing=Packing(one_row=True, attention="flash_attention_2"),
    aliases=ALIASES,
    holds=(
        "checkpointing is reentrant by default (axolotl 067b021, utils/config, normalize_config)",
        "with adapters the embeddings' output requires a gradient (axolotl 067b021,"
        " loaders/adapter.py, load_adapter)",
        "one row of micro_batch_size x sequence_len tokens where samples are packed (axolotl"
        " 067b021, utils/collators)",
        "its LoRA kernels fuse q/k/v, o and the MLP with their adapters; other models use PEFT's"
        " adapters (axolotl 067b021, utils/schemas/config, check_auto_enable_lora_kernels)",
        "norms, embeddings and head are float32 briefly, then bfloat16 again; they stay float32 in"
        " full fine-tuning with SDPA or eager attention; so do routers named gate with adapters and"
        " no FSDP (axolotl 067b021, loaders/model.py)",
    ),
    leaves=(*SHARED_LEAVES, *OF_ADAPTERS, "double_quant"),
    variants=(LIGER, Variant("the cut cross entropy plugin", {"loss": "cce"}), WIDE_SHARDS),
)

GUIDED = "axolotl"
VERSIONS = (
    _TRAINER,
    replace(
        _TRAINER,
        version="0.8",
        about=(
            "As 0.18, over transformers 4.50: its LoRA kernels only where a file asks for them.",
            *_TRAINER.about[1:],
        ),
        defaults=overruled(_TRAINER, {"transformers": "4.57"}, adapter={"lora_kernels": "peft"}),
        holds=(*_TRAINER.holds[:3], _TRAINER.holds[-1]),
    ),
    replace(
        _TRAINER,
        version="0.4",
        about=(
            "As 0.8, over transformers 4.37, with AdamW as torch's foreach: the files of 2023 and"
            " 2024.",
            *_TRAINER.about[1:],
        ),
        defaults=overruled(
            _TRAINER, {**ADAMW_FOREACH, "transformers": "4.45"}, adapter={"lora_kernels": "peft"}
        ),
        holds=(
            *_TRAINER.holds[:3],
            "with adapters the float32 of PEFT's k-bit preparation is cast back (axolotl 0.3"
            " and 0.4,"
            " utils/models.py, load_model)",
        ),
    ),
    replace(
        _TRAINER,
        name="axolotl-dpo",
        version="0.19",
        call="DPO trainer",
        about=(
            "rl: dpo, and the rest as its trainer has it, over TRL 1.9. A batch counts pairs: the"
            " model sees twice as many rows. Dropout is off, checkpoints are not reentrant, and"
            " adapters are PEFT's.",
        ),
        defaults=overruled(
            _TRAINER,
            {"use_reentrant": False, "loss": "axolotl-dpo", "loop_state": "axolotl-dpo"},
            adapter={"dropout": 0.0, "lora_kernels": "peft"},
        ),
        packing=None,
        rows=2,
        holds=(
            *_TRAINER.holds[1:2],
            *_TRAINER.holds[4:],
            "all float32 logits of both answers and a shifted copy, for policy and reference; the"
            " reference is the model without adapters, or a second one (TRL 1.9, dpo_trainer.py,"
            " _compute_loss; axolotl 0.19, monkeypatch/trainer/utils.py, train.py,"
            " setup_reference_model)",
        ),
        refusals=(Refusal("packed", "pairs are not packed"),),
    ),
)
