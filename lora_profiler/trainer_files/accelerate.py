"""The files that stand beside a trainer's: accelerate's YAML, and DeepSpeed's JSON."""

from pathlib import Path
from typing import Any

from lora_profiler.trainer_files import ranks
from lora_profiler.trainer_files import shared_keys as shared
from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.meaning import (
    NO_EFFECT,
    Framework,
    Meaning,
    free,
    is_off,
    missing,
    no_effect,
    not_modelled,
    number,
    sets,
    size,
    when_on,
)

_HERE = Path(__file__).parent


def _distributed(value: Any, document: Document) -> Meaning:
    """On every GPU that there is, unless num_processes says how many."""
    kind = str(value).upper()
    if kind in ("MULTI_GPU", "MULTI_CPU"):
        return Meaning({"sharding": "ddp"}, asks=("world_size",))
    if kind == "FSDP":
        return Meaning(ranks.fsdp_switch(1)(True, document).options, asks=("world_size",))
    if kind == "DEEPSPEED":
        named = any(document.get(key) is not None for key in _STAGES)
        own = {} if named else {"sharding": "zero2"}  # DeepSpeedPlugin's
        return Meaning(own, asks=("world_size",))
    if kind in ("NO", "NONE", "FALSE"):
        return NO_EFFECT
    return not_modelled(f"{value}, predicted as one GPU", "either way")


def _processes(value: Any, document: Document) -> Meaning:
    """All of them; torchrun counts cards itself where it is told `gpu` or `auto`."""
    if value in COUNTED_BY_TORCHRUN:
        return Meaning(asks=("world_size",))
    return sets("world_size")(value, document)


def _precision(value: Any, document: Document) -> Meaning:
    kind = str(value).lower()
    if kind in ("bf16", "fp16"):
        return Meaning({"precision": "amp" if kind == "bf16" else "amp-float16"})
    if kind in ("no", "none", "false"):
        return NO_EFFECT
    what = f"{kind} autocast, answered as bfloat16's"
    return not_modelled(what, "either way", precision="amp")


_STAGES = ("deepspeed_config.zero_stage", "deepspeed_config.deepspeed_config_file")
COUNTED_BY_TORCHRUN = ("gpu", "auto")
_OPTIMIZER = ranks.deepspeed_device("offload_optimizer_device")
_PARAM = ranks.deepspeed_device("offload_param_device")
_OWN_LIMITS = "limits of ZeRO-3 other than its defaults"

ACCELERATE = Framework(
    name="accelerate",
    title="accelerate",
    marks=frozenset(
        {"compute_environment", "distributed_type", "num_processes", "mixed_precision"}
    ),
    keys={
        "distributed_type": _distributed,
        "num_processes": _processes,
        "mixed_precision": _precision,
        **ranks.fsdp_keys(1),
        "deepspeed_config.zero_stage": ranks.zero_stage,
        "deepspeed_config.deepspeed_config_file": ranks.deepspeed,
        "deepspeed_config.offload_optimizer_device": _OPTIMIZER,
        "deepspeed_config.offload_param_device": _PARAM,
        "deepspeed_config.gradient_accumulation_steps": no_effect,
        "dynamo_config.dynamo_backend": shared.compiled,
        "fp8_config.backend": missing("products in FP8, answered in 16 bit", "either way"),
        "use_cpu": when_on(device="cpu"),
        **dict.fromkeys(
            (
                "parallelism_config.parallelism_config_tp_size",
                "parallelism_config.parallelism_config_sp_size",
            ),
            ranks.parallel("the work", "tensor or sequence parallelism"),
        ),
        "parallelism_config.parallelism_config_cp_size": ranks.sequence_parts,
        "parallelism_config.parallelism_config_cp_comm_strategy": ranks.rotated,
        **free(_HERE / "accelerate.toml"),
    },
    under=free(_HERE / "accelerate.toml", "under"),
)


def _enabled(value: Any, document: Document) -> Meaning:
    """ "auto" is what the trainer's file says."""
    return NO_EFFECT if value == "auto" or is_off(value) else Meaning({"precision": "amp"})


def _number(option: str) -> Any:
    def read(value: Any, document: Document) -> Meaning:
        return NO_EFFECT if value == "auto" else Meaning({option: size(value)})

    return read


DEEPSPEED = Framework(
    name="deepspeed",
    title="DeepSpeed",
    marks=frozenset({"zero_optimization.stage", "zero_optimization", "train_batch_size"}),
    keys={
        "zero_optimization.stage": ranks.zero_stage,
        "zero_optimization.overlap_comm": ranks.second_bucket,
        "zero_optimization.stage3_max_live_parameters": ranks.usual_number(1e9, _OWN_LIMITS),
        "zero_optimization.stage3_max_reuse_distance": ranks.usual_number(1e9, _OWN_LIMITS),
        "zero_optimization.stage3_param_persistence_threshold": ranks.usual_number(
            1e5, _OWN_LIMITS
        ),
        "zero_optimization.sub_group_size": ranks.usual_number(1e9, _OWN_LIMITS),
        "zero_optimization.reduce_bucket_size": ranks.reduce_bucket,
        "zero_optimization.offload_optimizer.device": _OPTIMIZER,
        "zero_optimization.offload_param.device": _PARAM,
        "zero_optimization.cpu_offload": _OPTIMIZER,
        "zero_optimization.cpu_offload_param": _PARAM,
        "train_micro_batch_size_per_gpu": _number("batch_size"),
        "gradient_accumulation_steps": _number("accumulation"),
        "bf16.enabled": _enabled,
        "fp16.enabled": no_effect,
        "tensor_parallel.autotp_size": lambda value, document: (
            not_modelled("tensor parallelism", "too high") if number(value) > 1 else NO_EFFECT
        ),
        "compile.deepcompile": missing("DeepCompile", "either way"),
        **free(_HERE / "deepspeed.toml"),
    },
    under={
        **free(_HERE / "deepspeed.toml", "under"),
        "activation_checkpointing.": missing("DeepSpeed's own checkpointing", "either way"),
    },
)
