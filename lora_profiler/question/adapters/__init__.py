"""What PEFT trains for a LoRA configuration, worked out from names and shapes alone."""

from lora_profiler.question.adapters.matching import Adapter, adapters, saved_modules
from lora_profiler.question.adapters.targets import RefusedTargetsError, check_patterns

__all__ = ["Adapter", "RefusedTargetsError", "adapters", "check_patterns", "saved_modules"]
