"""bitsandbytes' 8-bit Lion with paged states."""

from lora_profiler.question.optimizer import OptimizerFacts, PackageOptimizer

FEATURE = OptimizerFacts(
    label="paged 8-bit Lion",
    keeps=(
        "paged 8-bit Lion keeps one byte per trained weight, scales on the GPU; tensors from"
        " 100,000 weights on are in unified memory; below 4,096 weights 32-bit"
    ),
    optim="paged_lion_8bit",
    aliases=(),
    classes=("PagedLion8bit",),
    package=PackageOptimizer("bitsandbytes", "Lion", 1, 8, is_paged=True),
    is_timed=True,
    steps_in_backward=True,
)
