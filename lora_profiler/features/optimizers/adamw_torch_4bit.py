"""torchao's 4-bit AdamW."""

from lora_profiler.question.optimizer import OptimizerFacts, PackageOptimizer

FEATURE = OptimizerFacts(
    label="torchao's 4-bit AdamW",
    keeps=(
        "torchao's 4-bit AdamW keeps one byte per trained weight; scales per 128 weights, two"
        " code books a tensor; below 4,096 weights whole states"
    ),
    optim="adamw_torch_4bit",
    aliases=("ao_adamw_4bit",),
    classes=("AdamW4bit",),
    package=PackageOptimizer("torchao", "AdamW4bit", 2, 4, block=128),
    is_timed=True,
)
