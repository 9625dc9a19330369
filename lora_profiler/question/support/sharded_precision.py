"""What becomes of bf16 where accelerate shares a model by FSDP2."""

from dataclasses import replace

from lora_profiler.question.loop import loop_facts
from lora_profiler.question.option import FLAT, FULLY_SHARDED
from lora_profiler.question.workload import TrainSetup


def as_accelerate_shares(setup: TrainSetup) -> TrainSetup:
    """Under FSDP2 bf16 is no autocast: what trains is kept in float32 and gathered in bfloat16;
    shards beside a 4-bit base stay as the trainer made them (accelerate 1.15
    `utils/fsdp_utils.py`, fsdp2_prepare_model)."""
    is_fsdp2 = setup.sharding in FULLY_SHARDED and setup.sharding not in FLAT
    is_own = loop_facts(setup.loop_state).by_accelerate
    if not (is_fsdp2 and is_own and setup.precision == "amp"):
        return setup
    lora = setup.lora
    if setup.quantization is not None:
        is_open = setup.dtype == "bfloat16"
        return replace(setup, precision="fsdp-mixed") if is_open else setup
    if lora is None or lora.modules_to_save:
        setup = replace(setup, dtype="float32")
    if lora is not None:
        setup = replace(setup, lora=replace(lora, adapter_dtype="float32"))
    return replace(setup, precision="fsdp-mixed")
