"""Kernels in place of transformers' own, Liger-Kernel's and fms-acceleration's: which models they
are known of. No torch."""

from lora_profiler.errors import UsageError
from lora_profiler.support.model_types import FOAK_TYPES, LIGER_TYPES, type_of
from lora_profiler.workload import Workload

ASSUMPTION = (
    "Liger-Kernel's RMSNorm, SwiGLU and rotary embedding keep and write over what its source says;"
    " partial sums of the norms' gradients, one a multiprocessor, are left out."
)


def check_kernels(workload: Workload) -> None:
    """Raises UsageError where the kernels do not take the model, or nothing here says what they
    keep of it."""
    model, setup = workload.model, workload.setup
    if setup.is_litgpt_2023:
        _check_litgpt(workload)
    if setup.kernels == "foak" and not type_of(model).foak:
        raise UsageError(
            f"fms-acceleration's kernels are known of {', '.join(FOAK_TYPES)}, not of"
            f" {model.model_type}; leave --kernels out."
        )
    if setup.kernels == "foak" and setup.sharding == "tp":
        raise UsageError(
            "fms-acceleration's kernels under tensor parallelism are not known; leave out one of"
            " --kernels and --sharding tp."
        )
    if setup.kernels != "liger":
        return
    if not type_of(model).liger:
        raise UsageError(
            f"Liger's kernels are known of {', '.join(LIGER_TYPES)}, not of {model.model_type};"
            " leave --kernels out."
        )
    if model.config.get("hidden_act") not in ("silu", "swish"):
        raise UsageError(
            f"Liger's MLP is SwiGLU's, and {model.id} has {model.config.get('hidden_act')}; leave"
            " --kernels out."
        )
    if setup.sharding == "tp":
        raise UsageError(
            "Liger's kernels under tensor parallelism are not known; leave out one of --kernels and"
            " --sharding tp."
        )


def _check_litgpt(workload: Workload) -> None:
    """Raises UsageError for what LitGPT's tables of 2023 did not run."""
    setup, lora = workload.setup, workload.setup.lora
    if workload.model.model_type != "llama":
        raise UsageError(
            f"LitGPT's model of 2023 is known as Llama alone, not as {workload.model.model_type};"
            " leave --kernels out."
        )
    if lora is not None and set(lora.target_modules or ()) != {"q_proj", "v_proj"}:
        raise UsageError(
            "LitGPT's model of 2023 is known with adapters on q_proj and v_proj alone; take"
            " --targets q_proj,v_proj."
        )
    if setup.checkpointing or setup.is_shared or setup.autocast_dtype:
        raise UsageError(
            "LitGPT's model of 2023 is known of one process without checkpointing and autocast;"
            " leave them out."
        )
