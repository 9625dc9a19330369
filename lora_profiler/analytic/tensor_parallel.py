"""Tensor parallelism: a rank's part of a model is a model of its own, with its part of the heads
and of the MLP's width.

As transformers' `base_model_tp_plan` and torch's per-module plans cut it: q, k, v, gate and up by
columns, o and down by rows; norms, embedding and head stay whole on every rank. Each row-wise
product is summed over the ranks in forward; in backward the input's gradient of each column-wise
one is (torch `distributed/tensor/parallel/style.py`, one module at a time). `tests/test_ranks.py`
compares with a trace of the real `parallelize_module`.
"""

from dataclasses import replace

from lora_profiler.catalog import model_from_config
from lora_profiler.errors import UsageError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.prediction import Traffic
from lora_profiler.workload import DTYPE_BYTES, TrainSetup, Workload

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2"})
"""Model types with one linear layer for each of q, k, v, gate and up, and no norm over all
heads."""
ROW_WISE, COLUMN_WISE = 2, 5
"""Products of a layer: o and down; q, k, v, gate and up."""


def part_of(workload: Workload) -> Workload:
    """What one rank of `workload` trains, as a process alone.

    Raises UsageError for a family whose layers are made otherwise, for sizes that do not divide,
    and for a 4-bit base, whose blocks would be cut.
    """
    model, setup = workload.model, workload.setup
    if model.model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise UsageError(
            f"tensor parallelism is known of {known}, not of {model.model_type}; take --sharding"
            " fsdp."
        )
    if setup.quantization is not None:
        raise UsageError(
            "tensor parallelism would cut the blocks of a 4-bit base; take --sharding fsdp or ddp."
        )
    return Workload(
        model=_cut(model, setup.world_size), setup=replace(setup, world_size=1, sharding="none")
    )


def _cut(model: ModelSpec, ranks: int) -> ModelSpec:
    config = model.config
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    sizes = {
        "num_attention_heads": heads,
        "num_key_value_heads": int(config.get("num_key_value_heads") or heads),
        "intermediate_size": int(config["intermediate_size"]),
    }
    for name, size in sizes.items():
        if size % ranks:
            raise UsageError(
                f"{model.id} has {name} {size}, which {ranks} ranks do not divide; take another"
                " --world-size."
            )
    part = {name: size // ranks for name, size in sizes.items()}
    return model_from_config(
        {**model.published, **part, "head_dim": head_dim}, id=model.id, source=model.source
    )


def traffic(model: ModelSpec, setup: TrainSetup) -> tuple[Traffic, ...]:
    """The all-reduces of an optimizer step, each of a micro-batch's hidden states; checkpointing
    sums the attention's again."""
    size = (
        setup.batch_size
        * setup.seq_len
        * int(model.config["hidden_size"])
        * DTYPE_BYTES[setup.dtype]
    )
    forward = ROW_WISE * model.num_layers * setup.accumulation
    backward = (COLUMN_WISE + setup.checkpointing) * model.num_layers * setup.accumulation
    return (
        Traffic(collective="all_reduce", phase="forward", count=forward, size_bytes=forward * size),
        Traffic(
            collective="all_reduce", phase="backward", count=backward, size_bytes=backward * size
        ),
    )
