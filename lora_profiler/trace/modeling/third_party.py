"""Around transformers, PEFT and bitsandbytes: are they here, do they keep quiet, and what they
refuse said in one line."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from lora_profiler.errors import LoraProfilerError, UnbuildableError


def require(module: str, install: str, purpose: str) -> None:
    """Raises UnbuildableError where `module` is not installed; `install` is what pip is to be
    given."""
    if find_spec(module) is None:
        raise UnbuildableError(
            f"{purpose} needs {module}, which is not installed: pip install {install}"
        )


@contextmanager
def quiet_bitsandbytes() -> Iterator[None]:
    """Inside, no log lines of bitsandbytes below an error: in int8 it writes one for each product
    of an input in bfloat16."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside: no progress bars, warnings or log lines below an error from the libraries that build
    and load models.

    Everything that matters of what they say is checked afterwards: classes, counts, dtypes, missing
    weights. A deprecated name is called where only that one exists in every version supported.
    """
    from transformers.utils import logging as untyped

    transformers_logging: Any = untyped
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), quiet_bitsandbytes():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Turns what a library raises on input it does not take into UnbuildableError: "`what`:
    reason".

    RuntimeError and MemoryError pass, because an exhausted device raises them.
    """
    try:
        yield
    except LoraProfilerError:
        raise
    except Exception as e:
        if isinstance(e, RuntimeError | MemoryError) and not isinstance(e, NotImplementedError):
            raise
        reason = " ".join(str(e).split()) or type(e).__name__
        raise UnbuildableError(f"{what}: {reason[:300]}") from e
