"""flash-attn is built on a machine with a GPU. Where a script asks transformers for
FlashAttention 2 and it is not installed, `stand_ins/flash_attn` takes its place; libraries that
only look whether it is there do not find it."""

import sys
from collections.abc import Iterator
from importlib import invalidate_caches
from importlib.metadata import Distribution, DistributionFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

STAND_INS = Path(__file__).resolve().parents[1] / "stand_ins"
_ASKED = ("flash_attention_2", "kernels-community/flash-attn2", "kernels-community/flash-attn")
"""As transformers names it: of its package, of the Hub's kernels."""
FLASH_STOOD_IN: list[str] = []
"""What is asked for, once it has been stood in for."""


class _FlashAttn(Distribution):
    """By which transformers tells it from FlashAttention 4."""

    def read_text(self, filename: str) -> str | None:
        texts = {"METADATA": "Name: flash-attn\nVersion: 2.8.3\n", "top_level.txt": "flash_attn\n"}
        return texts.get(filename)

    def locate_file(self, path: Any) -> Any:
        return STAND_INS / path


class _Finder(DistributionFinder):
    def find_spec(self, *args: Any, **options: Any) -> None:
        return None

    def find_distributions(self, context: Any = None) -> Iterator[Distribution]:
        if context is None or context.name in (None, "flash-attn", "flash_attn"):
            yield _FlashAttn()


def stand_in_for_flash_attention() -> None:
    """Of `transformers.modeling_utils`. Its releases before 4.56 import the package as they
    start, and refuse."""
    from transformers.modeling_utils import PreTrainedModel

    original = getattr(PreTrainedModel, "_check_and_adjust_attn_implementation", None)
    if original is None:
        return

    def checked(self: Any, attn_implementation: Any, *args: Any, **options: Any) -> Any:
        if attn_implementation in _ASKED and (FLASH_STOOD_IN or find_spec("flash_attn") is None):
            _provide(attn_implementation)
            attn_implementation = _ASKED[0]
        return original(self, attn_implementation, *args, **options)

    PreTrainedModel._check_and_adjust_attn_implementation = checked  # type: ignore[method-assign]


def _provide(asked: str) -> None:
    from transformers.utils import import_utils

    if FLASH_STOOD_IN:
        return
    FLASH_STOOD_IN.append(asked)
    sys.path.append(str(STAND_INS))
    sys.meta_path.append(_Finder())
    invalidate_caches()
    for name in ("is_flash_attn_2_available", "_package_distribution_mapping"):
        getattr(getattr(import_utils, name, None), "cache_clear", lambda: None)()
