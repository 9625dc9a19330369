"""LitGPT: the arguments' defaults of `litgpt finetune_full` and `litgpt finetune_lora`."""

from dataclasses import replace

from lora_profiler.stacks.stack import Gap, Refusal, Stack, Variant, by_method, overruled

_NEWEST = Stack(
    name="litgpt",
    library="LitGPT",
    version="0.5.13",
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
        "a head of its own, also where a checkpoint ties it to the embedding (LitGPT 2685705,"
        " model.py)",
        "logits keeps its name through backward and the optimizer step (LitGPT 2685705,"
        " finetune/lora.py and full.py), in float32, which Fabric converts them to",
        "log-probabilities of all logits, in float32; under LoRA the head takes 128 tokens at a"
        " time, and mixed precision copies its frozen float32 weight for each until backward"
        " (LitGPT 2685705, utils.py; torch, autocast_mode.cpp)",
        "on a 4-bit base the head too is in 4 bit, a weight comes back by float16, and a copy of"
        " the embedding trains whose gradient nobody clears (LitGPT 2685705, finetune/lora.py;"
        " Fabric, plugins/precision/bitsandbytes.py)",
    ),
    gaps=(
        Gap(
            "models other than Llama's and Mistral's are its own too, and priced as transformers'"
            " and PEFT's"
        ),
        Gap(
            "the logits of the batch before, held in the next pass, are as long as that batch: here"
            " as long as this one, so that lengths that differ take less"
        ),
    ),
    guide=by_method(
        {"dtype": "bfloat16", "precision": "pure"}, adapter={"adapter_dtype": "bfloat16"}
    ),
    refusals=(
        Refusal("packed", "its data is padded to the longest of a batch"),
        Refusal("kernels", "its models are its own, without Liger's kernels", ("liger",)),
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

VERSIONS = (
    _NEWEST,
    replace(
        _NEWEST,
        version="0.4",
        about=(
            "LitGPT from March to September 2024, with which config_hub's table was made: no copy"
            " of the embedding, and bitsandbytes 0.42, which keeps the input of a 4-bit product as"
            " long as its logits have a name: through the next pass.",
            *_NEWEST.about,
        ),
        defaults=overruled(_NEWEST, {"kernels": "litgpt-2024"}),
        holds=_NEWEST.holds[:-1],
    ),
    replace(
        _NEWEST,
        version="2023.10",
        about=(
            "lit-gpt of 27 October 2023, with which its resource tables were made: its own Llama"
            " with one matrix for queries, keys and values, and bitsandbytes 0.41, which keeps"
            " every input and quantised the head too. bf16-true.",
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
