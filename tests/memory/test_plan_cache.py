"""What was worked out for one question never answers another: each option, changed beside the
question before, in one process."""

from dataclasses import fields, replace
from itertools import product
from typing import Any, get_args, get_type_hints

import pytest

import cases
from lora_profiler import predict
from lora_profiler.errors import LoraProfilerError
from lora_profiler.memory.analytic import plan
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload

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


def answered(
    setup: TrainSetup, capability: int | None = None, torch: tuple[int, int] = (2, 13)
) -> Any:
    platform = Platform(capability=capability, torch=torch)
    workload = Workload(model=cases.spec_of("llama"), setup=setup, platform=platform)
    try:
        found = predict(workload)
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


@pytest.mark.parametrize("kind", ["full", "lora", "qlora", "grpo"])
@pytest.mark.parametrize("evaluates", [False, True])
def test_no_gpu_is_answered_by_another_s_plan(kind: str, evaluates: bool) -> None:
    """Plans are shared by GPUs and versions of torch that take the same kernels, and by no others."""
    setup = replace(BASES[kind], attention="auto", eval_batch_size=4 if evaluates else None)
    platforms = list(product((70, 75, 80, 89, 90, 100), ((2, 11), (2, 13), (2, 15))))
    alone = []
    for platform in platforms:
        forget()
        alone.append(answered(setup, *platform))
    forget()
    assert [answered(setup, *platform) for platform in platforms] == alone
    assert len(set(map(repr, alone))) > 1
