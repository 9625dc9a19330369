"""What several packed bases have."""

from typing import Any

from lora_profiler.question.model_spec import Module, StoredBase

_SHARED = ("none", "ddp", "zero1")


def grouped(kind: str, bits: Any, group: Any, known: tuple[int, ...]) -> StoredBase | None:
    """None where the numbers are none that are known."""
    if type(bits) is not int or type(group) is not int or bits not in known:
        return None
    if group != -1 and group <= 0:
        return None
    return StoredBase(quant_type=kind, bits=bits, group_size=group)


def no_dora(workload: Any) -> dict[str, object]:
    return {
        "PEFT's layers over it do not support DoRA (tuners/lora/{gptq,awq}.py); leave --use-dora"
        " out.": workload.setup.lora.use_dora
    }


def not_sharded(workload: Any) -> dict[str, object]:
    return {
        "GPTQModel holds it in buffers, which FSDP and DeepSpeed leave whole on each rank; take"
        " --sharding ddp or zero1.": workload.setup.sharding not in _SHARED
    }


def unknown_shards(workload: Any) -> dict[str, object]:
    return {
        "how other shardings share it is not known; take --sharding ddp or zero1.": (
            workload.setup.sharding not in _SHARED
        )
    }


def leaves_conv1d(part: Any, model: Any) -> bool:
    """Linear layers outside of the blocks but for the head, and Conv1D, for which transformers'
    AWQ and FP8 do not look."""
    if isinstance(part, Module):
        return part.is_linear and part.name != model.output_embedding
    return any(m.kind == "Conv1D" for layer in part.kinds for m in layer)


def loaded(title: str) -> list[str]:
    return [
        f"{title} trains by GPTQModel's kernels that have a backward: load it with backend"
        " auto_trainable."
    ]
