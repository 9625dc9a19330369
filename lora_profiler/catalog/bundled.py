"""The bundled models: `data/models.json`, one line a model with the source of every count, and the
list to look through."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from lora_profiler.catalog.config import data_text
from lora_profiler.errors import did_you_mean, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One bundled model. `num_parameters` is transformers' own count of `architecture`, tied
    weights once.

    `aliases` are ids of models with the same config; `source` is where the config comes from,
    `published_source` where `published_num_parameters` stands; `verification` compares the two
    counts (meanings: `about` in the data file). `dtype` is that of the published checkpoint, None
    where its config.json states none; `checkpoint_quantization` is its quant_method where it is
    stored quantised.
    """

    id: str
    aliases: tuple[str, ...]
    model_type: str
    architecture: str
    gated: bool
    dtype: str | None
    checkpoint_quantization: str | None
    num_parameters: int
    published_num_parameters: int | None
    published_source: str | None
    verification: str
    source: str


def bundled_models() -> tuple[CatalogEntry, ...]:
    """Every bundled model, in the order of the data file: by type, then size.

    Examples:
        >>> from lora_profiler import bundled_models
        >>> "openai-community/gpt2" in {entry.id for entry in bundled_models()}
        True
    """
    names = [f.name for f in fields(CatalogEntry)]
    made: Iterator[dict[str, Any]] = ({name: row.get(name) for name in names} for row in rows())
    return tuple(CatalogEntry(**{**each, "aliases": tuple(each["aliases"])}) for each in made)


# --- the data file --------------------------------------------------------------------------------


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


@cache
def bare_names() -> dict[str, dict[str, Any]]:
    """Lower-case id without its organisation -> the model's line, where it is the only model called
    so."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows():
        by_name.setdefault(row["id"].rpartition("/")[2].lower(), []).append(row)
    return {name: models[0] for name, models in by_name.items() if len(models) == 1}


def similar_names(name: str) -> str:
    """' Did you mean ...?' with bundled ids and aliases close to `name`, or ''. A bare name is
    compared with bare names."""
    ids = [spelling for row in rows() for spelling in (row["id"], *row["aliases"])]
    if "/" in name:
        return did_you_mean(name, ids)
    by_tail = {full.rsplit("/", 1)[-1].lower(): full for full in reversed(ids)}
    close = [by_tail[tail] for tail in nearest(name, by_tail)]
    return f" Did you mean {', '.join(close)}?" if close else ""
