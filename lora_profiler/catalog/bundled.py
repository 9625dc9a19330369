"""The models whose facts ship with the package: `data/models.json`, one line a model, with the source of every count."""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from lora_profiler.catalog.config import data_text


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One bundled model. `num_parameters` is transformers' own count of `architecture`, tied weights once.

    `aliases` are ids of models with the same config; `source` is where the config comes from, `published_source` where
    `published_num_parameters` stands; `verification` compares the two counts (meanings: `about` in the data file).
    `dtype` is that of the published checkpoint, None where its config.json states none.
    """

    id: str
    aliases: tuple[str, ...]
    model_type: str
    architecture: str
    gated: bool
    dtype: str | None
    num_parameters: int
    published_num_parameters: int | None
    published_source: str | None
    verification: str
    source: str


@cache
def facts() -> dict[str, dict[str, Any]]:
    """Lower-case id or alias -> the model's line in the data file; aliases come after all ids."""
    rows = json.loads(data_text("models.json"))["models"]
    by_name = {row["id"].lower(): row for row in rows}
    for row in rows:
        for alias in row["aliases"]:
            by_name.setdefault(alias.lower(), row)
    return by_name


def bundled_models() -> tuple[CatalogEntry, ...]:
    """Every bundled model, in the order of the data file: by type, then size."""
    return tuple(
        CatalogEntry(
            id=row["id"],
            aliases=tuple(row["aliases"]),
            model_type=row["model_type"],
            architecture=row["architecture"],
            gated=row["gated"],
            dtype=row["dtype"],
            num_parameters=row["num_parameters"],
            published_num_parameters=row["published_num_parameters"],
            published_source=row["published_source"],
            verification=row["verification"],
            source=row["source"],
        )
        for name, row in facts().items()
        if name == row["id"].lower()
    )


def bundled_names() -> tuple[str, ...]:
    """Ids and aliases as they are written, for suggestions."""
    return tuple(name for row in facts().values() for name in (row["id"], *row["aliases"]))
