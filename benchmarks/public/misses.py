"""What is known of the rows that predictions miss most, in words that the package shows beside
them."""

from collections.abc import Mapping

_INDUCTOR = (
    "layers between checkpoints are replayed one operation at a time, where torch.compile's kept"
    " less"
)
_SHORT_QWEN = (
    "at so few tokens the step is the host's, whose launches are timed by the other models' rows"
    " alone; the table is rounded to a tenth of a second"
)
MEMORY_MISSES: Mapping[str, str] = {"torchtune-flags:4": _INDUCTOR}
"""Graded peaks beyond the interval, by id."""
STEP_MISSES: Mapping[str, str] = dict.fromkeys(
    (
        "qwen:1.8B:LoRA:256",
        "qwen:1.8B:LoRA:512",
        "qwen:1.8B:LoRA:1024",
        "qwen:1.8B:LoRA (emb):256",
        "qwen:1.8B:LoRA (emb):512",
        "qwen:7B:LoRA:256",
        "qwen:7B:LoRA:512",
        "qwen:7B:LoRA (emb):512",
        "qwen:7B:LoRA (emb):1024",
        "qwen:14B:LoRA:256",
        "qwen:14B:LoRA (emb):256",
    ),
    _SHORT_QWEN,
)
"""Steps beyond the 90th percentile of errors without their model, by id."""
