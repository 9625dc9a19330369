"""bitsandbytes' Lion with paged states."""

from lora_profiler.question.optimizer import OptimizerFacts, PackageOptimizer

FEATURE = OptimizerFacts(
    label="paged Lion",
    keeps=(
        "paged Lion keeps one float32 state per trained weight; tensors from 100,000 weights on"
        " are in unified memory"
    ),
    optim="paged_lion_32bit",
    aliases=(),
    classes=("PagedLion32bit",),
    package=PackageOptimizer("bitsandbytes", "Lion", 1, 32, is_paged=True),
    is_timed=True,
    steps_in_backward=True,
)
