"""LLaMA-Factory's KTO (0.9.6): `train/kto/trainer.py`."""

from lora_profiler.question.loss import LossFacts

FEATURE = LossFacts(
    title="LLaMA-Factory's KTO",
    assumption=(
        "The llamafactory-kto loss: LLaMA-Factory 0.9.6's KTO, all logits in float32. Policy,"
        " reference, and reference over other prompts' answers, all at once."
    ),
    logits="logits in float32 of both models, and log-probabilities",
    after_forward=True,
    of_all_logits=True,
    has_reference=True,
    narrow_reference=True,
)
