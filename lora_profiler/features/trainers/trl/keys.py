"""TRL's files; scripts with PEFT and Unsloth's notebooks have its keys too."""

from lora_profiler.features.trainers._trl_keys import TRL as FRAMEWORK

__all__ = ["FRAMEWORK"]
