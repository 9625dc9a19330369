"""`data/vision.json`: the config.json of models that see, one line a model, with the parameters
that are published of each.

`text_side` is the bundled model whose sizes the language model has, and whose fields `text_config`
takes where it has none of its own; it answers about text alone. `aliases` have the same sizes.
Weights are read off the class that transformers builds.
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from lora_profiler.catalog.config import data_text
from lora_profiler.catalog.facts import facts


@cache
def vision_rows() -> Mapping[str, Mapping[str, Any]]:
    """Lower-case id, and alias -> the model's line in the data file."""
    rows = json.loads(data_text("vision.json"))["models"]
    return {name.lower(): row for row in rows for name in (row["id"], *row.get("aliases", ()))}


@cache
def seeing_tails() -> Mapping[str, Mapping[str, Any]]:
    """The same by the name alone, without its owner."""
    return {name.rpartition("/")[2]: row for name, row in vision_rows().items()}


def vision_config(id: str) -> dict[str, Any]:
    """The config.json of the model called `id`, which is one of the data file's."""
    row = vision_rows()[id.lower()]
    config: dict[str, Any] = dict(row["config"])
    if "text_side" in row:
        text = facts()[row["text_side"].lower()]["config"]
        config["text_config"] = {**text, **config["text_config"]}
        config["tie_word_embeddings"] = text["tie_word_embeddings"]
    return config
