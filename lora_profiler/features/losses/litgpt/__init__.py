"""LitGPT's chunked_cross_entropy (0.5.13, 2685705)."""

from typing import Any

from lora_profiler.question.loss import LossFacts

ROWS = 128
"""LitGPT's `lm_head_chunk_size` under LoRA, and the default `chunk_size` of its loss."""
FEATURE = LossFacts(
    title="LitGPT's chunked_cross_entropy",
    assumption=(
        "The litgpt loss: LitGPT 0.5.13's chunked_cross_entropy, float32 logits. Log-probabilities"
        " stay until backward; under LoRA 128 tokens at a time."
    ),
    logits="logits in float32 where they are held, and log-probabilities in float32",
    after_forward=True,
)


def regime(workload: Any, head: Any, batch: Any, seq: Any, sequences: Any) -> Any:
    """Parts of a row that the head takes, times two, and one more where the last one is the row's
    last token; in full fine-tuning minus the parts of all rows that the loss takes."""
    if workload.setup.lora is None:
        return -(batch * (seq - 1)) // ROWS - (seq == 1)
    return 2 * -(-seq // ROWS) + (seq % ROWS == 1) * (seq > 1)
