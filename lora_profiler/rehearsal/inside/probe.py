"""Run by the environment's Python: what is installed in it, as JSON. Imports none of it."""

import importlib.metadata
import importlib.util
import json
import sys

_NAMES = (
    "torch", "triton", "bitsandbytes", "flash_attn", "torchvision", "torchao", "xformers",
    "nvidia",
)  # fmt: skip
_OF_HARNESS = (
    "accelerate", "bitsandbytes", "datasets", "greenlet", "huggingface_hub", "msgspec", "peft",
    "torch", "transformers", "trl",
)  # fmt: skip
"""What the harness' own case and its trainers import."""


def _folder(name: str) -> str | None:
    spec = importlib.util.find_spec(name)
    places = list(spec.submodule_search_locations or []) if spec else []
    return places[0] if places else None


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires("torch") or []
    except importlib.metadata.PackageNotFoundError:
        return []


print(
    json.dumps(
        {
            "version": list(sys.version_info[:2]),
            "requires": _requirements(),
            "folders": {name: _folder(name) for name in _NAMES},
            "missing": [name for name in _OF_HARNESS if importlib.util.find_spec(name) is None],
        }
    )
)
