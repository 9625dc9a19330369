"""`find_model`: from what a user typed to a `ModelSpec`, the nearest source first."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from lora_profiler.errors import ModelNotFoundError, UsageError, nearest
from lora_profiler.facts.catalog import config as cfg
from lora_profiler.facts.catalog.architectures import FAMILIES
from lora_profiler.facts.catalog.bundled import (
    bare_names,
    check_family,
    mirrored,
    model_lines,
    named_by_words,
    rows,
    similar_names,
    vision_config,
    vision_rows,
)
from lora_profiler.facts.catalog.quantized import checked_base, scheme, stored
from lora_profiler.question.model_spec import HEADLESS, LENGTHS, ModelSpec, TextSide, is_headless

if TYPE_CHECKING:
    from lora_profiler.facts.catalog.bundled import Described

_HUB_URL = r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<id>[^/?#]+(?:/[^/?#]+)?)(?:/(?:tree|blob|resolve)/(?P<rev>[^/?#]+))?"
_NO_WEIGHTS = (
    r"dropout|pdrop|_eps$|epsilon|rope|rotary|theta|^hidden_act|activation_function|_token|use_cache|dtype|initializer|"
    r"softcapping|sliding_window|chunk|scaling|_coef|model_type|architectures|quantization_config|auto_map|attn_implementation"
)
"""Fields that no weight depends on, so that two models may differ in them and share one table.
Patterns are compiled on use."""
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
"""Fields that every answer asks for; some config classes work them out and declare none."""
_MODEL_ID = r"[\w.\-]{1,96}(?:/[\w.\-]{1,96})?"
_OF_SENTENCES = "modules.json"
"""The file in which sentence-transformers lists a model and its pooling."""
_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")
MAX_CONFIG_BYTES = 16_000_000


def as_model(model: ModelSpec | str) -> ModelSpec:
    """The model itself, or the one called so. Raises what `find_model` raises."""
    return find_model(model) if isinstance(model, str) else model


def find_model(
    name: str, *, revision: str = "main", offline: bool = False, on_disk: bool = True
) -> ModelSpec:
    """The model called `name`: a hub id, a hub URL, an alias, a folder, a path to a config.json, or
    words that name one bundled model, as in "qwen2.5 7b".

    Looked for among the bundled models, on the disk, among the bundled ones without their
    organisation's name, among their mirrors, in the local Hugging Face cache, on the hub
    (config.json only; not if `offline`). A bundled id at another `revision` than main is not the
    bundled one and goes to the cache and the hub. Without `on_disk` no name is taken for a path, as
    where names come from links. Remote code is never run.

    Raises ModelNotFoundError or UnsupportedModelError with the next step, UsageError for an empty
    name.

    Examples:
        >>> from lora_profiler import find_model
        >>> model = find_model("gpt2")
        >>> model.num_parameters
        124439808
    """
    name = name.strip()
    if not name or "\0" in name:
        raise UsageError(
            "The model's name is empty; give a hub id such as meta-llama/Llama-3.1-8B, or a"
            " config.json."
        )
    if ".co/" in name and (url := re.match(_HUB_URL, name)):
        name, revision = url["id"], url["rev"] or revision
    row = model_lines().get(name.lower())
    if row is not None and revision == "main":
        return _bundled(row)
    path = _local_config(name) if on_disk else None
    if path is not None:
        raw = cfg.parse(_read(path), path)
        if os.path.isfile(os.path.join(os.path.dirname(path), _OF_SENTENCES)):
            raw = _embedding(raw)
        return model_from_config(raw, id=_local_id(path), source=path)
    named = bare_names().get(name.lower())
    if named is not None and revision == "main":
        return _bundled(model_lines()[named])
    copy = mirrored(name) if revision == "main" else None
    if copy is not None:
        spec = _bundled(copy.row)
        if copy.sees is not None:
            seeing, whole = copy.sees, partial(seeing_model, copy.sees["id"])
            side = TextSide(name, seeing["config"]["model_type"], seeing["num_parameters"], whole)
            spec = replace(spec, text_side_of=side)
        if copy.stored is None:
            return spec
        return replace(spec, stored=copy.stored, dtype=copy.stored.compute_dtype)
    sees = vision_rows().get(name.lower()) if revision == "main" else None
    if sees is not None:
        return seeing_model(sees["id"])
    if revision == "main" and "/" not in name and (called := named_by_words(name)) is not None:
        return _bundled(model_lines()[called.lower()])
    if not re.fullmatch(_MODEL_ID, name):
        here = "neither a file or folder here nor" if on_disk else "not"
        raise ModelNotFoundError(
            f"{name!r} is {here} a hub id of the form organisation/name.{similar_names(name)}"
        )
    from lora_profiler.facts.catalog.hub import config_json, is_cached

    try:
        text = config_json(name, revision=revision, offline=offline, max_bytes=MAX_CONFIG_BYTES)
    except ModelNotFoundError as e:
        if not (on_disk and os.path.isdir(name)):
            check_family(name)
            raise
        raise type(e)(f"{e} Here, {_no_config(name)}") from None
    raw = cfg.parse(text, f"config.json of {name}")
    if is_cached(name, _OF_SENTENCES, revision) or "embedding" in name.lower():
        raw = _embedding(raw)
    return model_from_config(raw, id=name, source="hub")


def _embedding(raw: cfg.Raw) -> cfg.Raw:
    """A config.json as sentence-transformers reads it, which loads no head."""
    named = _architecture(raw, "") or ""
    if is_headless(named) or named.endswith(_CLASSIFIERS):
        return raw
    return {**raw, "architectures": [HEADLESS]}


@lru_cache(maxsize=8)
def seeing_model(name: str) -> ModelSpec:
    """The model of `data/vision.json` called `name`, vision tower and all. Raises
    UnsupportedModelError without torch and transformers, which tell its weights."""
    return model_from_config(vision_config(name), id=name, source="bundled")


def model_from_config(raw: Mapping[str, Any], *, id: str, source: str) -> ModelSpec:
    """The model that a config.json describes. `source` is kept in the spec and names the file in
    messages.

    Raises ModelNotFoundError for a config.json that is no such thing, UnsupportedModelError where
    nothing installed here knows what weights it has, or how training goes on them as they are
    stored.
    """
    where = f"config.json of {id}" if source in ("hub", "bundled") else source
    model_type = cfg.model_type(raw, where)
    architecture = _architecture(raw, where)
    checkpoint = stored(raw, where, lambda: _quantized_from(raw, architecture, id))
    spec = _from_config(raw, id, source, where, model_type, architecture)
    if checkpoint is None:
        return spec
    base = checked_base(spec, checkpoint, where)
    return replace(spec, stored=base, dequantized_from=checkpoint.dequantized_from)


def _from_config(
    raw: Mapping[str, Any],
    id: str,
    source: str,
    where: str,
    model_type: str,
    architecture: str | None,
) -> ModelSpec:
    """The model that a config.json describes, whatever it says of how its weights are stored."""
    dtype = cfg.dtype(raw, where)
    if model_type in FAMILIES and "text_config" not in raw and _is_language_model(architecture):
        config = cfg.normalise(raw, where, strict=True)
        if not config.get("add_cross_attention"):
            family = cfg.class_defaults(model_type)
            named, weightless = family["architecture"], tuple(family["weightless"])
            described: Described = FAMILIES[model_type](config), "lm_head", weightless
            if is_headless(architecture):
                described, named = _without_head(described), HEADLESS
                raw = {**raw, "architectures": [HEADLESS]}
            return _spec(id, model_type, named, source, dtype, config, described, raw)
    row = next(_bundled_twins(raw, architecture), None)
    if row is not None:
        return _from_table(row, raw, id, source, dtype)
    from lora_profiler.facts.catalog.meta_build import build, describe

    config = cfg.normalise(cfg.language_model(raw, where), where, strict=False)
    model = build(raw, where)
    built = model.config.get_text_config()
    for name in (*_SIZES, *LENGTHS):
        if hasattr(built, name):
            config[name] = getattr(built, name)
    return _spec(id, model_type, type(model).__name__, source, dtype, config, describe(model), raw)


def _without_head(described: "Described") -> "Described":
    """A family's body alone, whose modules are named from there on."""
    parts, head, weightless = described
    body = [part for part in parts if part.name != head]
    prefix = f"{body[0].name.partition('.')[0]}."

    def bare(name: str) -> str:
        return name.removeprefix(prefix)

    return (
        tuple(replace(part, name=bare(part.name)) for part in body),
        None,
        tuple(map(bare, weightless)),
    )


def _bundled(row: Mapping[str, Any]) -> ModelSpec:
    raw = _as_config_json(row)
    if raw["model_type"] in FAMILIES:
        spec = model_from_config(raw, id=row["id"], source="bundled")
    else:
        spec = _from_table(row, raw, row["id"], "bundled", row["dtype"])
    if "checkpoint_quantization" not in row:
        return spec
    return replace(spec, dequantized_from=scheme(row["checkpoint_quantization"]))


def _from_table(
    row: Mapping[str, Any], raw: Mapping[str, Any], id: str, source: str, dtype: str | None
) -> ModelSpec:
    """The model of `raw` with the weights of the bundled one in `row`, under the type by which
    transformers builds that."""
    from lora_profiler.facts.catalog.bundled import table

    model_type = row.get("transformers_model_type") or row["model_type"]
    # what `raw` calls it does not count
    language_type = row["config"].get("text_config", {}).get("model_type", model_type)
    language = cfg.language_model(raw, id)
    config = cfg.normalise({**language, "model_type": language_type}, id, strict=False)
    for name in _SIZES:
        if name in language:
            config.setdefault(name, language[name])
    return _spec(id, model_type, row["architecture"], source, dtype, config, table(row["id"]), raw)


def _as_config_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A bundled model's facts as its config.json would have them, under the type by which
    transformers builds it."""
    model_type = row.get("transformers_model_type") or row["model_type"]
    return {
        "model_type": model_type,
        "architectures": [HEADLESS if row.get("is_embedding") else row["architecture"]],
        "dtype": row["dtype"],
        **row["config"],
    }


def _bundled_twins(raw: Mapping[str, Any], architecture: str | None) -> Iterator[Mapping[str, Any]]:
    """The bundled models with the same type, class and fields, whose tables hold for `raw` as
    well."""
    for row in rows():
        same_type = raw["model_type"] in (row["model_type"], row.get("transformers_model_type"))
        if (
            same_type
            and architecture in (None, row["architecture"])
            and _same_weights(raw, _as_config_json(row))
        ):
            yield row


def _quantized_from(raw: Mapping[str, Any], architecture: str | None, id: str) -> str | None:
    """The bundled model that `id`, which is stored quantised, may have been made from: of the same
    sizes, the nearest by name."""
    twins = [row["id"] for row in _bundled_twins(raw, architecture)]
    return next(iter([*nearest(id, twins, 1), *twins]), None)


def _same_weights(raw: Mapping[str, Any], twin: Mapping[str, Any]) -> bool:
    """Whether two config.json of one type agree in every field that can change a weight, class
    defaults filled in."""
    family = cfg.class_defaults(str(twin.get("model_type")))
    known = {family["renamed"].get(name, name) for name in {*family["fields"], *twin}}

    def fields(config: Mapping[str, Any]) -> dict[str, Any]:
        merged = {
            **family["fields"],
            **{name: value for name, value in config.items() if value is not None},
        }
        return {family["renamed"].get(name, name): value for name, value in merged.items()}

    a, b = fields(raw), fields(twin)
    for name in known | {
        name for name, value in a.items() if isinstance(value, dict) and name.endswith("_config")
    }:
        if (
            name.endswith("_config")
            and isinstance(a.get(name), dict)
            and isinstance(b.get(name), dict)
        ):
            if not _same_weights(a[name], b[name]):
                return False
        elif not re.search(_NO_WEIGHTS, name) and a.get(name) != b.get(name):
            return False
    return True


def _spec(
    id: str,
    model_type: str,
    architecture: str,
    source: str,
    dtype: str | None,
    config: dict[str, Any],
    described: "Described",
    published: Mapping[str, Any],
) -> ModelSpec:
    parts, output_embedding, weightless = described
    return ModelSpec(
        id=id,
        model_type=model_type,
        architecture=architecture,
        source=source,
        fingerprint=cfg.fingerprint(
            {"model_type": model_type, "architecture": architecture, **config}
        ),
        dtype=dtype,
        config=config,
        parts=parts,
        output_embedding=output_embedding,
        weightless=weightless,
        published=published,
    )


def _architecture(raw: Mapping[str, Any], where: str) -> str | None:
    """The class that config.json names first, None where it names none."""
    named = raw.get("architectures")
    if named is None or named == []:
        return None
    if not isinstance(named, list) or not isinstance(named[0], str):
        raise ModelNotFoundError(
            f"{where}: architectures is {str(named)[:60]!r}; it must be a list of class names."
        )
    return str(named[0])


def _is_language_model(architecture: str | None) -> bool:
    """Whether the class is the family's causal language model, or its body, which is fine-tuned as
    one."""
    return architecture is None or architecture.endswith(("ForCausalLM", "LMHeadModel", "Model"))


def _local_config(name: str) -> str | None:
    """The config.json that `name` points to on this disk, None if it points to nothing.

    Raises ModelNotFoundError for what is plainly meant as a path and holds none.
    """
    path = os.path.expanduser(name)
    looks_like_path = name.startswith((".", "~", os.sep)) or name.endswith((os.sep, ".json"))
    if os.path.isdir(path):
        inside = os.path.join(path, "config.json")
        if os.path.isfile(inside):
            return inside
        if looks_like_path:
            raise ModelNotFoundError(_no_config(name))
    elif os.path.isfile(path):
        return path
    elif looks_like_path:
        raise ModelNotFoundError(
            f"There is no file or folder {name}; check the path, or give a hub id."
        )
    return None


def _no_config(folder: str) -> str:
    if os.path.isfile(os.path.join(os.path.expanduser(folder), "adapter_config.json")):
        return f"{folder} holds an adapter alone; use it as --peft-config."
    return f"{folder} is a folder without a config.json; point to the model's own folder."


def _read(path: str) -> bytes:
    try:
        if os.path.getsize(path) > MAX_CONFIG_BYTES:
            raise ModelNotFoundError(
                f"{path} is larger than {MAX_CONFIG_BYTES} bytes; a config.json has a few thousand."
            )
        with open(path, "rb") as file:
            return file.read()
    except OSError as e:
        raise ModelNotFoundError(f"{path} cannot be read: {e.strerror}.") from None


def _local_id(path: str) -> str:
    """A short name of a local model: its folder's, or the file's where the file has a name of its
    own."""
    folder, file = os.path.split(os.path.abspath(path))
    return os.path.basename(folder) if file == "config.json" else file.removesuffix(".json")
