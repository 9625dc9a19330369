"""Real text as token ids, by the tokenizer that belongs to the weights."""

from pathlib import Path

import torch

from lora_profiler._common.files import read_regular
from lora_profiler.errors import UsageError
from lora_profiler.modeling.third_party import quiet, refusals, require

MOST_BYTES = 64_000_000
"""Of a text; what follows is not read."""


def text_tokens(path: str, weights: str) -> torch.Tensor:
    """The token ids of a text file, 1-D int64, without special tokens.

    weights: a folder with a tokenizer, a GGUF file, which holds its own, or a hub id. Raises
    UsageError for a text that cannot be read, UnbuildableError for a tokenizer that cannot be had.
    """
    try:
        text = read_regular(Path(path).expanduser(), MOST_BYTES).decode("utf-8", errors="replace")
    except OSError as e:
        raise UsageError(f"the text {path} cannot be read: {e.strerror}.") from None
    require("transformers", '"lora-profiler[measure]"', "A tokenizer")
    from transformers import AutoTokenizer

    source, options = weights, {}
    if weights.endswith(".gguf"):
        require("gguf", "gguf", "Reading a GGUF file")
        source, options = str(Path(weights).expanduser().parent), {"gguf_file": Path(weights).name}
    with quiet(), refusals(f"no tokenizer could be loaded from {weights}"):
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        return torch.tensor(
            tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.int64
        )
