"""The catalogue: `find_model` and `find_gpu` turn a name into facts. Works offline and without
torch.

Cards and the list of models are imported when first asked for, so that looking up one model costs
little.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lora_profiler.catalog.lookup import find_model, model_from_config

if TYPE_CHECKING:
    from lora_profiler.catalog.bundled import CatalogEntry, bundled_models
    from lora_profiler.catalog.devices import match_device
    from lora_profiler.catalog.gpus import Gpu, bundled_gpus, find_gpu

__all__ = [
    "CatalogEntry",
    "Gpu",
    "bundled_gpus",
    "bundled_models",
    "find_gpu",
    "find_model",
    "match_device",
    "model_from_config",
]


_HOMES = {
    "CatalogEntry": "bundled",
    "bundled_models": "bundled",
    "Gpu": "gpus",
    "bundled_gpus": "gpus",
    "find_gpu": "gpus",
    "match_device": "devices",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
