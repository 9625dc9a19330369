"""Where the system wants a user's data and caches to lie, and files that a user names.

What lies there may be another user's: `Path.exists`, `is_file` and `is_dir` raise for it up to
Python 3.13, where the functions of `os.path` answer no.
"""

import errno
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

CACHE_VARIABLE = "LORA_PROFILER_CACHE"

_XDG_FOLDERS = {
    "data": ("XDG_DATA_HOME", Path(".local", "share")),
    "cache": ("XDG_CACHE_HOME", Path(".cache")),
}
_ON_MACOS = {"data": "Application Support", "cache": "Caches"}


def user_folder(kind: Literal["data", "cache"]) -> Path | None:
    """This program's folder for what is kept, or for what can be made again; None where there is no
    home."""
    try:
        if sys.platform == "win32":
            given = os.environ.get("LOCALAPPDATA")
            base = Path(given) if given else Path.home() / "AppData" / "Local"
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / _ON_MACOS[kind]
        else:
            variable, usual = _XDG_FOLDERS[kind]
            given = os.environ.get(variable, "")
            base = Path(given) if os.path.isabs(given) else Path.home() / usual
    except RuntimeError:
        return None
    return base / "lora_profiler"


def cache_folder() -> Path | None:
    """Where this program keeps what can be made again: $LORA_PROFILER_CACHE, else the user's; None
    where there is no home."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else user_folder("cache")


def hub_home(environ: Mapping[str, str] = os.environ) -> str:
    """huggingface_hub's folder, as its own constants have it; with a `~` where there is no home."""
    caches = environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return os.path.expanduser(environ.get("HF_HOME") or os.path.join(caches, "huggingface"))


def hub_cache(environ: Mapping[str, str] = os.environ) -> str:
    """Where huggingface_hub keeps what it has downloaded."""
    usual = os.path.join(hub_home(environ), "hub")
    return os.path.expanduser(environ.get("HF_HUB_CACHE") or usual)


# --- files ----------------------------------------------------------------------------------------


def read_regular(path: str | Path, most_bytes: int) -> bytes:
    """The content of a regular file, or its first `most_bytes` + 1 bytes, by which the caller sees
    that it is longer.

    Raises OSError for what cannot be read, and for devices, pipes and sockets, which may have no
    end.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        return file.read(most_bytes + 1)
