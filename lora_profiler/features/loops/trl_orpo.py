"""TRL's ORPOTrainer (1.16 `experimental/orpo/orpo_trainer.py`), which makes ids, masks and labels
of both answers for a pass (concatenated_inputs)."""

from lora_profiler.question.loop import LoopFacts

FEATURE = LoopFacts(3, 4, 8, pass_columns=3, by_accelerate=True)
