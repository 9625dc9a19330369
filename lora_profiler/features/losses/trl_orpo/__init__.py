"""TRL's experimental ORPOTrainer (1.16)."""

from typing import Any

from lora_profiler.question.loss import LossFacts

FEATURE = LossFacts(
    title="TRL's ORPO",
    assumption=(
        "The trl-orpo loss: TRL 1.16's experimental ORPOTrainer, all logits in float32."
        " Log-probs of the chosen half, and two gradients of all logits in backward."
    ),
    logits="logits in float32, log-probabilities of the chosen half, and both gradients",
    after_forward=True,
    of_all_logits=True,
)


def doubts(workload: Any) -> dict[str, object]:
    return {"TRL's copy of the prompt, 16 B per token, is left out.": True}
