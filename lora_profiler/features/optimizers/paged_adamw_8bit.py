"""bitsandbytes' 8-bit AdamW with paged states."""

from lora_profiler.question.optimizer import OptimizerFacts, PackageOptimizer

FEATURE = OptimizerFacts(
    label="paged 8-bit AdamW",
    keeps=(
        "paged 8-bit AdamW keeps two bytes per trained weight, scales on the GPU; tensors from"
        " 100,000 weights on are in unified memory; below 4,096 weights 32-bit"
    ),
    optim="paged_adamw_8bit",
    aliases=(),
    classes=("PagedAdamW8bit",),
    package=PackageOptimizer("bitsandbytes", "AdamW", 2, 8, is_paged=True),
    is_timed=True,
    steps_in_backward=True,
)
