"""A temporary folder that goes with its owner: at the end of a block, or, where the owner was
killed, before the next is made."""

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from lora_profiler.records.locks import hold, was_let_go

_PREFIX = "lora-profiler-"
_LOCK = "in_use"


class WorkingFolder(tempfile.TemporaryDirectory[str]):
    """As `tempfile.TemporaryDirectory`. One that is made clears away those whose process was
    killed."""

    def __init__(self) -> None:
        _clear()
        super().__init__(prefix=_PREFIX)
        self._held: int | None = None
        # a full disk: the folder can still be worked in, and is not cleared away after a kill
        with suppress(OSError):
            self._held = hold(Path(self.name) / _LOCK)

    def cleanup(self) -> None:
        super().cleanup()
        if self._held is not None:
            os.close(self._held)
            self._held = None


def _clear() -> None:
    """Removes this user's folders whose lock nobody holds. One without a lock may be about to get
    it, or be of an old version."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if _is_own(folder) and was_let_go(folder / _LOCK):
                shutil.rmtree(folder, ignore_errors=True)


def _is_own(folder: Path) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and (
        not hasattr(os, "getuid") or found.st_uid == os.getuid()
    )
