"""axolotl's LoRA kernels: what they go with. No torch."""

from lora_profiler.errors import UsageError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.support.model_types import LORA_KERNEL_TYPES, type_of
from lora_profiler.workload import FULLY_SHARDED, TrainSetup, Workload

SHARDED_APART = frozenset({*FULLY_SHARDED, "zero3", "tp"})
"""Shardings under which no rule says what the functions gather."""


def check_lora_kernels(workload: Workload) -> None:
    """Raises UsageError where axolotl refuses its kernels, or nothing here says what they hold."""
    setup = workload.setup
    if setup.lora is None or setup.lora.lora_kernels == "peft":
        return
    why = why_no_lora_kernels(workload.model, setup)
    if why is not None:
        raise UsageError(f"axolotl's LoRA kernels {why}; leave --lora-kernels out.")


def why_no_lora_kernels(model: ModelSpec, setup: TrainSetup) -> str | None:
    """The end of 'axolotl's LoRA kernels ...', None where they can be asked for."""
    lora, base = setup.lora, setup.quantization
    if not takes_lora_kernels(model):
        return f"are known of {', '.join(LORA_KERNEL_TYPES)}, not of {model.model_type}"
    if setup.device != "cuda":
        return "are Triton's and run on CUDA alone"
    if base is not None and base.quant_type != "nf4":
        return f"take no base in {base.quant_type}, but NF4 alone"
    if setup.optimizer == "lorafa":
        return "make a gradient of A, which LoRA-FA has none of"
    if setup.qat != "none":
        return "multiply by weights as they are, not fake-quantised"
    if lora is not None and (lora.use_dora or lora.fast_lora):
        return f"are not known with {'DoRA' if lora.use_dora else 'fast_lora'}"
    if setup.sharding in SHARDED_APART:
        return f"are not known under sharding {setup.sharding}"
    if setup.transformers != "5":
        return f"are not known with transformers {setup.transformers}"
    widened = base is not None and base.recipe in ("kbit", "kbit-norms")
    if widened or setup.autocast_dtype not in (None, setup.dtype):
        return "add to a product what is in another dtype under this autocast: torch refuses it"
    return None


def takes_lora_kernels(model: ModelSpec) -> bool:
    """Whether rules know them of the model."""
    kind = model.config.get("hidden_act") or model.config.get("hidden_activation") or ""
    is_known = type_of(model).lora_kernels and (kind == "silu" or "gelu" in kind)
    return is_known and (model.stored is None or model.stored.quant_type == "nf4")
