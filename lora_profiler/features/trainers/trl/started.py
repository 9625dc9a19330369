"""`trl sft ...` and TRL's scripts, whose names have the task. Source: trl 1.16 `cli/`."""

from lora_profiler.trainer_files.commands import Started

_OF_8 = {"mixed_precision": "bf16", "num_processes": 8}
_FSDP = {"distributed_type": "FSDP", **_OF_8}
STARTED = Started(
    framework="trl",
    accelerate_files={  # trl/accelerate_configs
        "single_gpu": {"distributed_type": "NO", "mixed_precision": "bf16"},
        "multi_gpu": {"distributed_type": "MULTI_GPU", **_OF_8},
        "fsdp1": {**_FSDP, "fsdp_config.fsdp_version": 1},
        "fsdp2": {**_FSDP, "fsdp_config.fsdp_version": 2},
        **{
            f"zero{stage}": {
                "distributed_type": "DEEPSPEED",
                "deepspeed_config.zero_stage": stage,
                **_OF_8,
            }
            for stage in (1, 2, 3)
        },
    },
    tasks=(
        "sft", "dpo", "grpo", "kto", "orpo", "cpo", "reward", "rloo", "gkd", "online_dpo", "ppo",
    ),
)  # fmt: skip
