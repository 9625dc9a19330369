"""Reading a file of record lines: what one crash or one odd line can spoil is that line, never the
rest."""

import json
from pathlib import Path
from typing import Any

from lora_profiler.errors import LoraProfilerError
from lora_profiler.records.decode import RecordError
from lora_profiler.records.record import Record
from lora_profiler.records.serialize import record_from_dict


class StoreError(LoraProfilerError):
    """A file of records that cannot be opened, locked or written."""

    exit_code = 2


class RecordFile:
    """The records of one file, as far as it went when last read; `catch_up` reads what was added
    since.

    `by_id` holds the newest record of each id (the last in the file), in file order. `torn` counts
    lines that are no JSON: what a crash left. `unreadable` tells of each line that is JSON but no
    record that this version reads. `ends_open` says that the file's last line has no newline, so
    that whatever is added must begin with one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start_over()

    def _start_over(self) -> None:
        self.by_id: dict[str, Record] = {}
        self.unreadable: list[str] = []
        self._position = self._newlines = self._torn_lines = 0
        self._last_line = b""
        self._torn_end = self._whole_end = False

    @property
    def torn(self) -> int:
        return self._torn_lines + self._torn_end

    @property
    def ends_open(self) -> bool:
        return self._torn_end or self._whole_end

    @property
    def records(self) -> list[Record]:
        return list(self.by_id.values())

    def catch_up(self) -> None:
        """Reads on from where the last call ended, or from the start where the file is another or
        was cut. Raises OSError."""
        if not self.path.exists():
            self._start_over()
            return
        with open(self.path, "rb") as file:
            file.seek(self._position - len(self._last_line))
            if file.read(len(self._last_line)) != self._last_line:
                self._start_over()
                file.seek(0)
            added = file.read()
        *lines, rest = added.split(b"\n")
        for line in lines:
            self._torn_lines += not self._take(line)
            self._newlines += 1
            self._advance(line + b"\n", open_end=False)
        self._torn_end = not self._take(rest)
        # a torn one is read again, in case that it was still being written
        if rest and not self._torn_end:
            self._advance(rest, open_end=True)

    def _advance(self, line: bytes, open_end: bool) -> None:
        self._position += len(line)
        self._last_line = line if line.strip() else self._last_line + line
        self._whole_end = open_end

    def _take(self, line: bytes) -> bool:
        """Adds the record in `line`; whether the line was whole, which a blank one is."""
        if not line.strip():
            return True
        try:
            record = parsed_line(line)
        except LoraProfilerError as e:
            self.unreadable.append(f"{self.path}, line {self._newlines + 1}: {e}")
            return True
        except (ValueError, RecursionError):
            return False
        self.by_id.pop(record.id, None)  # the newest takes its place at the end
        self.by_id[record.id] = record
        return True


def parsed_line(line: bytes) -> Record:
    """The record in a line. Raises ValueError or RecursionError for what is no JSON, and
    LoraProfilerError for JSON that is no record."""
    return parsed_record(json.loads(line.decode("utf-8")))


def parsed_record(data: Any) -> Record:
    """`record_from_dict` for JSON of any kind and origin. Raises LoraProfilerError and nothing
    else."""
    try:
        return record_from_dict(data)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as e:
        if isinstance(e, LoraProfilerError):
            raise
        raise RecordError(f"This is no record that can be read ({type(e).__name__}: {e}).") from e


def recency(record: Record) -> tuple[bool, str]:
    """What makes a record the later one of its id: that it was not interrupted, then when it ended
    (ISO 8601 sorts as text)."""
    return record.measurement.status != "interrupted", record.ended_at or ""


def read_records(path: Path) -> RecordFile:
    """The records of a file that is only to be read, such as a committed one. Raises StoreError
    where it cannot be opened."""
    if path.is_dir():
        raise StoreError(
            f"{path} is a folder; a file of records is needed, such as {path / 'records.jsonl'}."
        )
    if not path.exists():
        raise StoreError(
            f"{path} does not exist; a file of records is needed, as `lora-profile bench --records`"
            " writes it."
        )
    file = RecordFile(path)
    try:
        file.catch_up()
    except OSError as e:
        raise StoreError(f"{path} cannot be read: {e.strerror or e}.") from None
    return file
