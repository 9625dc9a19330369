"""LLaMA-Factory 0.9.6, over transformers 5.6: the count, an int64, since its SFT trainer leaves
model_accepts_loss_kwargs as it is, and the running loss; in a pass the loss of the step before, and
this one's undivided. Held against its own code by `benchmarks/rehearsed/frameworks.py`."""

from lora_profiler.question.loop import LoopFacts

FEATURE = LoopFacts(3, 12, 8, by_accelerate=True, keeps_dtype=True)
