"""bitsandbytes' AdamW with paged states."""

from lora_profiler.optimizer import OptimizerFacts, PackageOptimizer

FEATURE = OptimizerFacts(
    label="paged AdamW",
    keeps=(
        "paged AdamW keeps two float32 states per trained weight, in unified memory where a tensor"
        " has 100,000 weights or more"
    ),
    optim="paged_adamw_32bit",
    aliases=("paged_adamw",),
    classes=("PagedAdamW32bit", "PagedAdamW"),
    package=PackageOptimizer("bitsandbytes", "AdamW", 2, 32, is_paged=True),
    is_timed=True,
    steps_in_backward=True,
)
