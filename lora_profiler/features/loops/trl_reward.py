"""TRL's RewardTrainer (1.16 `reward_trainer.py`)."""

from lora_profiler.question.loop import LoopFacts

FEATURE = LoopFacts(2, 4, 4, by_accelerate=True)
