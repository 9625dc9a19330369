"""What of other libraries is replaced for a while, and which torch it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lora_profiler.question.gpu_platform import version_of

TORCH = version_of(torch.__version__) or (0, 0)
"""Major and minor version: a rule that holds for some versions names them."""


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, `owner.name` is `value`. Raises AttributeError where there is no such name."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
