"""TRL's GRPOTrainer (1.16 `grpo_trainer.py`). Its columns are the ids and masks of a step's
completions; for a pass it puts prompts and completions together, and makes labels of them
(_compute_loss). vLLM's log-probabilities correct the loss (_generate_and_score_completions)."""

from lora_profiler.question.loop import LoopFacts

FEATURE = LoopFacts(
    2, 4, 4, pass_columns=3, generates=True, corrects_generated=True, by_accelerate=True
)
