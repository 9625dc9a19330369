"""What becomes of bf16 where accelerate shares a model by FSDP2."""

from dataclasses import replace
from typing import Any

from lora_profiler.question.loop import loop_facts
from lora_profiler.question.option import FLAT, FULLY_SHARDED
from lora_profiler.question.workload import TrainSetup


def as_shards(*, is_4_bit: bool = False, trains_whole: bool = False) -> dict[str, Any]:
    """Options by name. Under FSDP2 bf16 is no autocast: what trains is kept in float32 and gathered
    in bfloat16, the whole model where it trains or modules of it do; with a 4-bit base shards stay
    as the trainer made them (accelerate 1.15 `utils/fsdp_utils.py`, fsdp2_prepare_model)."""
    if is_4_bit:
        return {"precision": "fsdp-mixed"}
    whole = {"dtype": "float32"} if trains_whole else {}
    return {"precision": "fsdp-mixed", "adapter_dtype": "float32", **whole}


def as_accelerate_shares(setup: TrainSetup) -> TrainSetup:
    """`setup` as accelerate makes it where its loop leaves sharding by FSDP2 to accelerate; as it
    is elsewhere, and with a 4-bit base among weights in another dtype than bfloat16."""
    is_fsdp2 = setup.sharding in FULLY_SHARDED and setup.sharding not in FLAT
    is_own = loop_facts(setup.loop_state).by_accelerate
    is_4_bit, lora = setup.quantization is not None, setup.lora
    if not (is_fsdp2 and is_own and setup.precision == "amp"):
        return setup
    if is_4_bit and setup.dtype != "bfloat16":
        return setup
    trains_whole = lora is None or bool(lora.modules_to_save)
    made = as_shards(is_4_bit=is_4_bit, trains_whole=trains_whole)
    adapter_dtype = made.pop("adapter_dtype", None)
    if lora is not None and adapter_dtype is not None:
        lora = replace(lora, adapter_dtype=adapter_dtype)
    return replace(setup, lora=lora, **made)
