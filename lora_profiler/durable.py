"""A file that is either whole or not there, whenever the power goes or the process is killed."""

import os
from contextlib import suppress
from pathlib import Path


def write_durably(path: Path, text: str) -> None:
    """Writes `text` as UTF-8 to `path`: first to `path` with .tmp added, on to the disk, then renamed over `path` in one step.

    Raises OSError, and leaves all as it was then. A process killed half-way leaves `path` as it was, and perhaps the .tmp file.
    """
    partial = path.with_name(path.name + ".tmp")
    try:
        with open(partial, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Puts the folder's own entries on to the disk: names that came, went or changed. Does nothing on Windows, which cannot."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
