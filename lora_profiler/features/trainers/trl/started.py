"""`trl sft ...` and TRL's scripts, whose names have the task. Source: trl 1.16 `cli/`."""

from lora_profiler.trainer_files.commands import Started

STARTED = Started(
    framework="trl",
    tasks=(
        "sft", "dpo", "grpo", "kto", "orpo", "cpo", "reward", "rloo", "gkd", "online_dpo", "ppo",
    ),
)  # fmt: skip
