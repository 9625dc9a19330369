"""LLaMA-Factory's ORPO and SimPO (0.9.6): `train/dpo/trainer.py`."""

from lora_profiler.question.loss import LossFacts

FEATURE = LossFacts(
    title="LLaMA-Factory's ORPO and SimPO",
    assumption=(
        "The llamafactory-orpo loss is LLaMA-Factory 0.9.6's of pairs without a reference, ORPO's"
        " or SimPO's: all logits in float32, and their log-probabilities."
    ),
    logits="logits and log-probabilities in float32",
    after_forward=True,
    of_all_logits=True,
)
