"""Kernels of the Hub: from transformers 5.25 on, a model that `from_pretrained` loads fetches them
as its training begins (`integrations/hub_kernels.py`). Where they are not on this disk, two of them
are stood in for by what holds the same memory; in place of others transformers runs plain torch."""

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

STOOD_IN_KERNELS: list[str] = []
PLAIN_KERNELS: list[str] = []
"""Repositories that transformers asked for: those stood in for, and the others."""
_OF_INFERENCE = "kernels-community/activation"
"""Fetched where a model is loaded, and put aside as its training begins."""
_Get = Callable[..., Any]


def stand_in_for_kernels() -> None:
    """Of the package `kernels`, before transformers takes `get_kernel` out of it."""
    original = sys.modules["kernels"].get_kernel

    def get_kernel(repo_id: str, *args: Any, **options: Any) -> Any:
        try:
            return original(repo_id, *args, **options)
        except (ValueError, OSError) as error:
            return _stand_in(repo_id, error)

    for name, module in list(sys.modules.items()):
        is_own = name.split(".")[0] == "kernels" and isinstance(module, ModuleType)
        if is_own and getattr(module, "get_kernel", None) is original:
            module.get_kernel = get_kernel  # type: ignore[attr-defined]


def _stand_in(repo_id: str, error: Exception) -> Any:
    from . import hub_layers

    layer = hub_layers.LAYERS.get(repo_id)
    if repo_id != _OF_INFERENCE:
        (PLAIN_KERNELS if layer is None else STOOD_IN_KERNELS).append(repo_id)
    if layer is None:
        raise FileNotFoundError(f"{repo_id} is not on this disk: {error}") from error
    return SimpleNamespace(layers=SimpleNamespace(**{layer.__name__: layer}))
