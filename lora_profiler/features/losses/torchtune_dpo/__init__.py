"""torchtune's DPO (0.7): `recipes/lora_dpo_single_device.py`."""

from lora_profiler.question.loss import LossFacts

FEATURE = LossFacts(
    title="torchtune's DPO",
    assumption=(
        "The torchtune-dpo loss is torchtune 0.7's of pairs: all logits in float32 and their"
        " log-probabilities; the reference's logits have a name until the next forward pass is"
        " over."
    ),
    logits="float32 logits and log-probabilities, with the reference's logits",
    after_forward=True,
    of_all_logits=True,
    has_reference=True,
)
