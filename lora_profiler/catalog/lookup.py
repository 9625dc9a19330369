"""`find_model`: from what a user typed to a `ModelSpec`, the nearest source first."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_profiler.catalog import config as cfg
from lora_profiler.catalog.architectures import FAMILIES
from lora_profiler.catalog.bundled import bundled_names, facts
from lora_profiler.errors import ModelNotFoundError, UnsupportedModelError, UsageError, did_you_mean
from lora_profiler.model_spec import ModelSpec

_HUB_URL = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<id>[^/?#]+(?:/[^/?#]+)?)(?:/(?:tree|blob|resolve)/(?P<rev>[^/?#]+))?"
)
_MODEL_ID = re.compile(r"[\w.\-]{1,96}(?:/[\w.\-]{1,96})?")


def find_model(name: str, *, revision: str = "main", offline: bool = False) -> ModelSpec:
    """The model called `name`: a hub id, a hub URL, an alias, a folder, or a path to a config.json.

    Looked for among the bundled models, on the disk, in the local Hugging Face cache, on the hub (config.json only; not
    if `offline`). A bundled id at another `revision` than main is not the bundled one and goes to the cache and the hub.
    Remote code is never run.

    Raises ModelNotFoundError or UnsupportedModelError with the next step, UsageError for an empty name.
    """
    name = name.strip()
    if not name or "\0" in name:
        raise UsageError("The model's name is empty; give a hub id such as meta-llama/Llama-3.1-8B, or a config.json.")
    if url := _HUB_URL.match(name):
        name, revision = url["id"], url["rev"] or revision
    row = facts().get(name.lower())
    if row is not None and revision == "main":
        return _bundled(row)
    path = _local_config(name)
    if path is not None:
        return model_from_config(cfg.parse(_read(path), str(path)), id=_local_id(path), source=str(path))
    if not _MODEL_ID.fullmatch(name):
        raise ModelNotFoundError(f"{name!r} is neither a file or folder here nor a hub id of the form organisation/name.")
    from lora_profiler.catalog.hub import config_json

    text, source = config_json(name, revision=revision, offline=offline)
    return model_from_config(cfg.parse(text, f"config.json of {name}"), id=name, source=source)


def model_from_config(raw: Mapping[str, Any], *, id: str, source: str) -> ModelSpec:
    """The model that a config.json describes. `source` is kept in the spec and names the file in messages.

    Raises ModelNotFoundError for a config.json that is no such thing, UnsupportedModelError where nothing installed here
    knows what weights it has.
    """
    where = f"config.json of {id}" if source == "hub" else source
    model_type = cfg.model_type(raw, where)
    architecture = _architecture(raw, where)
    if model_type in FAMILIES and "text_config" not in raw and _is_language_model(architecture):
        config = cfg.normalise(raw, where, strict=True)
        if not config.get("add_cross_attention"):
            parts = FAMILIES[model_type](config)
            architecture = cfg.class_defaults()[model_type]["architecture"]
            return _spec(id, model_type, architecture, source, cfg.dtype(raw, where), config, parts)
    raise UnsupportedModelError(f"{where}: model_type {model_type!r}.{did_you_mean(model_type, FAMILIES)}")


def _bundled(row: Mapping[str, Any]) -> ModelSpec:
    raw = {"model_type": row["model_type"], "architectures": [row["architecture"]], "dtype": row["dtype"], **row["config"]}
    return model_from_config(raw, id=row["id"], source="bundled")


def _spec(
    id: str, model_type: str, architecture: str, source: str, dtype: str | None, config: dict[str, Any], parts: Any
) -> ModelSpec:
    return ModelSpec(
        id=id,
        model_type=model_type,
        architecture=architecture,
        source=source,
        fingerprint=cfg.fingerprint({"model_type": model_type, "architecture": architecture, **config}),
        dtype=dtype,
        config=config,
        parts=parts,
    )


def _architecture(raw: Mapping[str, Any], where: str) -> str | None:
    """The class that config.json names first, None where it names none."""
    named = raw.get("architectures")
    if named is None or named == []:
        return None
    if not isinstance(named, list) or not isinstance(named[0], str):
        raise ModelNotFoundError(f"{where}: architectures is {str(named)[:60]!r}; it must be a list of class names.")
    return str(named[0])


def _is_language_model(architecture: str | None) -> bool:
    """Whether the class is the family's causal language model, or its body, which is fine-tuned as one."""
    return architecture is None or architecture.endswith(("ForCausalLM", "LMHeadModel", "Model"))


def _local_config(name: str) -> Path | None:
    """The config.json that `name` points to on this disk, None if it points to nothing."""
    path = Path(name).expanduser()
    try:
        if path.is_dir() and (path / "config.json").is_file():
            return path / "config.json"
        if path.is_dir() and (name.startswith((".", "~", "/")) or os.sep in name.rstrip(os.sep)):
            raise ModelNotFoundError(f"{name} is a folder without a config.json; point to the model's own folder.")
        if path.is_file():
            return path
    except OSError:
        return None
    if name.endswith(".json") or name.startswith(("./", "../", "~", "/")):
        raise ModelNotFoundError(f"There is no file or folder {name}; check the path, or give a hub id.")
    return None


def _read(path: Path) -> bytes:
    if path.stat().st_size > 16 * 2**20:
        raise ModelNotFoundError(f"{path} is larger than 16 MiB; a config.json is a few KiB.")
    try:
        return path.read_bytes()
    except OSError as e:
        raise ModelNotFoundError(f"{path} cannot be read: {e.strerror}.") from None


def _local_id(path: Path) -> str:
    """A short name of a local model: its folder's, or the file's where the file has a name of its own."""
    return path.resolve().parent.name if path.name == "config.json" else path.stem
