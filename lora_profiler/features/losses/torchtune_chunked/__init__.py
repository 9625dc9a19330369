"""torchtune's CEWithChunkedOutputLoss (0.7, bd2a0fc)."""

from typing import Any

from lora_profiler.features.losses._torchtune import CHUNKS, divides, refusals
from lora_profiler.question.loss import LossFacts, Spelling

__all__ = ["FEATURE", "refusals", "regime"]
FEATURE = LossFacts(
    title="torchtune's CEWithChunkedOutputLoss",
    assumption=(
        "The torchtune-chunked loss: torchtune 0.7's CEWithChunkedOutputLoss, all logits, an"
        " eighth in float32 at a time. All log-probabilities stay until backward."
    ),
    logits="all logits or their gradient, and log-probabilities in float32",
    after_forward=True,
    spelled={"torchtune": Spelling(component="torchtune.modules.loss.CEWithChunkedOutputLoss")},
)


def regime(workload: Any, head: Any, batch: Any, seq: Any, sequences: Any) -> Any:
    """Eight, and what is left when the tokens of a row are parted in eight; minus the tokens, and
    one, where no polynomial is a part of them."""
    return CHUNKS + seq % CHUNKS if divides(head) else -seq - 1
