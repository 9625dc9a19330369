"""TRL's DPOTrainer (1.16 `dpo_trainer.py`), which does not count the items of a batch."""

from lora_profiler.question.loop import LoopFacts

FEATURE = LoopFacts(3, 4, 4, compares=True, by_accelerate=True)
