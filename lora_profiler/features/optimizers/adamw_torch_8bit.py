"""torchao's 8-bit AdamW."""

from lora_profiler.question.optimizer import OptimizerFacts, PackageOptimizer

FEATURE = OptimizerFacts(
    label="torchao's 8-bit AdamW",
    keeps=(
        "torchao's 8-bit AdamW keeps two bytes per trained weight; scales per 256 weights, two"
        " code books a tensor; below 4,096 weights whole states"
    ),
    optim="adamw_torch_8bit",
    aliases=("ao_adamw_8bit",),
    classes=(),
    package=PackageOptimizer("torchao", "AdamW8bit", 2, 8),
    is_timed=True,
)
