"""Log-softmax of the policy's logits, then of the reference's."""

from lora_profiler.features.losses._all_logits import with_reference as price

__all__ = ["price"]
