"""TRL's KTOTrainer (1.16 `kto_trainer.py`). Rows are desirable or not. Beside the reference, both
models run over answers that belong to other prompts (_compute_kl_logps)."""

from lora_profiler.question.loop import LoopFacts

FEATURE = LoopFacts(6, 4, 4, row_bytes=1, compares=True, passes_beside=3, by_accelerate=True)
