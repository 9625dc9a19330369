"""Python's garbage collector, held back where it would search through very many objects and find
nothing to free."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """No search for cycles inside: it would walk through all that was made, again and again, and
    find nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def exit_without_search() -> None:
    """No search for cycles when the process ends: all that it would go through goes with the
    process."""
    atexit.register(gc.freeze)
