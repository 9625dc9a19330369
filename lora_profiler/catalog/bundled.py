"""The models whose facts ship with the package: `data/models.json`, one line a model, with the source of every count."""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from lora_profiler.catalog.config import data_text
from lora_profiler.errors import did_you_mean, nearest


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
def rows() -> list[dict[str, Any]]:
    """The lines of the data file, one a model."""
    table: list[dict[str, Any]] = json.loads(data_text("models.json"))["models"]
    return table


@cache
def facts() -> dict[str, dict[str, Any]]:
    """Lower-case id or alias -> the model's line in the data file; aliases come after all ids."""
    by_name = {row["id"].lower(): row for row in rows()}
    for row in rows():
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
        for row in rows()
    )


def similar_names(name: str) -> str:
    """' Did you mean ...?' with bundled ids and aliases close to `name`, or ''. A bare name is compared with bare names."""
    ids = [spelling for row in rows() for spelling in (row["id"], *row["aliases"])]
    if "/" in name:
        return did_you_mean(name, ids)
    by_tail = {full.rsplit("/", 1)[-1].lower(): full for full in reversed(ids)}
    close = [by_tail[tail] for tail in nearest(name, by_tail)]
    return f" Did you mean {', '.join(close)}?" if close else ""
