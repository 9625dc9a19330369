"""A file that is either whole or not there, whenever the disk is full, the power goes or the
process is killed."""

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def write_durably(path: Path, text: str) -> None:
    """Writes `text` as UTF-8 to `path`: first to `path` with .tmp added, on to the disk, then
    renamed over `path` in one step.

    Raises OSError, and leaves all as it was then. A process killed half-way leaves `path` as it
    was, and perhaps the .tmp file.
    """
    _write(path, path.with_name(path.name + ".tmp"), text, os.replace)


def write_for_user(path: Path, text: str, *, replace: bool) -> None:
    """The same for a file that a user named: links are followed, a file that is replaced keeps its
    mode, and where there is none to replace, none that came meanwhile is. A pipe or a device is
    written to as it is.

    Raises OSError, FileExistsError without `replace`.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, "utf-8")
        return
    path = Path(os.path.realpath(path))

    def put(partial: Path, path: Path) -> None:
        if replace and path.exists():
            shutil.copymode(path, partial)
        (os.replace if replace else _rename_to_new)(partial, path)

    _write(path, path.with_name(f".{os.urandom(8).hex()}.tmp"), text, put)


def _write(path: Path, partial: Path, text: str, put: Callable[[Path, Path], None]) -> None:
    try:
        with open(partial, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        put(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    sync_folder(path.parent)


def _rename_to_new(partial: Path, path: Path) -> None:
    """As a rename that replaces nothing, which not every system has."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(partial, path)
    else:
        partial.unlink()


def sync_folder(folder: Path) -> None:
    """Puts the folder's own entries on to the disk: names that came, went or changed. Does nothing
    on Windows, which cannot."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
