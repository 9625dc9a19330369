"""torchtune's table of memory and speed, flag by flag: the setup of each of its rows."""

from benchmarks.public.conditions import NotExpressibleError, Row, adapters_of, spec_of
from lora_profiler.question.workload import (
    Optimizer,
    OptimizerImpl,
    Quantization,
    TrainSetup,
    Workload,
)

FLAGS = range(1, 10)
"""Rows of the table: packed, + compile, + chunked loss, + checkpointing, + update in backward, +
offloading, + 8-bit states; then LoRA and QLoRA, which have neither of the last but one and two."""


def torchtune_flag(row: Row) -> int:
    """Raises NotExpressibleError for what is no row of the table, and for another method than its
    row's."""
    number = row["id"].split(":")[1]
    if not number.isdecimal() or int(number) not in FLAGS:
        raise NotExpressibleError(f"row {number} of the table is of unstated lengths, or unknown")
    flag = int(number)
    method = row["method"].partition(" ")[0]
    if method != {8: "lora", 9: "qlora"}.get(flag, "full"):
        raise NotExpressibleError(f"row {flag} of the table is not of {row['method']!r}")
    return flag


def torchtune_workload(row: Row) -> Workload:
    flag = torchtune_flag(row)
    optimizer: Optimizer = "adamw_8bit" if flag == 7 else "adamw"
    impl: OptimizerImpl = "foreach" if flag == 7 else "fused"
    lora = None
    if flag >= 8:
        # recipes/configs/llama3_2/3B_{lora,qlora}_single_device.yaml at the commit of the table
        targets = ("q_proj", "v_proj", "output_proj", "w1", "w2", "w3")
        lora = adapters_of(row, targets, 0.0, "bfloat16", alpha=128)
    setup = TrainSetup(
        lora=lora,
        quantization=Quantization() if flag == 9 else None,
        batch_size=2,
        seq_len=4096,
        checkpointing=flag >= 4,
        attention="flash",
        optimizer=optimizer,
        optimizer_impl=impl,
    )
    return Workload(model=spec_of(row), setup=setup)
