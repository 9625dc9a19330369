"""LitGPT: the arguments' defaults of `litgpt finetune_full` and `litgpt finetune_lora`."""

from dataclasses import replace

from lora_profiler.facts.stacks.stack import Gap, Refusal, Stack, Variant, by_method, overruled

_NEWEST = Stack(
    name="litgpt",
    library="LitGPT",
    version="0.5.13",
    peft_types=("lora",),
    call="finetune",
    about=(
        "The commands' defaults: micro_batch_size 1, global_batch_size 16, bf16-mixed, which is"
        " float32 weights under autocast; adapters of rank 8 on queries and values, dropout"
        " 0.05. On a 4-bit base bf16-true, since mixed precision is refused.",
        "The length is the data's; config_hub's files say bf16-true (--dtype bfloat16"
        " --precision pure --adapter-dtype bfloat16).",
    ),
    defaults=by_method(
        {
            "batch_size": 1,
            "accumulation": 16,
            "dtype": "float32",
            "precision": "amp",
            "optimizer": "adamw",
            "optimizer_impl": "foreach",
            "checkpointing": False,
            "loss": "litgpt",
            "hold_outputs": True,
            "kernels": "litgpt",
        },
        adapter={
            "rank": 8,
            "alpha": 16.0,
            "dropout": 0.05,
            "targets": "q_proj,v_proj",
            "adapter_dtype": "float32",
        },
        base={
            "dtype": "bfloat16",
            "precision": "pure",
            "adapter_dtype": "bfloat16",
            "optimizer": "paged_adamw_32bit",
            "double_quant": False,
            "recipe": "stock",
        },
    ),
    packing=None,
    model_types=frozenset(  # litgpt/config.py
        {"falcon", "gemma", "gemma2", "gemma3", "gemma3_text", "gpt_neox", "llama", "mistral"}
        | {"mixtral", "olmo", "olmo2", "phi", "phi3", "qwen2", "qwen3", "qwen3_moe", "stablelm"}
    ),
    aliases={
        "optimizer": {
            "AdamW": {"optimizer": "adamw", "optimizer_impl": "foreach"},
            "SGD": {"optimizer": "sgd"},
        },
        "precision": {
            "bf16-true": {"precision": "pure", "dtype": "bfloat16"},
            "bf16-mixed": {"precision": "amp", "dtype": "float32"},
            "32-true": {"precision": "pure", "dtype": "float32"},
        },
    },
    holds=(
        "a separate head, even for checkpoints with a tied one (LitGPT 2685705, model.py)",
        "logits stay alive through backward and the optimizer step, in float32 (Fabric; LitGPT"
        " 2685705, finetune/lora.py and full.py)",
        "float32 log-probabilities of all logits; under LoRA the head runs on 128 tokens at a"
        " time; mixed precision copies its frozen float32 weight each time (LitGPT 2685705,"
        " utils.py; torch, autocast_mode.cpp)",
        "on a 4-bit base the head is in 4 bit too; weights are unpacked by float16; a copy of"
        " the embedding trains, and its gradient is never cleared (LitGPT 2685705,"
        " finetune/lora.py; Fabric, plugins/precision/bitsandbytes.py)",
    ),
    gaps=(
        Gap("models other than Llama and Mistral are predicted as transformers' and PEFT's"),
        Gap(
            "the logits of the previous batch stay through the next pass; with equal lengths"
            " that is"
            " the most"
        ),
    ),
    guide=by_method(
        {"dtype": "bfloat16", "precision": "pure"}, adapter={"adapter_dtype": "bfloat16"}
    ),
    refusals=(
        Refusal("packed", "its data is padded to the longest of a batch"),
        Refusal("kernels", "its models are its own, without Liger's kernels", ("liger",)),
        Refusal("use_dora", "it has no DoRA"),
        Refusal("peft_arg", "its adapters are its own, not PEFT's"),
        Refusal("recipe", "its 4-bit base is not PEFT's", ("kbit", "trl")),
    ),
    leaves=("seq_len", "padding", "dropout", "targets", "double_quant"),
    variants=(
        Variant(  # as the 42 files of config_hub/finetune say
            "bf16-true",
            {"dtype": "bfloat16", "precision": "pure", "adapter_dtype": "bfloat16"},
            ("full", "lora"),
        ),
    ),
)

GUIDED = "litgpt"
VERSIONS = (
    _NEWEST,
    replace(
        _NEWEST,
        version="0.4",
        about=(
            "LitGPT from March to September 2024, the version of config_hub's table. No copy of the"
            " embedding; bitsandbytes 0.42 keeps inputs of 4-bit products through the next pass.",
            *_NEWEST.about,
        ),
        defaults=overruled(_NEWEST, {"kernels": "litgpt-2024"}),
        holds=_NEWEST.holds[:-1],
    ),
    replace(
        _NEWEST,
        version="2023.10",
        about=(
            "lit-gpt of 27 October 2023, the version of its resource tables. Its own Llama has one"
            " matrix for queries, keys and values. bitsandbytes 0.41 keeps every input and"
            " quantises"
            " the head too. bf16-true.",
        ),
        defaults=overruled(
            _NEWEST,
            {"kernels": "litgpt-2023", "dtype": "bfloat16", "precision": "pure"},
            adapter={"adapter_dtype": "bfloat16"},
        ),
        holds=_NEWEST.holds[:-1],
        gaps=(),
    ),
)
