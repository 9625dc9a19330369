"""Locks between processes (one writer at a time, a mark that a run still lives) and files that are
written whole or not at all.

Both go when their process ends, however it ends. On Windows a writer locks a byte of the file, and
no run is marked.
"""

import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
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


# --- atomic write ---------------------------------------------------------------------------------


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
