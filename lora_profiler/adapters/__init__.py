"""What PEFT trains for a LoRA configuration, worked out from names and shapes alone."""

from lora_profiler.adapters.matching import Adapter, adapters
from lora_profiler.adapters.refusal import RefusedTargetsError
from lora_profiler.adapters.saved import saved_modules

__all__ = ["Adapter", "RefusedTargetsError", "adapters", "saved_modules"]
