"""The catalogue: `find_model` and `find_gpu` turn a name into facts. Works offline and without torch."""

from lora_profiler.catalog.bundled import CatalogEntry, bundled_models
from lora_profiler.catalog.gpus import Gpu, bundled_gpus, find_gpu
from lora_profiler.catalog.lookup import find_model, model_from_config

__all__ = ["CatalogEntry", "Gpu", "bundled_gpus", "bundled_models", "find_gpu", "find_model", "model_from_config"]
