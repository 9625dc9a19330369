"""Norm and rotary embedding of fms-acceleration's plugin "foak", which are Unsloth's
(`fms_acceleration_foak/models/{llama,mistral,mixtral}.py`)."""

from lora_profiler.question.kernel_set import KernelSet

FEATURE = KernelSet(
    title="fms-acceleration's kernels",
    assumption=(
        "fms-acceleration's kernels (RMSNorm, rotary embedding) follow their source (876e2ed)."
    ),
    types=("llama", "mistral", "mixtral"),
)
