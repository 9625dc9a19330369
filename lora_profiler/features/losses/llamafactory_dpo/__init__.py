"""LLaMA-Factory's DPO (0.9.6): `train/dpo/trainer.py`."""

from lora_profiler.question.loss import LossFacts

FEATURE = LossFacts(
    title="LLaMA-Factory's DPO",
    assumption=(
        "The llamafactory-dpo loss: LLaMA-Factory 0.9.6's for pairs, all logits in float32, twice."
        " The reference runs while the policy's tensors are kept."
    ),
    logits="logits and log-probabilities in float32, of the policy and the reference",
    after_forward=True,
    of_all_logits=True,
    has_reference=True,
    narrow_reference=True,
)
