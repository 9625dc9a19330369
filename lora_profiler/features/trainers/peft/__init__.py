"""PEFT's comparison of methods (method_comparison/MetaMathQA), whose results are public."""

from lora_profiler.facts.stacks.stack import Gap, Refusal, Stack, by_method
from lora_profiler.facts.stacks.transformers_loops import ADAMW_FOREACH

_ONE_LOOP = "its loop is one process, fixed in run.py"

VERSIONS = (
    Stack(
        name="peft-bench",
        library="PEFT",
        version="0.20",
        call="MetaMathQA comparison",
        about=(
            "default_training_params.json and lora/llama-3.2-3B-rank32: batch 4, up to 768 tokens."
            " bfloat16 weights without autocast, torch's default AdamW, PEFT's default targets.",
        ),
        defaults=by_method(
            {
                "batch_size": 4,
                "seq_len": 768,
                "accumulation": 1,
                "dtype": "bfloat16",
                "precision": "pure",
                **ADAMW_FOREACH,
                "checkpointing": False,
                "loss": "plain",
                "hold_outputs": True,
                "kernels": "transformers",
            },
            adapter={
                "rank": 32,
                "alpha": 64.0,
                "dropout": 0.0,
                "targets": "default",
                "adapter_dtype": "float32",
            },
            base={"double_quant": False, "recipe": "stock"},
        ),
        packing=None,
        holds=(
            "outputs = model(...) keeps the logits through backward and the optimizer step (PEFT"
            " 5d602fd, method_comparison/MetaMathQA/run.py)",
        ),
        gaps=(
            Gap("its batches are padded to their longest: a mask, and other kernels, come with it"),
            Gap(
                "int4 is FP4 with products in float32, as BitsAndBytesConfig has it without"
                " arguments: priced as NF4 with products in --dtype",
                ("qlora",),
            ),
        ),
        refusals=(
            Refusal("packed", "its batches are padded, not packed"),
            Refusal("accumulation", _ONE_LOOP),
            Refusal("world_size", _ONE_LOOP),
            Refusal("kernels", _ONE_LOOP, ("liger",)),
        ),
    ),
)
