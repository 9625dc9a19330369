"""torchtune's LinearCrossEntropyLoss (0.7, bd2a0fc)."""

from typing import Any

from lora_profiler.features.losses._torchtune import CHUNKS, divides, refusals
from lora_profiler.question.loss import LossFacts, Spelling

__all__ = ["FEATURE", "refusals", "regime"]
FEATURE = LossFacts(
    title="torchtune's LinearCrossEntropyLoss",
    assumption=(
        "The torchtune loss: torchtune 0.7's LinearCrossEntropyLoss, logits of an eighth of the"
        " labelled tokens at a time. All float32 log-probabilities stay until backward."
    ),
    logits="log-probabilities of all labels' tokens in float32, and the logits of an eighth",
    after_forward=True,
    spelled={"torchtune": Spelling(component="torchtune.modules.loss.LinearCrossEntropyLoss")},
)


def regime(workload: Any, head: Any, batch: Any, seq: Any, sequences: Any) -> Any:
    """Sequences of a row times eight, and what is left when the labelled tokens are parted in
    eight; minus the tokens, and one, where no polynomial is a part of them."""
    tokens = batch * (seq - sequences)
    return CHUNKS * sequences + tokens % CHUNKS if divides(head) else -tokens - 1
