"""Why a process of the script ended before it used the card, for the answer's hint. No torch."""

import atexit
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

_OF_NETWORK = ("huggingface_hub", "requests", "urllib3", "httpx", "httpcore", "aiohttp")
"""Packages whose errors say that something could not be fetched."""
_WORDS = ("offline", "couldn't connect", "couldn't reach", "cached files", "not a local folder")
"""Of transformers and datasets, which raise errors of Python's own for the same."""


_codes: list[int] = []
"""Of calls of sys.exit."""


def exit_code() -> int:
    """Of a process that ends without an error that nobody caught."""
    return _codes[-1] if _codes else 0


def observe_failures(folder: Path) -> None:
    """At the end of this process, the error that nobody caught is left in `folder`."""
    process = os.getpid()
    original = sys.exit

    def leave(status: Any = None) -> NoReturn:
        _codes.append(status if isinstance(status, int) else int(status is not None))
        original(status)

    sys.exit = leave

    def tell() -> None:
        error: BaseException | None = getattr(sys, "last_value", None)
        if error is None or isinstance(error, KeyboardInterrupt) or os.getpid() != process:
            return
        (folder / f"failure-{process}.json").write_text(json.dumps(_summary(error)), "utf-8")

    atexit.register(tell)


def _summary(error: BaseException) -> dict[str, Any]:
    chain: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in chain:
        chain.append(each)
        each = each.__cause__ or each.__context__
    return {
        "type": type(error).__name__,
        "message": str(error),
        "missing_module": error.name if isinstance(error, ModuleNotFoundError) else None,
        "is_of_network": any(map(_is_of_network, chain)),
    }


def _is_of_network(error: BaseException) -> bool:
    package, text = type(error).__module__.partition(".")[0], str(error).lower()
    return package in _OF_NETWORK or any(words in text for words in _WORDS)
