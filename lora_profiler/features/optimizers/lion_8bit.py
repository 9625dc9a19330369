"""bitsandbytes' 8-bit Lion."""

from lora_profiler.question.optimizer import OptimizerFacts, PackageOptimizer

FEATURE = OptimizerFacts(
    label="8-bit Lion",
    keeps=(
        "8-bit Lion keeps one byte and scales per trained weight; small tensors (below 4,096"
        " weights) stay 32-bit"
    ),
    optim="lion_8bit",
    aliases=(),
    classes=("Lion8bit",),
    package=PackageOptimizer("bitsandbytes", "Lion", 1, 8),
    is_timed=True,
    steps_in_backward=True,
)
