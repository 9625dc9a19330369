"""What is known of the rows that predictions miss most, in words that the package shows beside
them."""

from collections.abc import Mapping

_INDUCTOR = (
    "layers between checkpoints are replayed one operation at a time, where torch.compile's kept"
    " less"
)
_SHORT_QWEN = (
    "at so few tokens three quarters of the step are the host's, of which nothing is published; it"
    " was slower than assumed"
)
_FULL_QWEN = (
    "this model in full alone is slower in the prediction; the same table has steps of 1,024 and"
    " 2,048 tokens take equally long; what ran is not known"
)
_LONG_QWEN = (
    "the error grows with the length: attention is given one share of the peak at all lengths"
)
_SANTACODER = "not understood; this model's memory is not either"
MEMORY_MISSES: Mapping[str, str] = {"torchtune-flags:4": _INDUCTOR}
"""Graded peaks beyond the interval, by id."""
STEP_MISSES: Mapping[str, str] = {
    "qwen:1.8B:LoRA:1024": _SHORT_QWEN,
    "qwen:1.8B:LoRA (emb):1024": _SHORT_QWEN,
    "qwen:1.8B:Full-parameter:8192": _FULL_QWEN,
    "qwen:1.8B:Full-parameter:4096": _FULL_QWEN,
    "qwen:7B:LoRA:8192": _LONG_QWEN,
    "qwen:7B:LoRA (emb):8192": _LONG_QWEN,
    "fms:refs_a100_80gb.csv:70": _SANTACODER,
    "fms:refs_a100_80gb.csv:74": _SANTACODER,
}
"""Steps beyond the 90th percentile of errors without their model, by id."""
