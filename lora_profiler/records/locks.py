"""Locks between processes: one writer at a time, and a mark that a folder belongs to a run that
still lives.

Both go when their process ends, however it ends. On Windows a writer locks a byte of the file, and
no run is marked.
"""

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_marks: dict[tuple[int, Path], int] = {}
"""Descriptors of this process's marks. They stay open: closing any descriptor of a file drops a
process's POSIX locks on it."""


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, made if need be, for the block; waits for whoever holds it.
    Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if sys.platform == "win32":
            _wait_for_byte(descriptor)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def mark_in_use(path: Path) -> None:
    """Marks the file `path` as used by this process until it ends; waits for a `sole_user`. Raises
    OSError."""
    if sys.platform == "win32":
        return
    key = (os.getpid(), path)
    if key not in _marks:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.lockf(descriptor, fcntl.LOCK_SH)
        _marks[key] = descriptor


@contextmanager
def sole_user(path: Path) -> Iterator[bool]:
    """Whether no other living process has marked `path`; where that is so, none can until the block
    ends. Raises OSError."""
    if sys.platform == "win32":
        yield True
        return
    marked = _marks.get((os.getpid(), path))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666) if marked is None else marked
    try:
        alone = True
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # which of the two is up to the system
            alone = False
        yield alone
    finally:
        if marked is None:
            os.close(descriptor)
        else:
            fcntl.lockf(descriptor, fcntl.LOCK_SH)


def hold(path: Path) -> int | None:
    """Makes the file `path`, held by this process until the descriptor that comes back is closed,
    or the process ends.

    It has its name only once it is held, so that nobody finds it free before. None on Windows.
    Raises OSError.
    """
    if sys.platform == "win32":
        return None
    partial = path.with_name(path.name + ".tmp")
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.rename(partial, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def is_abandoned(path: Path) -> bool:
    """Whether `path` was held once and no living process holds it now. False where there is no such
    file."""
    if sys.platform == "win32":
        return False
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


if sys.platform == "win32":

    def _wait_for_byte(descriptor: int) -> None:
        while True:
            try:
                msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)  # gives up after ten seconds
                return
            except OSError:
                continue


# --- a temporary folder that goes with its owner --------------------------------------------------


_PREFIX = "lora-profiler-"
_LOCK = "in_use"


class WorkingFolder(tempfile.TemporaryDirectory[str]):
    """As `tempfile.TemporaryDirectory`, in the folder for temporary files or another one. One that
    is made clears away those there whose process was killed."""

    def __init__(self, place: Path | None = None) -> None:
        _clear(place or Path(tempfile.gettempdir()))
        super().__init__(prefix=_PREFIX, dir=place)
        self._held: int | None = None
        # a full disk: the folder can still be worked in, and is not cleared away after a kill
        with suppress(OSError):
            self._held = hold(Path(self.name) / _LOCK)

    def cleanup(self) -> None:
        super().cleanup()
        if self._held is not None:
            os.close(self._held)
            self._held = None


def _clear(place: Path) -> None:
    """Removes this user's folders whose lock nobody holds. One without a lock may be about to get
    it, or be of an old version."""
    for folder in place.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if _is_own(folder) and is_abandoned(folder / _LOCK):
                shutil.rmtree(folder, ignore_errors=True)


def _is_own(folder: Path) -> bool:
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and (
        not hasattr(os, "getuid") or status.st_uid == os.getuid()
    )
