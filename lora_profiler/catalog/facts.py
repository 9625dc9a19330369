"""`data/models.json`: what is known of the bundled models, one line a model, with the source of
every count."""

import json
from functools import cache
from typing import Any

from lora_profiler.catalog.config import data_text
from lora_profiler.errors import did_you_mean, nearest


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
