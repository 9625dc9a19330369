"""The bundled models, and the list to look through: `data/models.json`, one line a model with the
source of every count, `data/shapes.json` and `data/vision.json`; and their other names: mirrors,
tuned versions of the same sizes, NF4 copies, and models that see, whose text side is one of
them."""

import json
import re
from collections.abc import Iterator, Mapping
from csv import DictReader
from dataclasses import replace
from functools import cache
from io import StringIO
from typing import Any, NamedTuple

from lora_profiler.errors import AmbiguousModelError, did_you_mean, nearest
from lora_profiler.facts.catalog.config import data_line, data_text
from lora_profiler.question.model_spec import LayerStack, Module, StoredBase, Weight


class CatalogEntry(NamedTuple):
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
        >>> from lora_profiler.facts.catalog import bundled_models
        >>> "openai-community/gpt2" in {entry.id for entry in bundled_models()}
        True
    """
    names = CatalogEntry._fields
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


class ModelLines(Mapping[str, dict[str, Any]]):
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
def model_lines() -> ModelLines:
    return ModelLines()


@cache
def bare_names() -> dict[str, str]:
    """Lower-case id without its organisation -> the id, lower-case too, where it is the only model
    called so."""
    by_name: dict[str, list[str]] = {}
    for line in _lines():
        id = _names(line)[0].lower()
        by_name.setdefault(id.rpartition("/")[2], []).append(id)
    return {name: ids[0] for name, ids in by_name.items() if len(ids) == 1}


_MOST_NAMED = 8


def named_by_words(text: str) -> str | None:
    """The id of the one bundled model that people call `text`: "qwen2.5 7b" and "llama3.1-8b" have
    the letters of its name, "olmo 7b" and "Llama-3.3-70B" the words of one alone. Raises
    AmbiguousModelError where several have the words, if they are apart."""
    words, is_loose = _words(text), " " in text
    for id, own in _own_words():
        if "".join(own) == "".join(words):
            return id
    fitting = {id: own for id, own in _own_words() if set(words) <= set(own)}
    exact = [id for id, own in fitting.items() if len(own) == len(words)]
    few = exact or list(fitting)
    if len(few) > 1 and is_loose:
        raise _ambiguous(text, few)
    return few[0] if len(few) == 1 else None


def check_family(name: str) -> None:
    """Raises AmbiguousModelError where `name` is part of the names of several bundled models, as
    "mistral" and "gemma-3" are."""
    words = set(_words(name))
    if family := [id for id, own in _own_words() if words <= set(own)]:
        raise _ambiguous(name, family)


def _ambiguous(name: str, ids: list[str]) -> AmbiguousModelError:
    shown = dict.fromkeys(sorted(ids, key=len)[:_MOST_NAMED], "")
    more = f"{len(ids) - len(shown)} more" if len(ids) > len(shown) else ""
    return AmbiguousModelError("model", name, shown, more)


def _own_words() -> Iterator[tuple[str, list[str]]]:
    """Of each bundled model its id, and the words of it without its organisation."""
    for line in _lines():
        id = _names(line)[0]
        yield id, _words(id.rpartition("/")[2])


def _words(name: str) -> list[str]:
    """Lower case; a number behind a name is a word of its own, as in Qwen3 and Gemma 3."""
    apart = re.sub(r"(?<=[a-z]{2})(?=\d)", " ", name.lower())
    return [word for word in re.split(r"[\s/_\-]+", apart) if word]


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


Described = tuple[tuple[Module | LayerStack, ...], str | None, tuple[str, ...]]
"""(parts, output embedding, weightless modules)"""


def table(id: str) -> Described:
    """The weights of the bundled model called `id`, which is in `data/shapes.json`: one of those
    whose family is not declared in `architectures`.

    One line a model: `{"output": name, "weightless": [name], "parts": [part]}`. A part is a module
    `[name, kind, [[weight, shape, tied_to?]]]` or a stack `[name, [kind's modules], [[kind,
    repeats]]]`. Written by `benchmarks/truth/extract_shapes.py` from transformers on the meta
    device.
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


def _encode(part: Module | LayerStack) -> list[Any]:
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


def _decode(part: list[Any]) -> Module | LayerStack:
    if isinstance(part[1], list):
        name, kinds, runs = part
        return LayerStack(
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
        text = model_lines()[row["text_side"].lower()]["config"]
        config["text_config"] = {**text, **config["text_config"]}
        config["tie_word_embeddings"] = text["tie_word_embeddings"]
    return config


# --- other names: mirrors, tuned versions, NF4 copies, models that see ----------------------------


_MIRRORS = frozenset(
    {"unsloth", "nousresearch", "alpindale", "casperhansen", "mistral-community", "axolotl-ai-co"}
    | {"mhenrichsen"}
)
"""Who publish copies of others' models under their own names, config.json unchanged."""
_NF4 = StoredBase(quant_type="nf4", double_quant=True, compute_dtype="bfloat16")
"""As `bnb_4bit_*` stand in the config.json of Unsloth's copies."""
_COPIES = {"-unsloth-bnb-4bit": replace(_NF4, partly=True), "-bnb-4bit": _NF4}
"""Endings of Unsloth's copies, the longer one first: it leaves some layers in 16 bit."""
_AS_LLAMA: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "phi-3-mini-4k-instruct": ("mistral", "MistralForCausalLM", {"sliding_window": 2048}),
    "phi-3-medium-4k-instruct": ("mistral", "MistralForCausalLM", {"sliding_window": 2048}),
    "phi-3.5-mini-instruct": ("llama", "LlamaForCausalLM", {"rope_scaling": None}),
    "phi-4": ("llama", "LlamaForCausalLM", {}),
}
"""Copies of Unsloth's whose q, k and v, gate and up are layers of their own, as in Llama: the type,
class and other fields of their config.json (unsloth/Phi-3-medium-4k-instruct-bnb-4bit@325d62d;
those of tuned versions name the others), and what its notebooks print of them."""
_OF_PHI3 = ("embd_pdrop", "resid_pdrop", "sliding_window")
_SAME_SIZES = {
    "qwen": ("-instruct", "-chat", "-base"), "meta-llama": ("-instruct",), "google": ("-it", "-pt"),
    "mistralai": (), "huggingfacetb": ("-instruct", "-base"), "tiiuae": ("-instruct", "-base"),
    "ibm-granite": ("-instruct", "-base"), "allenai": ("-instruct", "-sft", "-dpo"),
    "01-ai": ("-chat",), "codellama": ("-instruct",), "deepseek-ai": ("-base", "-chat"),
    "microsoft": (),
}  # fmt: skip
"""Endings by which owners tell tuned versions apart; sizes, vocabulary and tying are those of the
model without, or with another ending."""
_RENAMED_BY = (
    _MIRRORS
    | {"qwen", "deepseek-ai", "mistralai", "alignment-handbook", "tinyllama"}
    | {"openlm-research", "openai", "agentica-org", "loubnabnl", "huggingfacetb", "stabilityai"}
)


class Mirrored(NamedTuple):
    """A bundled model's line in the data file, and how the copy is stored where that differs.
    `sees` is the line of the model that sees whose text side it is, where it is one."""

    row: dict[str, Any]
    stored: StoredBase | None
    sees: Mapping[str, Any] | None = None


def mirrored(name: str) -> Mirrored | None:
    """The bundled model that `name`, owner and all, is a copy or a tuned version of; None for any
    other name.

    Examples:
        >>> mirrored("unsloth/llama-3-8b-bnb-4bit").row["id"]
        'meta-llama/Meta-Llama-3-8B'
    """
    owner, slash, tail = name.lower().rpartition("/")
    if not slash:
        return None
    ending = next((end for end in _COPIES if owner == "unsloth" and tail.endswith(end)), "")
    tail, nf4 = tail.removesuffix(ending), _COPIES.get(ending)
    own = vision_rows().get(f"{owner}/{tail}")
    sees = own or (seeing_tails().get(tail) if owner in _MIRRORS else None)
    if sees is not None and "text_side" in sees:
        return Mirrored(model_lines()[sees["text_side"].lower()], nf4, sees)
    row = _original(owner, tail)
    if row is None or (nf4 and "checkpoint_quantization" in row):
        return None
    if owner == "unsloth" and tail in _AS_LLAMA:
        model_type, architecture, fields = _AS_LLAMA[tail]
        config = {k: v for k, v in row["config"].items() if k not in _OF_PHI3} | fields
        row = {**row, "id": f"unsloth/{tail}", "model_type": model_type, "config": config}
        row["architecture"] = architecture
    return Mirrored(row, nf4)


def _original(owner: str, tail: str) -> dict[str, Any] | None:
    if owner in _RENAMED_BY and tail in _renamed():
        return model_lines()[_renamed()[tail].lower()]
    if owner in _MIRRORS:
        name = _tails().get(tail) or _tails().get(f"meta-{tail}")
        return model_lines()[name] if name else None
    for ending in _SAME_SIZES.get(owner, ()):
        if tail.endswith(ending):
            stem = f"{owner}/{tail.removesuffix(ending)}"
            beside = [stem, *(f"{stem}{other}" for other in _SAME_SIZES[owner])]
            return next((model_lines()[each] for each in beside if each in model_lines()), None)
    return None


@cache
def _renamed() -> dict[str, str]:
    """Names, without their owner, of models with the sizes of a bundled one that is called
    something else."""
    return {row["name"]: row["model"] for row in DictReader(StringIO(data_text("renamed.csv")))}


@cache
def _tails() -> dict[str, str]:
    """Names without owner, of tuned versions too -> the whole name, where they mean one model
    alone."""
    tails = dict(bare_names())
    several: set[str] = set()
    for name in model_lines():
        owner, _, tail = name.rpartition("/")
        if not model_lines().is_one(tails.setdefault(tail, name), name):
            several.add(tail)
        for ending in _SAME_SIZES.get(owner, ()):
            stem = tail.removesuffix(ending) if tail.endswith(ending) else tail
            for other in ("", *_SAME_SIZES[owner]):
                if f"{owner}/{stem}{other}" not in model_lines():
                    tails.setdefault(f"{stem}{other}", name)
    return {tail: name for tail, name in tails.items() if tail not in several}
