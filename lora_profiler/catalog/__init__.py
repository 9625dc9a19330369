"""The catalogue: `find_model` and `find_gpu` turn a name into facts. Works offline and without torch."""

from lora_profiler.catalog.bundled import CatalogEntry, bundled_models
from lora_profiler.catalog.lookup import find_model, model_from_config

__all__ = ["CatalogEntry", "bundled_models", "find_model", "model_from_config"]
