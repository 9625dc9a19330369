"""What is known of a repository of the hub without the hub: the configs in its folders."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .settings import Settings

_LISTED = Path(__file__).with_name("checkpoints.json")
"""Repository -> folder in it, "" for the index of several -> config with `_parameters` as
published and the `_dtype` of its files, or as a module of sentence-transformers with its class as
`_module`; in place of a repository or a config, the name of another of the same shapes."""
_TUNING = re.compile(r"([-_.](hf|instruct|chat|it|base|pt|v\d[\d.]*|\d{4}))+$")
"""Words at the end of a name that say how a model was trained, not what its shapes are."""
_SUBJECT = re.compile(r"-(math|coder)(?=-)")
"""The same in the middle: Qwen2.5-Math-1.5B is a Qwen2.5-1.5B."""
_CHECKPOINT = r'checkpoint="{}"\)\s*(?:@\w+\s*)*class (\w+)\('
Configs = dict[str, dict[str, Any]]


class Known(NamedTuple):
    """`configs`: by folder. `by`: in words what these are of, where it is not the repository's
    own."""

    configs: Configs
    by: str | None = None


def known_checkpoint(settings: Settings, repository: str) -> Known | None:
    """Of the catalogue or the list beside this file; where the run may pretend and asks nobody,
    also the defaults of the config class that transformers documents with that name, or the model
    of the catalogue whose name this one begins with."""
    row = catalogue_row(settings, repository)
    if row is not None:
        return Known({"": _config(row)})
    listed: dict[str, Any] = json.loads(_LISTED.read_text("utf-8"))
    known = listed.get(repository)
    if isinstance(known, str):
        other = known_checkpoint(settings, known)
        return other and Known(other.configs, f"as {known}")
    if known is not None:
        return Known({place: _part(settings, config) for place, config in known.items()})
    if not settings.pretends_data or not os.environ.get("HF_HUB_OFFLINE"):
        return None
    config = _class_defaults(repository)
    if config is not None:
        return Known({"": config}, "by the defaults of its config class")
    row = _namesake(settings, repository)
    return Known({"": _config(row)}, f"as {row['id']}") if row else None


def _part(settings: Settings, config: dict[str, Any] | str) -> dict[str, Any]:
    """A config, or that of "owner/name/place" in another repository, but for what goes with it."""
    if not isinstance(config, str):
        like = config.get("_as")
        return (_part(settings, like) | config) if like else config
    owner, name, *place = config.split("/")
    known = known_checkpoint(settings, f"{owner}/{name}")
    if known is None:
        raise KeyError(config)
    return known.configs["/".join(place)]


def catalogue_row(settings: Settings, repository: str) -> dict[str, Any] | None:
    wanted = repository.lower()
    for row in _rows(settings):
        if wanted in (row["id"].lower(), *(alias.lower() for alias in row.get("aliases", []))):
            return row
    return None


def catalogue_dtype(settings: Settings, repository: str) -> str | None:
    """Of the published weights; bfloat16 of those that are known as quantised, which are stood in
    for dequantised."""
    return _dtype(catalogue_row(settings, repository) or {})


def _rows(settings: Settings) -> list[dict[str, Any]]:
    if settings.models is None:
        return []
    rows: list[dict[str, Any]] = json.loads(settings.models.read_text("utf-8"))["models"]
    return rows


def _dtype(row: Mapping[str, Any]) -> str | None:
    return row.get("dtype") or ("bfloat16" if row.get("checkpoint_quantization") else None)


def _config(row: Mapping[str, Any]) -> dict[str, Any]:
    kind = row.get("transformers_model_type") or row["model_type"]
    named = {"model_type": kind, "architectures": [row["architecture"]]}
    return {"dtype": _dtype(row), **row["config"], **named}


def _namesake(settings: Settings, repository: str) -> dict[str, Any] | None:
    """Qwen/Qwen2-0.5B of trl-lib/Qwen2-0.5B-Reward: the longest name that it begins with."""
    wanted = _SUBJECT.sub("", repository.lower().rpartition("/")[2])
    found: dict[str, dict[str, Any]] = {}
    for row in _rows(settings):
        for name in (row["id"], *row.get("aliases", [])):
            short = _TUNING.sub("", name.lower().rpartition("/")[2])
            if re.match(rf"(\w+_)?{re.escape(short)}(?![a-z0-9])", wanted):
                found.setdefault(short, row)
    return found[max(found, key=len)] if found else None


def _class_defaults(repository: str) -> dict[str, Any] | None:
    """transformers documents a config class with the checkpoint that its defaults are of."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    pattern = re.compile(_CHECKPOINT.format(re.escape(repository)))
    for file in Path(transformers.__file__).parent.glob("models/*/configuration_*.py"):
        if names := pattern.findall(file.read_text("utf-8")):
            config = getattr(transformers, names[-1])()
            architecture: Any = MODEL_MAPPING_NAMES.get(config.model_type)
            if isinstance(architecture, str):
                fields: dict[str, Any] = config.to_dict()
                return fields | {"architectures": [architecture]}
    return None
