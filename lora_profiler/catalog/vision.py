"""`data/vision.json`: the config.json of models that see, one line a model, with the parameters
that are published of each.

`text_side` is the bundled model whose sizes the language model has, and whose fields `text_config`
takes where it has none of its own; it answers about text alone. Weights are read off the class that
transformers builds.
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from lora_profiler.catalog.bundled import facts
from lora_profiler.catalog.config import data_text


@cache
def vision_rows() -> Mapping[str, Mapping[str, Any]]:
    """Lower-case id -> the model's line in the data file."""
    return {row["id"].lower(): row for row in json.loads(data_text("vision.json"))["models"]}


def vision_config(id: str) -> dict[str, Any]:
    """The config.json of the model called `id`, which is one of the data file's."""
    row = vision_rows()[id.lower()]
    config: dict[str, Any] = dict(row["config"])
    if "text_side" in row:
        text = facts()[row["text_side"].lower()]["config"]
        config["text_config"] = {**text, **config["text_config"]}
        config["tie_word_embeddings"] = text["tie_word_embeddings"]
    return config
