"""Models of the hub whose weights are not on this disk: a config, where the catalogue, the list
beside this file or transformers itself knows one, and a checkpoint of holes.

Loading it is what loading the real one is, byte for byte, and every value is zero: files of the
right length without storage, of 5 GB at most, as checkpoints of the hub are. All of it lies in this
run's own view of the hub's cache (`launch.py` makes that, of links), and goes with the run."""

import json
import os
import re
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoints import catalogue_dtype, known_checkpoint
from .holes import DTYPES, LARGE, holes
from .settings import Settings
from .tokens import (
    DATA_STOOD_IN,
    NOT_FOUND,
    PREPROCESSORS,
    TOKENIZER,
    tokenizer_class,
    write_preprocessor,
    write_tokenizer,
)

if TYPE_CHECKING:
    import torch

STOOD_IN: dict[str, str] = {}
"""Repositories whose weights are holes -> the dtype of these, in words."""
_COMMIT = "0" * 40
_WEIGHTS = re.compile(r"(diffusion_pytorch_model|model)(\.fp16)?\.safetensors")
_INDEX = "model.safetensors.index.json"
_OTHER_WEIGHTS = (_INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
_ASSUMED = "float32 (assumed: the config names no dtype)"
_MODULES = "sentence_transformers.models"
_SHARD_BYTES = 5_000_000_000


def stand_in(settings: Settings) -> None:
    """Every look of transformers into the hub's cache from here on finds what is not there."""
    from transformers.utils import hub

    original: Callable[..., Any] = hub.cached_files

    def cached_files(
        path_or_repo_id: Any, filenames: Sequence[str], *args: Any, **kwargs: Any
    ) -> Any:
        repository, place, names = str(path_or_repo_id), kwargs.get("subfolder") or "", filenames
        if os.path.isdir(repository):  # a pipeline loads its parts from the snapshot
            repository, within = _snapshot_of(repository)
            place = os.path.join(within, place)
            names = [*names, *["model.safetensors"] * ("config.json" in names)]
        if repository:
            _leave_empty_cache(kwargs, repository)
            for name in names:
                _prepare(settings, repository, name, place, kwargs.get("revision"))
        return original(path_or_repo_id, filenames, *args, **kwargs)

    hub.cached_files = cached_files


def stand_in_for_files(settings: Settings) -> None:
    """The same of everybody else."""
    from huggingface_hub import file_download

    original: Callable[..., Any] = file_download.hf_hub_download

    def hf_hub_download(repo_id: str, filename: str, **kwargs: Any) -> Any:
        if kwargs.get("repo_type") in (None, "model"):
            _leave_empty_cache(kwargs, repo_id)
            place, revision = kwargs.get("subfolder") or "", kwargs.get("revision")
            _prepare(settings, repo_id, filename, place, revision)
        return original(repo_id, filename, **kwargs)

    file_download.hf_hub_download = hf_hub_download


def stand_in_for_lists(settings: Settings) -> None:
    """Scripts look in the list of a repository's files for a part of a pipeline."""
    from huggingface_hub import constants, hf_api

    original: Callable[..., Any] = hf_api.HfApi.model_info

    def model_info(api: Any, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(api, repo_id, *args, **kwargs)
        except OSError:
            folder = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
            is_ours = settings.folder in folder.parents
            snapshot = _snapshot(folder, settings, repo_id) if is_ours else None
            if snapshot is None:
                raise
            files = [path for path in snapshot.rglob("*") if path.is_file()]
            listed = [{"rfilename": path.relative_to(snapshot).as_posix()} for path in files]
            return hf_api.ModelInfo(id=repo_id, siblings=listed)

    hf_api.HfApi.model_info = model_info  # type: ignore[method-assign, assignment]
    hf_api.model_info = hf_api.api.model_info


def stand_in_for_urls() -> None:
    """Weights that torch.hub fetches, as torchvision's: a model that loads them stays as it is."""
    import torch

    fetch: Callable[..., Any] = torch.hub.load_state_dict_from_url
    load: Callable[..., Any] = torch.nn.Module.load_state_dict

    def load_state_dict_from_url(url: str, *args: Any, **kwargs: Any) -> Any:
        name = url.rpartition("/")[2]
        is_here = Path(torch.hub.get_dir(), "checkpoints", name).exists()
        if is_here or not os.environ.get("HF_HUB_OFFLINE"):
            return fetch(url, *args, **kwargs)
        STOOD_IN[name] = "float32"
        return _AsItIs()

    def load_state_dict(model: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(state, _AsItIs):
            state, kwargs["strict"] = {}, False
        return load(model, state, *args, **kwargs)

    torch.hub.load_state_dict_from_url = load_state_dict_from_url
    torch.nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign, assignment]


def stand_in_for_casts() -> None:
    """Weights that are holes stay so in another dtype: zeros that no memory of the host is behind,
    where a checkpoint is loaded in a wider format than it is stored in."""
    import torch

    cast: Callable[..., Any] = torch.Tensor.to

    def to(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if STOOD_IN and tensor.device.type == "cpu" and tensor.numel() > LARGE:
            dtype = kwargs.get("dtype", next((x for x in args if isinstance(x, torch.dtype)), None))
            is_weight = tensor.is_floating_point() and tensor.is_contiguous()
            is_in_graph = tensor.requires_grad and torch.is_grad_enabled()
            if dtype not in (None, tensor.dtype) and is_weight and not is_in_graph:
                tensor = holes(tensor.shape, dtype)
        return cast(tensor, *args, **kwargs)

    torch.Tensor.to = to  # type: ignore[method-assign, assignment]


class _AsItIs(dict[str, Any]):
    """In place of a state that could not be fetched."""


def stand_in_for_timm() -> None:
    from timm.models import _builder

    original: Callable[..., Any] = _builder.load_pretrained

    def load_pretrained(model: Any, *args: Any, **kwargs: Any) -> None:
        try:
            original(model, *args, **kwargs)
        except OSError:  # of huggingface_hub, too
            name = model.default_cfg.get("architecture", type(model).__name__)
            STOOD_IN[f"timm/{name}"] = str(next(model.parameters()).dtype).removeprefix("torch.")

    _builder.load_pretrained = load_pretrained


def _snapshot_of(folder: str) -> tuple[str, str]:
    """Repository and place in it of a folder in the hub's cache, both "" elsewhere."""
    from huggingface_hub import constants

    within = os.path.relpath(os.path.abspath(folder), os.path.abspath(constants.HF_HUB_CACHE))
    match = re.fullmatch(r"models--([^/]+)/snapshots/[^/]+/?(.*)", within)
    return (match[1].replace("--", "/", 1), match[2]) if match else ("", "")


def _leave_empty_cache(kwargs: dict[str, Any], repository: str) -> None:
    """Of the script's own, which would be filled from the hub."""
    folder = kwargs.get("cache_dir")
    name = f"models--{repository.replace('/', '--')}"
    if folder and os.environ.get("HF_HUB_OFFLINE") and not Path(folder, name).exists():
        kwargs["cache_dir"] = None


def _prepare(
    settings: Settings, repository: str, name: str, place: str, revision: str | None = None
) -> None:
    from huggingface_hub import constants, try_to_load_from_cache

    name = os.path.normpath(os.path.join(place, name))
    if isinstance(try_to_load_from_cache(repository, name, revision=revision), str):
        return
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    if settings.folder not in folder.parents:
        return  # the script has set a cache of its own
    snapshot = _snapshot(folder, settings, repository)
    if snapshot is None:
        return
    if revision and snapshot.name == _COMMIT:  # any branch of what is simulated is the same
        branch = folder / "refs" / revision
        branch.parent.mkdir(parents=True, exist_ok=True)
        branch.write_text(_COMMIT, "utf-8")
    if (snapshot / name).exists():
        return
    path = snapshot / name
    config = path.with_name("config.json")
    if _is_missing_weights(path):
        part = f"{repository}/{place}".rstrip("./")
        dtype = catalogue_dtype(settings, repository)
        STOOD_IN[part] = write_holes(path.parent, dtype, path.name)
    elif settings.pretends_data and config.exists():
        if path.name in TOKENIZER and not path.with_name(TOKENIZER[0]).exists():
            write_tokenizer(path.parent, repository)
            DATA_STOOD_IN.append(f"the tokenizer of {repository}")
        elif path.name in PREPROCESSORS:
            write_preprocessor(path, repository)
    elif path.name in TOKENIZER:
        NOT_FOUND[repository] = folder
    if not path.exists():
        _mark_missing(folder, snapshot.name, name)


def _is_missing_weights(path: Path) -> bool:
    """Whether these are the weights that a library tries, of a model, and no others are there."""
    config = path.with_name("config.json")
    others = any(path.with_name(other).exists() for other in _OTHER_WEIGHTS)
    if not _WEIGHTS.fullmatch(path.name) or others or not config.exists():
        return False
    fields = json.loads(config.read_text("utf-8"))
    return any(fields.get(name) for name in ("architectures", "_class_name", "_module"))


def _snapshot(folder: Path, settings: Settings, repository: str) -> Path | None:
    """A folder of the repository's newest commit that can be written to; None where nothing of the
    model is known."""
    main = folder / "refs" / "main"
    if main.exists():
        commit = main.read_text("utf-8").strip()
        if folder.is_symlink():
            _copy_of_links(folder)
        snapshot = folder / "snapshots" / commit
        return snapshot if any(snapshot.glob("**/config.json")) else None
    known = known_checkpoint(settings, repository)
    if known is None:
        return None
    if known.by is not None:
        DATA_STOOD_IN.append(f"{repository} {known.by}")
    snapshot = folder / "snapshots" / _COMMIT
    configs = dict(known.configs)
    snapshot.mkdir(parents=True, exist_ok=True)
    if any("_module" in config for config in configs.values()):
        modules = json.dumps(_modules_of(configs))
        (snapshot / "modules.json").write_text(modules, "utf-8")
    elif len(configs) > 1:
        index = configs.pop("", {}) | _index_of(configs)
        (snapshot / "model_index.json").write_text(json.dumps(index), "utf-8")
    for place, config in configs.items():
        (snapshot / place).mkdir(parents=True, exist_ok=True)
        if "model_type" not in config:
            config = {key: value for key, value in config.items() if key != "_module"}
        kind = str(config.get("_class_name"))
        name = "scheduler_config.json" if kind.endswith("Scheduler") else "config.json"
        (snapshot / place / name).write_text(json.dumps(config), "utf-8")
    main.parent.mkdir(exist_ok=True)
    main.write_text(_COMMIT, "utf-8")
    return snapshot


def _index_of(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Library and class of each part of a pipeline, as diffusers' model_index.json has them."""
    index: dict[str, Any] = {}
    for place, config in configs.items():
        if "_class_name" in config:
            index[place] = ["diffusers", config["_class_name"]]
        else:
            names = config.get("architectures")
            index[place] = ["transformers", *(names or [_tokenizer_name(config["model_type"])])]
    return index


def _modules_of(configs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """As sentence-transformers' modules.json has them."""
    named = ((place, config.get("_module", "Transformer")) for place, config in configs.items())
    return [
        {"idx": number, "name": str(number), "path": place, "type": f"{_MODULES}.{kind}"}
        for number, (place, kind) in enumerate(named)
    ]


def _tokenizer_name(model_type: str) -> str:
    return str(tokenizer_class(model_type).__name__)


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


def write_holes(
    snapshot: Path, dtype: str | None = None, weights: str = "model.safetensors"
) -> str:
    """safetensors files of all that the architecture of the config.json there holds, with an index
    where they are several; their data is a hole, but for one byte of a tensor that stands there
    under two names, by which the second differs from the first. Returns their dtype in words: that
    of the config, else `dtype`, else float32, as checkpoints are stored that are older than the
    field."""
    fields = json.loads((snapshot / "config.json").read_text("utf-8"))
    if fields.get("_module") == "StaticEmbedding":
        stated = str(fields["dtype"])
        tensors = _tensors_of_static(fields, stated)
    elif "_class_name" in fields:
        stated = str(fields.get("_dtype") or dtype or "")
        tensors = _tensors_of_diffusers(fields, stated or "float32")
    else:
        import transformers

        config = transformers.AutoConfig.for_model(**fields)
        named = (each.dtype for each in (config, config.get_text_config()))
        stated = str(next(filter(None, named), dtype) or "").removeprefix("torch.")
        ties = fields.get("tie_word_embeddings") is not False
        tensors = _tensors_of(config, fields["architectures"][0], stated or "float32", ties)
    shards: list[dict[str, torch.Tensor]] = [{}]
    known: set[int] = set()
    twice: set[str] = set()
    filled = total = 0
    for name, tensor in tensors:
        if id(tensor) in known:
            twice.add(name)
        known.add(id(tensor))
        if filled and filled + tensor.nbytes > _SHARD_BYTES and "_class_name" not in fields:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.nbytes
        total += tensor.nbytes
    if len(shards) == 1:
        _write_shard(snapshot / weights, shards[0], twice)
        return stated or _ASSUMED
    places: dict[str, str] = {}
    for number, held in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_shard(snapshot / file, held, twice)
        places |= dict.fromkeys(held, file)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (snapshot / _INDEX).write_text(json.dumps(index), "utf-8")
    return stated or _ASSUMED


def _write_shard(path: Path, tensors: "dict[str, torch.Tensor]", twice: Collection[str]) -> None:
    header: dict[str, dict[str, Any]] = {}
    end = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": DTYPES[str(tensor.dtype).removeprefix("torch.")],
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
        for name in tensors.keys() & twice:
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            file.write(b"\x01")
    os.replace(partial, path)


def _tensors_of(
    config: Any, architecture: str, dtype: str, ties: bool
) -> "Iterator[tuple[str, torch.Tensor]]":
    """Of the model on the meta device; what is tied to another tensor is stored once, as the hub's
    checkpoints do, unless config.json says that it `ties` none."""
    import torch
    import transformers

    kind = getattr(transformers, architecture)
    with torch.device("meta"):
        model = kind._from_config(config, dtype=getattr(torch, dtype))
    yield from _stored(model)
    if not ties and (head := model.get_output_embeddings()) is not None:
        name = next(name for name, module in model.named_modules() if module is head)
        yield f"{name}.weight", head.weight  # T5's class ties it whatever config.json says


def _tensors_of_static(
    fields: Mapping[str, Any], dtype: str
) -> "Iterator[tuple[str, torch.Tensor]]":
    import torch

    sizes = fields["vocab_size"], fields["hidden_size"]
    yield "embedding.weight", torch.empty(sizes, dtype=getattr(torch, dtype), device="meta")


def _tensors_of_diffusers(
    fields: Mapping[str, Any], dtype: str
) -> "Iterator[tuple[str, torch.Tensor]]":
    import diffusers
    import torch

    with torch.device("meta"):
        model = getattr(diffusers, fields["_class_name"]).from_config(fields)
    yield from _stored(model.to(getattr(torch, dtype)))


def _stored(model: "torch.nn.Module") -> "Iterator[tuple[str, torch.Tensor]]":
    yield from model.named_parameters()
    persistent = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in persistent)
