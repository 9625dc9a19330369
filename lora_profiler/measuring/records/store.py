"""The records of this machine: a file of JSON lines that only grows, and survives crashes, full
disks and two runs at once.

A result is written twice. The process that measures leaves it in the pending folder, whole or not
at all; its parent appends it to the file and takes it out of the folder. Whatever is killed in
between, `recover` finds in the folder.

A folder with one file a record, written by rename and without locks, was tried in place of it. A
rename does not compare: of two runs that had one id at once, the interrupted one took the place of
the finished one in 216 of 450 cases, which a lock rules out. Names with a mark of the run lost
nothing, but 1,000 records took a third longer to append and to read. Files of lines would have to
be read as before, since they are what `--records FILE` names and what is committed, so that little
of the code would go.
"""

import errno
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from lora_profiler._common.paths import user_folder
from lora_profiler.errors import LoraProfilerError, UsageError, did_you_mean
from lora_profiler.measuring.records.load import (
    RecordFile,
    StoreError,
    parsed_record,
    read_records,
    recency,
)
from lora_profiler.measuring.records.locks import exclusive, mark_in_use, sole_user, sync_folder
from lora_profiler.measuring.records.record import STATUSES, Record
from lora_profiler.measuring.records.serialize import record_dict

_LONGEST_NAME = 200
"""Of a pending file, in characters: file systems end at 255 bytes, and this run's mark and
.json.tmp come on top."""


def default_records_path() -> Path:
    """`lora_profiler/records.jsonl` in the user's data folder, as the system has it.
    Raises StoreError where there is no home."""
    folder = user_folder("data")
    if folder is None:
        raise StoreError(
            "There is no home folder to keep records in; name a file with --records PATH."
        )
    return folder / "records.jsonl"


def finished(records: Iterable[Record], rerun: Iterable[str] = ()) -> set[str]:
    """The ids that a resumed run leaves out: those of every record that was not interrupted and has
    no status in `rerun`.

    Raises UsageError for a status that does not exist.
    """
    again = {"interrupted", *rerun}
    for status in sorted(again.difference(STATUSES)):
        accepted = ", ".join(STATUSES)
        raise UsageError(
            f"{status!r} is no status to run again; accepted:"
            f" {accepted}.{did_you_mean(status, STATUSES)}"
        )
    return {record.id for record in records if record.measurement.status not in again}


class Store:
    """The file of records at `path`, made with its folder when first written to.

    Raises StoreError at once, before anything is measured, for a place that cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from lora_profiler import Store
        >>> with TemporaryDirectory() as folder:
        ...     len(Store(Path(folder) / "records").records())
        0
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.realpath(path))
        self.pending_folder = self.path.with_name(self.path.stem + ".pending")
        self._lock_path = self.path.with_name(self.path.name + ".lock")
        self._run = os.urandom(4).hex()
        self._mark_path = self.pending_folder / "in_use"
        self._file = RecordFile(self.path)
        self._unreadable_elsewhere: dict[Path, list[str]] = {}
        self._try_out()

    def _try_out(self) -> None:
        if os.path.isdir(self.path):
            raise StoreError(
                f"{self.path} is a folder; records need a file, such as"
                f" {self.path / 'records.jsonl'}."
            )
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise StoreError(
                f"{self.path} is no regular file; name another place for the records with --records"
                " PATH."
            )
        try:
            self.pending_folder.mkdir(parents=True, exist_ok=True)
            trial = self.pending_folder / f"trial-{os.getpid()}.tmp"
            trial.write_bytes(b"\n")
            trial.unlink(missing_ok=True)
            if self.path.exists():
                os.close(os.open(self.path, os.O_RDWR | os.O_APPEND))
        except OSError as e:
            raise StoreError(
                f"Records cannot be written to {self.path}: {_reason(e)}. Name another place with"
                " --records PATH."
            ) from None
        with self._locked():
            pass

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """No other process writes during the block, and all that was written is read. Raises
        StoreError."""
        with _as_store_error(f"{self.path} cannot be read or locked"), exclusive(self._lock_path):
            self._file.catch_up()
            yield

    # --- reading ----------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """Every record that can be read, one of each id: the last in the file. In file order."""
        with self._locked():
            return self._file.records

    def ids(self) -> set[str]:
        return {record.id for record in self.records()}

    @property
    def torn(self) -> int:
        """Lines that a crash left half written, when the file was last read."""
        return self._file.torn

    @property
    def unreadable(self) -> list[str]:
        """One message for each line, or pending or merged file, that is whole but no record that
        this version reads."""
        return [
            *self._file.unreadable,
            *(message for messages in self._unreadable_elsewhere.values() for message in messages),
        ]

    # --- writing ----------------------------------------------------------------------------------

    def append(self, record: Record, replace: bool = False) -> bool:
        """Adds `record`; False, and nothing written, where its id is there already and `replace` is
        not asked for.

        A record that was interrupted gives way to any that was not, and never takes such a one's
        place. The same record is never written twice. Raises StoreError where the disk is full or
        fails: the file is then as it was.
        """

        def wanted(stored: Record) -> bool:
            if _interrupted(record) != _interrupted(stored):
                return _interrupted(stored)
            return replace

        return self._add(record, wanted)

    def _take_in(self, record: Record) -> bool:
        """Adds a record from elsewhere unless the store has a later one of its id. Raises
        StoreError."""
        return self._add(record, lambda stored: recency(record) >= recency(stored))

    def _add(self, record: Record, wanted: Callable[[Record], bool]) -> bool:
        line = _line(record)
        with self._locked():
            stored = self._file.by_id.get(record.id)
            if stored is not None and (not wanted(stored) or _line(stored) == line):
                return False
            self._write(line)
        return True

    def _write(self, line: str) -> None:
        """One write at the end of the file and on to the disk, or the file as it was and
        StoreError. Needs the lock."""
        data = ("\n" if self._file.ends_open else "").encode() + line.encode() + b"\n"
        is_new = not self.path.exists()
        with _as_store_error(f"{self.path} could not be added to", hint=self._leftover_hint):
            descriptor = os.open(
                self.path,
                os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0),
                0o666,
            )
            try:
                size = os.fstat(descriptor).st_size
                try:
                    written = os.write(descriptor, data)
                    if written < len(data):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(descriptor)
                except OSError:
                    # what stays behind then is a torn line, which readers pass over
                    with suppress(OSError):
                        os.ftruncate(descriptor, size)
                    raise
            finally:
                os.close(descriptor)
            if is_new:
                sync_folder(self.path.parent)

    def _leftover_hint(self) -> str:
        if any(self.pending_folder.glob("*.json")):
            return (
                f"The result is still in {self.pending_folder}: make room and run again, and it"
                " will be taken in."
            )
        return "Nothing of this record was kept; make room and run again."

    # --- results on their way ---------------------------------------------------------------------

    def pending_path(self, name: str) -> Path:
        """Where the process that measures leaves its result (`durable.write_durably`), as
        `record_dict` in JSON.

        `name` is the record's id or any other text. Another `Store` has another path for it, so
        that what two runs or an earlier one leave is never taken for this one's. Until this process
        ends, no other takes anything out of the folder. Raises StoreError.
        """
        with _as_store_error(f"{self.pending_folder} cannot be used"):
            mark_in_use(self._mark_path)
        plain = re.sub(r"[^A-Za-z0-9._+-]", "-", name).lstrip(".")
        if plain != name or len(plain) > _LONGEST_NAME:
            plain = f"{plain[: _LONGEST_NAME - 13]}-{sha256(name.encode()).hexdigest()[:12]}"
        return self.pending_folder / f"{plain}.{self._run}.json"

    def recover(self) -> list[Record]:
        """Takes in every finished result that a killed run left in the pending folder; returns
        those that were new.

        Files that are no records stay there and are told of in `unreadable`; unfinished ones (.tmp)
        are removed. While another process still measures into this store, what lies there may be
        its own: nothing is taken. Raises StoreError.
        """
        taken: list[Record] = []
        with (
            _as_store_error(f"{self.pending_folder} cannot be read"),
            sole_user(self._mark_path) as alone,
        ):
            for path in self._left_behind() if alone else ():
                try:
                    record = parsed_record(json.loads(path.read_bytes().decode("utf-8")))
                except (ValueError, RecursionError, LoraProfilerError) as e:
                    self._unreadable_elsewhere[path] = [f"{path}: {e}"]
                    continue
                if self._take_in(record):
                    taken.append(record)
                path.unlink()
            for path in self.pending_folder.glob("*.tmp") if alone else ():
                path.unlink(missing_ok=True)
        return taken

    def _left_behind(self) -> list[Path]:
        return sorted(
            self.pending_folder.glob("*.json"),
            key=lambda path: (path.stat().st_mtime_ns, path.name),
        )

    def merge(self, paths: Iterable[Path]) -> int:
        """Takes in the records of other files, such as those that came back from another machine;
        how many were new.

        Of two records of one id the one that ended later stays. Raises StoreError for a file that
        cannot be read.
        """
        added = 0
        for path in paths:
            other = read_records(Path(path))
            if other.unreadable:
                self._unreadable_elsewhere[other.path] = other.unreadable
            added += sum(self._take_in(record) for record in other.records)
        return added


def _line(record: Record) -> str:
    return json.dumps(record_dict(record), allow_nan=False)


def _interrupted(record: Record) -> bool:
    return record.measurement.status == "interrupted"


@contextmanager
def _as_store_error(what: str, hint: Callable[[], str] | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        advice = hint() if hint else "Name another place with --records PATH."
        raise StoreError(f"{what}: {_reason(e)}. {advice}") from e


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
