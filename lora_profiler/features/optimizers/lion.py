"""bitsandbytes' Lion."""

from lora_profiler.question.optimizer import OptimizerFacts, PackageOptimizer

FEATURE = OptimizerFacts(
    label="Lion",
    keeps=("Lion keeps one float32 state per trained weight"),
    optim="lion_32bit",
    aliases=("lion",),
    classes=("Lion32bit",),
    package=PackageOptimizer("bitsandbytes", "Lion", 1, 32),
    is_timed=True,
    steps_in_backward=True,
    on_host=True,
)
