"""What a trace cannot follow, said with the line of the model's code that asked for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from sysconfig import get_path
from traceback import FrameSummary, extract_tb

import torch

from lora_profiler.errors import LoraProfilerError, UnbuildableError

_OURS, _TORCH, _PYTHON = (
    Path(__file__).parent.parent,
    Path(torch.__file__).parent,
    Path(get_path("stdlib")),
)
_PACKAGES = "site-packages"


@contextmanager
def naming_the_line(model: str, whereabouts: Callable[[], str]) -> Iterator[None]:
    """Turns what upstream code raises on tensors without data into UnbuildableError; our own
    mistakes stay what they are.

    Backward and the optimizer run no line of the model: there `whereabouts` names the module whose
    turn it was.
    """
    try:
        yield
    except LoraProfilerError:
        raise
    except Exception as e:
        frames = extract_tb(e.__traceback__)
        if _inside(frames[-1], _OURS):
            raise
        reason = " ".join(str(e).split())[:200] or type(e).__name__
        place = _place(frames) or whereabouts()
        message = (
            f"{model} cannot be traced: {place} fails on a batch of text without data: {reason}"
        )
        raise UnbuildableError(message) from e


def _place(frames: list[FrameSummary]) -> str:
    """Where the innermost code stands that is neither torch's nor Python's nor ours, or ""."""
    for f in reversed(frames):
        if not (_inside(f, _OURS) or _inside(f, _TORCH) or _of_python(f)):
            return (
                f"{f.filename.rpartition(f'{_PACKAGES}/')[2]}:{f.lineno} ({(f.line or '').strip()})"
            )
    return ""


def _inside(frame: FrameSummary, folder: Path) -> bool:
    return folder in Path(frame.filename).parents


def _of_python(frame: FrameSummary) -> bool:
    return (
        _inside(frame, _PYTHON) and _PACKAGES not in Path(frame.filename).parts
    ) or frame.filename.startswith("<")
