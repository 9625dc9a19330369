"""The bundled models, and the list to look through: `data/models.json`, one line a model with the
source of every count, `data/shapes.json` and `data/vision.json`."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from lora_profiler.catalog.config import data_line, data_text
from lora_profiler.errors import did_you_mean, nearest
from lora_profiler.model_spec import Module, Stack, Weight


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


# --- models.json ----------------------------------------------------------------------------------


@cache
def _lines() -> list[str]:
    return [line for line in data_text("models.json").splitlines() if line.startswith('{"id"')]


@cache
def _row(place: int) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(_lines()[place].rstrip(","))
    return row


def rows() -> list[dict[str, Any]]:
    """The lines of the data file, one a model."""
    return [_row(place) for place in range(len(_lines()))]


class Facts(Mapping[str, dict[str, Any]]):
    """Lower-case id or alias -> the model's line in the data file, read when it is asked for;
    aliases come after all ids."""

    def __init__(self) -> None:
        names = [_names(line) for line in _lines()]
        self._places = {id.lower(): place for place, (id, _) in enumerate(names)}
        for place, (_, aliases) in enumerate(names):
            for alias in aliases:
                self._places.setdefault(alias.lower(), place)

    def __getitem__(self, name: str) -> dict[str, Any]:
        return _row(self._places[name])

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def is_one(self, a: str, b: str) -> bool:
        """Whether two names are of one model."""
        return self._places[a] == self._places[b]


def _names(line: str) -> tuple[str, list[str]]:
    """Id and aliases, with which a line of the data file begins."""
    quoted = line[: line.index("]")].split('"')[1::2]
    return quoted[1], quoted[3:]


@cache
def facts() -> Facts:
    return Facts()


@cache
def bare_names() -> dict[str, str]:
    """Lower-case id without its organisation -> the id, lower-case too, where it is the only model
    called so."""
    by_name: dict[str, list[str]] = {}
    for line in _lines():
        id = _names(line)[0].lower()
        by_name.setdefault(id.rpartition("/")[2], []).append(id)
    return {name: ids[0] for name, ids in by_name.items() if len(ids) == 1}


def similar_names(name: str) -> str:
    """' Did you mean ...?' with bundled ids and aliases close to `name`, or ''. A bare name is
    compared with bare names."""
    ids = [spelling for id, aliases in map(_names, _lines()) for spelling in (id, *aliases)]
    if "/" in name:
        return did_you_mean(name, ids)
    by_tail = {full.rsplit("/", 1)[-1].lower(): full for full in reversed(ids)}
    close = [by_tail[tail] for tail in nearest(name, by_tail)]
    return f" Did you mean {', '.join(close)}?" if close else ""


# --- shapes.json, vision.json ---------------------------------------------------------------------


Described = tuple[tuple[Module | Stack, ...], str | None, tuple[str, ...]]
"""(parts, output embedding, weightless modules)"""


def table(id: str) -> Described:
    """The weights of the bundled model called `id`, which is in `data/shapes.json`: one of those
    whose family is not declared in `architectures`.

    One line a model: `{"output": name, "weightless": [name], "parts": [part]}`. A part is a module
    `[name, kind, [[weight, shape, tied_to?]]]` or a stack `[name, [kind's modules], [[kind,
    repeats]]]`. Written by `benchmarks/extract_shapes.py` from transformers on the meta device.
    """
    row = data_line("shapes.json", id)
    assert row is not None
    return tuple(_decode(part) for part in row["parts"]), row["output"], tuple(row["weightless"])


def encode(described: Described) -> dict[str, Any]:
    """What `table` reads back."""
    parts, output, weightless = described
    return {
        "output": output,
        "weightless": list(weightless),
        "parts": [_encode(part) for part in parts],
    }


def _encode(part: Module | Stack) -> list[Any]:
    if isinstance(part, Module):
        weights = [
            [w.name, list(w.shape), w.tied_to] if w.tied_to else [w.name, list(w.shape)]
            for w in part.weights
        ]
        return [part.name, part.kind, weights]
    runs: list[list[int]] = []
    for kind in part.order:
        if runs and runs[-1][0] == kind:
            runs[-1][1] += 1
        else:
            runs.append([kind, 1])
    return [part.name, [[_encode(module) for module in kind] for kind in part.kinds], runs]


def _decode(part: list[Any]) -> Module | Stack:
    if isinstance(part[1], list):
        name, kinds, runs = part
        return Stack(
            name=name,
            kinds=tuple(tuple(_module(module) for module in kind) for kind in kinds),
            order=tuple(kind for kind, repeats in runs for _ in range(repeats)),
        )
    return _module(part)


def _module(part: list[Any]) -> Module:
    name, kind, weights = part
    return Module(
        name=name,
        kind=kind,
        weights=tuple(
            Weight(name=w[0], shape=tuple(w[1]), tied_to=w[2] if len(w) > 2 else None)
            for w in weights
        ),
    )


@cache
def vision_rows() -> Mapping[str, Mapping[str, Any]]:
    """Lower-case id, and alias -> the model's line in `data/vision.json`: the config.json of models
    that see, with the parameters that are published of each.

    `text_side` is the bundled model whose sizes the language model has, and whose fields
    `text_config` takes where it has none of its own; it answers about text alone. `aliases` have
    the same sizes. Weights are read off the class that transformers builds.
    """
    rows = json.loads(data_text("vision.json"))["models"]
    return {name.lower(): row for row in rows for name in (row["id"], *row.get("aliases", ()))}


@cache
def seeing_tails() -> Mapping[str, Mapping[str, Any]]:
    """The same by the name alone, without its owner."""
    return {name.rpartition("/")[2]: row for name, row in vision_rows().items()}


def vision_config(id: str) -> dict[str, Any]:
    """The config.json of the model called `id`, which is one of `vision_rows`."""
    row = vision_rows()[id.lower()]
    config: dict[str, Any] = dict(row["config"])
    if "text_side" in row:
        text = facts()[row["text_side"].lower()]["config"]
        config["text_config"] = {**text, **config["text_config"]}
        config["tie_word_embeddings"] = text["tie_word_embeddings"]
    return config
