"""Models of the hub whose weights are not on this disk: a config, where the catalogue knows one,
and a checkpoint of holes.

Loading it is what loading the real one is, byte for byte, and every value is zero: files of the
right length without storage, of 5 GB at most, as checkpoints of the hub are. All of it lies in this
run's own view of the hub's cache (`launch.py` makes that, of links), and goes with the run."""

import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .settings import Settings
from .tokens import DATA_STOOD_IN, TOKENIZER, write_tokenizer

if TYPE_CHECKING:
    import torch

STOOD_IN: dict[str, str] = {}
"""Repositories whose weights are holes -> the dtype of these, in words."""
_COMMIT = "0" * 40
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_OTHER_WEIGHTS = (_INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
_ASSUMED = "float32 (assumed: the config names no dtype)"
_SHARD_BYTES = 5_000_000_000
_DTYPES = {
    "bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64",
    "int32": "I32", "bool": "BOOL", "uint8": "U8", "int8": "I8",
}  # fmt: skip
"""torch's names of dtypes -> those of safetensors."""


def stand_in(settings: Settings) -> None:
    """Every look into the hub's cache from here on finds what is not there."""
    from transformers.utils import hub

    original: Callable[..., Any] = hub.cached_files

    def cached_files(
        path_or_repo_id: Any, filenames: Sequence[str], *args: Any, **kwargs: Any
    ) -> Any:
        if not os.path.isdir(path_or_repo_id):
            for name in filenames:
                _prepare(settings, str(path_or_repo_id), name)
        return original(path_or_repo_id, filenames, *args, **kwargs)

    hub.cached_files = cached_files


def _prepare(settings: Settings, repository: str, name: str) -> None:
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(repository, name), str):
        return
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    if settings.folder not in folder.parents:
        return  # the script has set a cache of its own
    snapshot = _snapshot(folder, _known_config(settings, repository))
    if snapshot is None or (snapshot / name).exists():
        return
    if name == _WEIGHTS and not any((snapshot / other).exists() for other in _OTHER_WEIGHTS):
        STOOD_IN[repository] = write_holes(snapshot, _known_dtype(settings, repository))
        if not (snapshot / name).exists():
            _mark_missing(folder, snapshot.name, name)
    elif name in TOKENIZER and settings.pretends_data:
        write_tokenizer(snapshot)
        DATA_STOOD_IN.append(f"the tokenizer of {repository}")
    else:
        _mark_missing(folder, snapshot.name, name)


def _snapshot(folder: Path, config: dict[str, Any] | None) -> Path | None:
    """A folder of the repository's newest commit that can be written to; None where nothing of the
    model is known."""
    main = folder / "refs" / "main"
    if main.exists():
        commit = main.read_text("utf-8").strip()
        if folder.is_symlink():
            _copy_of_links(folder)
        snapshot = folder / "snapshots" / commit
        return snapshot if (snapshot / "config.json").exists() else None
    if config is None:
        return None
    snapshot = folder / "snapshots" / _COMMIT
    snapshot.mkdir(parents=True, exist_ok=True)
    main.parent.mkdir(exist_ok=True)
    (snapshot / "config.json").write_text(json.dumps(config), "utf-8")
    main.write_text(_COMMIT, "utf-8")
    return snapshot


def _copy_of_links(folder: Path) -> None:
    """In place of a link to the user's own folder, a folder of links to its files: nothing is
    written into the user's cache."""
    source = folder.resolve()
    folder.unlink()
    for place, _, files in os.walk(source):
        target = folder / Path(place).relative_to(source)
        target.mkdir(parents=True, exist_ok=True)
        for name in files:
            (target / name).symlink_to(Path(place, name).resolve())


def _mark_missing(folder: Path, commit: str, name: str) -> None:
    """As the hub's cache remembers a file that the repository does not have, so that nobody asks
    the network for it."""
    marker = folder / ".no_exist" / commit / name
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _catalogue_row(settings: Settings, repository: str) -> dict[str, Any] | None:
    if settings.models is None:
        return None
    wanted = repository.lower()
    rows: list[dict[str, Any]] = json.loads(settings.models.read_text("utf-8"))["models"]
    for row in rows:
        if wanted in (row["id"].lower(), *(alias.lower() for alias in row.get("aliases", []))):
            return row
    return None


def _known_config(settings: Settings, repository: str) -> dict[str, Any] | None:
    row = _catalogue_row(settings, repository)
    if row is None:
        return None
    kind = row.get("transformers_model_type") or row["model_type"]
    dtype = _known_dtype(settings, repository)
    named = {"model_type": kind, "architectures": [row["architecture"]]}
    return {"dtype": dtype, **row["config"], **named}


def _known_dtype(settings: Settings, repository: str) -> str | None:
    """Of the published weights, by the catalogue; bfloat16 of those that it knows as quantised,
    which are stood in for dequantised."""
    row = _catalogue_row(settings, repository) or {}
    return row.get("dtype") or ("bfloat16" if row.get("checkpoint_quantization") else None)


def write_holes(snapshot: Path, dtype: str | None = None) -> str:
    """safetensors files of all that the architecture of the config.json there holds, with an index
    where they are several; their data is a hole. Returns their dtype in words: that of the config,
    else `dtype`, else float32, as checkpoints are stored that are older than the field."""
    import transformers

    fields = json.loads((snapshot / "config.json").read_text("utf-8"))
    config = transformers.AutoConfig.for_model(**fields)
    named = (each.dtype for each in (config, config.get_text_config()))
    stated = str(next(filter(None, named), dtype) or "").removeprefix("torch.")
    shards: list[dict[str, torch.Tensor]] = [{}]
    filled = total = 0
    for name, tensor in _tensors_of(config, fields["architectures"][0], stated or "float32"):
        if filled and filled + tensor.nbytes > _SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.nbytes
        total += tensor.nbytes
    if len(shards) == 1:
        _write_shard(snapshot / _WEIGHTS, shards[0])
        return stated or _ASSUMED
    places: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_shard(snapshot / file, tensors)
        places |= dict.fromkeys(tensors, file)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (snapshot / _INDEX).write_text(json.dumps(index), "utf-8")
    return stated or _ASSUMED


def _write_shard(path: Path, tensors: "dict[str, torch.Tensor]") -> None:
    header: dict[str, dict[str, Any]] = {}
    end = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": _DTYPES[str(tensor.dtype).removeprefix("torch.")],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    with open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    os.replace(partial, path)


def _tensors_of(config: Any, architecture: str, dtype: str) -> "Iterator[tuple[str, torch.Tensor]]":
    """Of the model on the meta device; what is tied to another tensor is stored once, as the hub's
    checkpoints do."""
    import torch
    import transformers

    kind = getattr(transformers, architecture)
    with torch.device("meta"):
        model = kind._from_config(config, dtype=getattr(torch, dtype))
    yield from model.named_parameters()
    persistent = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in persistent)
