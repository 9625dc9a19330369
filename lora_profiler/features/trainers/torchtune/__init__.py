"""torchtune: the recipes' shipped configs, which agree in nearly all that costs memory."""

from dataclasses import replace

from lora_profiler.facts.stacks.stack import (
    Gap,
    Packing,
    Refusal,
    Stack,
    Variant,
    by_method,
    overruled,
)
from lora_profiler.facts.stacks.transformers_loops import ADAMW_FOREACH, ADAMW_FUSED, OF_ADAPTERS

_RECIPES = Stack(
    name="torchtune",
    library="torchtune",
    version="0.7",
    peft_types=("lora",),
    call="recipes",
    about=(
        "What its 177 shipped configs agree in: batch_size 2, dtype bf16 throughout, fused"
        " AdamW, activation checkpointing; adapters of rank 8 on q, v, output and the MLP,"
        " accumulation 8 with them.",
        "max_seq_len is null in most: the length is the data's. Some full recipes take a"
        " paged 8-bit AdamW and step in backward (optimizer_in_bwd).",
    ),
    defaults=by_method(
        {
            "batch_size": 2,
            "accumulation": 1,
            "dtype": "bfloat16",
            "precision": "pure",
            **ADAMW_FUSED,
            "checkpointing": True,
            "loss": "torchtune",
            "kernels": "torchtune",
        },
        adapter={
            "accumulation": 8,
            "rank": 8,
            "alpha": 16.0,
            "dropout": 0.0,
            "targets": "q_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
            "adapter_dtype": "bfloat16",
        },
        base={"double_quant": True, "recipe": "stock"},
    ),
    packing=Packing(one_row=False),
    model_types=frozenset(  # torchtune/models
        {"gemma", "gemma2", "llama", "llama4", "mistral", "mllama", "phi3", "qwen2", "qwen3"}
    ),
    aliases={
        "optimizer": {
            "torch.optim.AdamW": ADAMW_FOREACH,
            "torch.optim.SGD": {"optimizer": "sgd"},
            "bitsandbytes.optim.AdamW8bit": {"optimizer": "adamw_8bit"},
            "bitsandbytes.optim.PagedAdamW": {"optimizer": "paged_adamw_32bit"},
            "bitsandbytes.optim.PagedAdamW8bit": {"optimizer": "paged_adamw_8bit"},
        },
        "dtype": {"bf16": {"dtype": "bfloat16"}, "fp32": {"dtype": "float32"}},
        "targets": {"output_proj": {"targets": "o_proj"}},
    },
    holds=(
        "keys and values copied for all heads before attention (torchtune bd2a0fc,"
        " modules/attention.py; --kernels torchtune)",
        "everything in the dtype of the config, adapters too, without autocast (torchtune"
        " bd2a0fc, recipes/lora_finetune_single_device.py)",
        "4 bytes per logit until backward, an eighth of the tokens at a time; --loss torchtune, and"
        " torchtune-chunked for CEWithChunkedOutputLoss (torchtune bd2a0fc,"
        " modules/loss/cross_entropy_loss.py)",
    ),
    gaps=(
        Gap(
            "the 4-bit base is torchao's NF4, with scales in 8 bit: priced as bitsandbytes'",
            ("qlora",),
        ),
        Gap("FSDP2 follows its recipes; not checked against a run on several GPUs", is_shared=True),
    ),
    refusals=(
        Refusal(
            "precision",
            "its recipes have no autocast; --dtype says the format of everything",
            ("amp",),
        ),
        Refusal("kernels", "its models are its own, without Liger's kernels", ("liger",)),
        Refusal("peft_arg", "its adapters are its own, not PEFT's"),
        Refusal("recipe", "its 4-bit base is torchao's, without preparation", ("kbit", "trl")),
    ),
    leaves=("seq_len", "padding", *OF_ADAPTERS),
    variants=(
        Variant("optimizer_in_bwd", {"optimizer_in_bwd": True}, ("full",)),
        Variant("enable_activation_offloading", {"offload_activations": True}),
        Variant("compile", {"kernels": "liger"}),  # what fused kernels keep
    ),
)

GUIDED = "torchtune"
VERSIONS = (
    _RECIPES,
    replace(
        _RECIPES,
        version="0.6",
        about=(
            "As 0.7, but the loss is CEWithChunkedOutputLoss: logits are made at once, and cast to"
            " float32 an eighth at a time.",
        ),
        defaults=overruled(_RECIPES, {"loss": "torchtune-chunked"}),
    ),
    replace(
        _RECIPES,
        version="0.3",
        about=("As 0.6, but AdamW is torch's foreach, and LoRA is on q and v.",),
        defaults=overruled(
            _RECIPES,
            {"loss": "torchtune-chunked", **ADAMW_FOREACH},
            adapter={"targets": "q_proj,v_proj"},
        ),
    ),
    replace(
        _RECIPES,
        version="0.2",
        about=("As 0.3, but the loss is torch's CrossEntropyLoss of all logits in float32.",),
        defaults=overruled(
            _RECIPES,
            {"loss": "plain", "hold_outputs": True, **ADAMW_FOREACH},
            adapter={"targets": "q_proj,v_proj"},
        ),
        holds=(
            *_RECIPES.holds[:2],
            "all logits in float32, copied to shift them; the copy keeps its name through backward"
            " (torchtune 0.2, modules/transformer.py, recipes/*_single_device.py)",
        ),
    ),
    replace(
        _RECIPES,
        name="torchtune-dpo",
        call="lora_dpo_single_device",
        about=(
            "The common settings of its DPO configs: 4 pairs (8 rows), accumulation 8, 1,024"
            " tokens."
            " The rest is as in its other recipes.",
        ),
        defaults=overruled(
            _RECIPES,
            {
                "batch_size": 4,
                "seq_len": 1024,
                "accumulation": 8,
                "loss": "torchtune-dpo",
                "hold_outputs": True,
            },
        ),
        packing=None,
        rows=2,
        holds=(
            *_RECIPES.holds[:2],
            "float32 logits and log-probabilities of both answers, for the policy and then the"
            " reference; the reference is the model without adapters; its logits stay through"
            " the next"
            " forward pass (torchtune bd2a0fc, recipes/lora_dpo_single_device.py)",
        ),
        refusals=(*_RECIPES.refusals, Refusal("packed", "pairs are not packed")),
    ),
)
