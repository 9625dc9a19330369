"""TRL's SFTTrainer (1.16 `sft_trainer.py`), held against its own code by
`benchmarks/rehearsed/trainers.py`, as TRL's other loops are."""

from lora_profiler.question.loop import LoopFacts

FEATURE = LoopFacts(3, 8, 4, held_in_parts=True, by_accelerate=True)
