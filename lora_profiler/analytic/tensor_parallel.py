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
from lora_profiler.model_spec import ModelSpec
from lora_profiler.prediction import Traffic
from lora_profiler.support.tensor_parallel import divided_sizes
from lora_profiler.workload import DTYPE_BYTES, TrainSetup, Workload

ROW_WISE, COLUMN_WISE = 2, 5
"""Products of a layer: o and down; q, k, v, gate and up."""


def part_of(workload: Workload) -> Workload:
    """What one rank of `workload` trains, as a process alone."""
    setup = workload.setup
    return Workload(
        model=_cut(workload.model, setup.world_size),
        setup=replace(setup, world_size=1, sharding="none"),
    )


def _cut(model: ModelSpec, ranks: int) -> ModelSpec:
    config = model.config
    sizes = divided_sizes(model)
    head_dim = int(config.get("head_dim") or config["hidden_size"] // sizes["num_attention_heads"])
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
