"""Tensor parallelism: which models' layers can be cut, and by how many ranks. No torch."""

from lora_profiler.errors import UsageError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.support.model_types import TENSOR_PARALLEL_TYPES, type_of
from lora_profiler.workload import Workload


def check_tensor_parallel(workload: Workload) -> None:
    """Raises UsageError for a family whose layers are made otherwise, for sizes that do not divide,
    and for a 4-bit base, whose blocks would be cut."""
    model, setup = workload.model, workload.setup
    if setup.sharding != "tp":
        return
    if not type_of(model).tensor_parallel:
        raise UsageError(
            f"tensor parallelism is known of {', '.join(TENSOR_PARALLEL_TYPES)}, not of"
            f" {model.model_type}; take --sharding fsdp."
        )
    if setup.quantization is not None:
        raise UsageError(
            "tensor parallelism would cut the blocks of a 4-bit base; take --sharding fsdp or ddp."
        )
    for name, size in divided_sizes(model).items():
        if size % setup.world_size:
            raise UsageError(
                f"{model.id} has {name} {size}, which {setup.world_size} ranks do not divide; take"
                " another --world-size."
            )


def divided_sizes(model: ModelSpec) -> dict[str, int]:
    """Fields of the config that a rank has a part of."""
    config = model.config
    heads = int(config["num_attention_heads"])
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": int(config.get("num_key_value_heads") or heads),
        "intermediate_size": int(config["intermediate_size"]),
    }
