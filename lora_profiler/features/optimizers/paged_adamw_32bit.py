"""bitsandbytes' AdamW with paged states."""

from lora_profiler.question.optimizer import OptimizerFacts, PackageOptimizer

FEATURE = OptimizerFacts(
    label="paged AdamW",
    keeps=(
        "paged AdamW keeps two float32 states per trained weight; tensors from 100,000 weights on"
        " are in unified memory"
    ),
    optim="paged_adamw_32bit",
    aliases=("paged_adamw",),
    classes=("PagedAdamW32bit", "PagedAdamW"),
    package=PackageOptimizer("bitsandbytes", "AdamW", 2, 32, is_paged=True),
    is_timed=True,
    steps_in_backward=True,
)
