"""bitsandbytes' 8-bit AdamW."""

from lora_profiler.question.optimizer import OptimizerFacts, PackageOptimizer

FEATURE = OptimizerFacts(
    label="8-bit AdamW",
    keeps=(
        "8-bit AdamW keeps two bytes and scales per trained weight; small tensors (below 4,096"
        " weights) stay 32-bit"
    ),
    optim="adamw_bnb_8bit",
    aliases=("adamw_8bit",),
    classes=("AdamW8bit",),
    package=PackageOptimizer("bitsandbytes", "AdamW", 2, 8),
    is_timed=True,
    steps_in_backward=True,
)
