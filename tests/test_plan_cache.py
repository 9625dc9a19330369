"""What was worked out for one question never answers another: each option, changed beside the
question before, in one process."""

from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

import pytest

import cases
from lora_profiler import predict
from lora_profiler.analytic import plan
from lora_profiler.errors import LoraProfilerError
from lora_profiler.workload import LoraConfig, Quantization, TrainSetup, Workload

LORA = LoraConfig(r=4, adapter_dtype="float32", target_modules="all-linear")
ALONE = TrainSetup(batch_size=2, seq_len=40, lora=LORA)
SHARED: dict[str, Any] = {"world_size": 4, "attention": "flash_attention_2"}
BASES = {
    "full": replace(ALONE, lora=None, checkpointing=True),
    "lora": ALONE,
    "qlora": replace(ALONE, quantization=Quantization(), checkpointing=True),
    "grpo": replace(ALONE, loop_state="trl-grpo", loss="trl", checkpointing=True, beta=0.1),
    "fsdp": replace(ALONE, **SHARED, sharding="fsdp"),
    "fsdp1": replace(ALONE, **SHARED, sharding="fsdp1", precision="amp"),
    "zero1": replace(ALONE, **SHARED, sharding="zero1"),
    "zero3": replace(ALONE, **SHARED, sharding="zero3"),
}
KINDS = get_type_hints(TrainSetup)


def values(name: str, now: Any) -> list[Any]:
    """Other values of an option: its choices, the other of two, a larger number."""
    if choices := [c for c in get_args(KINDS[name]) if isinstance(c, str) and c != now]:
        return choices
    if isinstance(now, bool):
        return [not now]
    if isinstance(now, int | float):
        return [now + 1]
    return [2] if now is None and int in get_args(KINDS[name]) else []


def answered(setup: TrainSetup) -> Any:
    try:
        found = predict(Workload(model=cases.spec_of("llama"), setup=setup))
    except LoraProfilerError as e:
        return str(e)
    return found.moments, found.host_bytes, found.exactness


def forget() -> None:
    plan._PLANS.clear()
    plan._SHARDS.clear()


@pytest.mark.grid
@pytest.mark.parametrize("kind", BASES)
def test_no_option_is_answered_by_another_s_plan(kind: str) -> None:
    base = BASES[kind]
    asked = 0
    for field in fields(TrainSetup):
        for value in values(field.name, getattr(base, field.name)):
            try:
                changed = replace(base, **{field.name: value})
            except LoraProfilerError:
                continue
            forget()
            answered(base)
            after = answered(changed)
            forget()
            assert after == answered(changed), field.name
            asked += 1
    assert asked > 20
