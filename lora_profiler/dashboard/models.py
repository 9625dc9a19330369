"""The model of a question: bundled, on the hub, or a config.json that was uploaded; never a path,
and never built with torch."""

from functools import lru_cache
from pathlib import PurePath

from lora_profiler.catalog import find_model, model_from_config
from lora_profiler.catalog.config import parse
from lora_profiler.catalog.lookup import MAX_CONFIG_BYTES
from lora_profiler.catalog.meta_build import nothing_built
from lora_profiler.errors import ModelNotFoundError
from lora_profiler.model_spec import ModelSpec

INSTEAD = (
    "The dashboard loads no torch to build it; ask on the command line, where `lora-profile"
    " predict` builds it without weights."
)


@lru_cache(maxsize=64)
def published_model(name: str, revision: str, offline: bool) -> ModelSpec:
    """The model of a hub id, URL or alias. Raises what `find_model` raises, UnsupportedModelError
    for what torch would build."""
    with nothing_built(INSTEAD):
        return find_model(name, revision=revision, offline=offline, on_disk=False)


def uploaded_model(file_name: str, content: bytes) -> ModelSpec:
    """The model of a config.json. Raises ModelNotFoundError for anything else,
    UnsupportedModelError as above."""
    if len(content) > MAX_CONFIG_BYTES:
        raise ModelNotFoundError(
            f"{file_name} is larger than {MAX_CONFIG_BYTES} bytes; a config.json has a few"
            " thousand."
        )
    with nothing_built(INSTEAD):
        return model_from_config(
            parse(content, file_name), id=PurePath(file_name).stem, source=file_name
        )
