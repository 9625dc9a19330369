"""What the rest of the package asks of functions that hold linear layers with their adapters.
PEFT's own layers are the default; each set is a folder under `features/lora_kernels/`."""

from collections.abc import Collection
from typing import Any, NamedTuple

from lora_profiler.errors import UsageError
from lora_profiler.question.feature import has_file, part
from lora_profiler.question.optimizer import optimizer_facts
from lora_profiler.question.option import FULLY_SHARDED


class LoraKernelSet(NamedTuple):
    """Facts of a set of functions.

    title: as a sentence begins with it. `types` of models that it is known of; its trainer stops_at
    others with an error: what is `stopped`, in a sentence. rules_alone: neither a trace nor a
    measurement makes it. leaves_biases: layers with a bias are PEFT's. stores_scales: a 4-bit
    weight is unpacked beside its scales; unpacks_at_once: by one kernel.
    """

    title: str = ""
    types: tuple[str, ...] = ()
    stops_at: Collection[str] = ()
    stopped: str = ""
    rules_alone: bool = False
    leaves_biases: bool = False
    stores_scales: bool = False
    unpacks_at_once: bool = False


CORE = "peft"
TYPES = (
    "apertus", "arcee", "cohere2", "gemma", "gemma2", "gemma3", "gemma3_text", "glm4",
    "hunyuan_v1_dense", "llama", "mistral3", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe",
    "qwen3_vl", "seed_oss", "smollm3", "starcoder2",
)  # fmt: skip
"""Types that have q, k and v, and o, where axolotl looks for them (067b021,
`monkeypatch/lora_kernels.py`, QKV_PATCHES), and that rules or traces know so."""
SHARDED_APART = frozenset({*FULLY_SHARDED, "zero3", "tp"})
"""Shardings under which no rule says what the functions gather."""
_OF_PEFT = LoraKernelSet()


def lora_kernel_set(name: str) -> LoraKernelSet:
    """Facts of the set that the option names."""
    if name == CORE:
        return _OF_PEFT
    found: LoraKernelSet = part("lora_kernels", name, "", "FEATURE")
    return found


def has_stand_in(name: str) -> bool:
    """Whether a trace puts something in their place."""
    return has_file("lora_kernels", name, "stand_in")


def check_lora_kernels(workload: Any) -> None:
    """Raises UsageError where the trainer refuses its kernels, or nothing here says what they
    hold."""
    why = lora_kernels_unsupported_reason(workload.model, workload.setup)
    if why is not None:
        title = lora_kernel_set(workload.setup.lora.lora_kernels).title
        raise UsageError(f"{title} {why}; leave --lora-kernels out.")


def lora_kernels_unsupported_reason(model: Any, setup: Any) -> str | None:
    """The end of "axolotl's LoRA kernels ...", None where they go with the model and the setup."""
    lora, base = setup.lora, setup.quantization
    if lora is None or lora.lora_kernels == CORE:
        return None
    own = part("lora_kernels", lora.lora_kernels, "", "unsupported_reason")
    if own and (why := own(model, setup)):
        return str(why)
    types = lora_kernel_set(lora.lora_kernels).types
    if not takes_lora_kernels(model, types):
        return f"are known of {', '.join(types)}, not of {model.model_type}"
    if setup.device != "cuda":
        return "are Triton's and run on CUDA alone"
    if base is not None and base.quant_type != "nf4":
        return f"take no base in {base.quant_type}, but NF4 alone"
    if optimizer_facts(setup.optimizer).b_alone:
        return "make a gradient of A, which LoRA-FA has none of"
    if setup.qat != "none":
        return "multiply by weights as they are, not fake-quantised"
    if lora.use_dora or lora.fast_lora:
        return f"are not known with {'DoRA' if lora.use_dora else 'fast_lora'}"
    if setup.sharding in SHARDED_APART:
        return f"are not known under sharding {setup.sharding}"
    if setup.transformers != "5":
        return f"are not known with transformers {setup.transformers}"
    widened = base is not None and base.recipe in ("kbit", "kbit-norms")
    if widened or setup.autocast_dtype not in (None, setup.dtype):
        return "add to a product what is in another dtype under this autocast: torch refuses it"
    return None


def takes_lora_kernels(model: Any, types: Collection[str]) -> bool:
    """Whether rules or traces know them of the model."""
    if model.model_type not in types:
        return False
    kind = model.config.get("hidden_act") or model.config.get("hidden_activation") or ""
    is_known = kind == "silu" or "gelu" in kind or not _has_gates(model)
    return is_known and (model.stored is None or model.stored.quant_type == "nf4")


def _has_gates(model: Any) -> bool:
    """Whether an MLP has the layers that its function is of; others keep what PEFT makes."""
    return any(name.endswith("mlp.gate_proj") for name, _ in model.modules())
