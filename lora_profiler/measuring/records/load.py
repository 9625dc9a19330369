"""Records of several files and folders as one set: lines one by one, what can be read, and a
sentence for everything that cannot."""

import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lora_profiler._common.process import collector_paused
from lora_profiler.errors import LoraProfilerError
from lora_profiler.measuring.records.record import Record
from lora_profiler.measuring.records.serialize import RecordError, record_from_dict


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


T = TypeVar("T")
SUFFIX = ".jsonl"
_MOST_MESSAGES = 3
"""Of the lines of one file that are no records, so many are told of one by one."""
_FORMAT_HINT = (
    "A file of records has one JSON object per line; `lora-profile bench --records` writes it."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSet:
    """Records, one of each id: the one that ended last, an interrupted one only where there is no
    other. In order of reading.

    `warnings` tells of lines and files that gave no record, and of rehearsed records, which are
    left out: nothing in them was measured.
    """

    records: tuple[Record, ...]
    warnings: tuple[str, ...]


def read_set(paths: Iterable[Path]) -> RecordSet:
    """The records of files, and of the `.jsonl` files in folders and in the folders one below;
    links in folders are passed over.

    A file may also be what `lora-profile bench --format json` printed. Nothing else is opened.
    Raises StoreError for a path that is neither file nor folder, a folder without such files, a
    file that cannot be opened, and where no record can be read at all.
    """
    files = dict.fromkeys(file for path in paths for file in _files(path))
    return _one_set([_parsed(str(file), _content(file)) for file in files])


def read_content(name: str, content: bytes) -> RecordSet:
    """The same of the content of a file that is called `name`. Raises StoreError where no record
    can be read."""
    return _one_set([_parsed(name, content)])


def newest(items: Iterable[T], record_of: Callable[[T], Record]) -> list[T]:
    """Of each id the one whose record ended last, the last of equals, in place of the first."""
    by_id: dict[str, T] = {}
    for item in items:
        record = record_of(item)
        held = by_id.get(record.id)
        if held is None or recency(record) >= recency(record_of(held)):
            by_id[record.id] = item
    return list(by_id.values())


_MOST_FILES = 2
"""Whose lines are named where no file has a record."""


def _one_set(parts: Sequence[tuple[list[Record], list[str]]]) -> RecordSet:
    records: list[Record] = []
    warnings: list[str] = []
    for of_part, warnings_of_part in parts:
        records += of_part
        warnings += warnings_of_part
    measured = [record for record in records if not record.is_rehearsed]
    if len(measured) < len(records):
        count = len(records) - len(measured)
        which = "1 rehearsed record, on a simulated GPU"
        if count > 1:
            which = f"{count:,} rehearsed records, on simulated GPUs"
        warnings.append(f"{which}: nothing in it was measured.")
    if not measured:
        what, how = ("measured record", "") if records else ("record", f" {_FORMAT_HINT}")
        if len(parts) > _MOST_FILES and not records:
            firsts = [of_part[0] for _, of_part in parts if of_part]
            rest = len(firsts) - _MOST_FILES
            warnings = [*firsts[:_MOST_FILES], f"{rest} more files have none."]
        raise StoreError(f"No {what} can be read. {' '.join(warnings)}{how}")
    return RecordSet(records=tuple(newest(measured, lambda r: r)), warnings=tuple(warnings))


def _files(path: Path) -> list[Path]:
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            what = "is neither a file nor a folder" if path.exists() else "does not exist"
            raise StoreError(f"{path} {what}; name files of records, or folders of {SUFFIX} files.")
        files = [
            file
            for pattern in (f"*{SUFFIX}", f"*/*{SUFFIX}")
            for file in sorted(path.glob(pattern))
            if _is_its_own(file, path)
        ]
    except (OSError, ValueError) as e:  # a name too long, a null byte
        raise StoreError(
            f"{str(path)!r} cannot be opened: {getattr(e, 'strerror', None) or e}."
        ) from None
    if not files:
        raise StoreError(
            f"{path} has no {SUFFIX} files, nor have the folders in it; name files of records."
        )
    return files


def _is_its_own(file: Path, folder: Path) -> bool:
    return (
        file.is_file()
        and not file.is_symlink()
        and (file.parent == folder or not file.parent.is_symlink())
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise StoreError(f"{path} cannot be read: {e.strerror or e}.") from None


def _parsed(name: str, content: bytes) -> tuple[list[Record], list[str]]:
    """The records in the lines of a file, or in the document that it is, and what to say of what is
    no record."""
    records: list[Record] = []
    unreadable: list[str] = []
    torn = 0
    content = content.removeprefix(BOM_UTF8)
    with collector_paused():
        for number, line in enumerate(content.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                records.append(parsed_line(line))
            except LoraProfilerError as e:
                unreadable.append(f"{name}, line {number}: {e}")
            except (ValueError, RecursionError):
                torn += 1
        document = _bench_document(content) if not records else None
        if document is not None:
            return _of_document(name, document)
    warnings = _first(unreadable, name, "lines are no records that can be read")
    if torn:
        lines = f"{torn:,} of its lines are" if torn > 1 else "one of its lines is"
        warnings.append(f"{name}: {lines} no JSON, as a crash leaves them.")
    elif not records and not unreadable:
        warnings.append(f"{name} is empty.")
    return records, warnings


def _bench_document(content: bytes) -> list[Any] | None:
    """What a document of `lora-profile bench --format json` or `compare` has for records; None for
    anything else."""
    try:
        data = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    records = data.get("records") if isinstance(data, dict) else None
    return records if isinstance(records, list) else None


def _of_document(name: str, items: list[Any]) -> tuple[list[Record], list[str]]:
    records: list[Record] = []
    unreadable: list[str] = []
    for number, item in enumerate(items):
        try:
            records.append(parsed_record(item))
        except LoraProfilerError as e:
            unreadable.append(f"{name}, records[{number}]: {e}")
    warnings = _first(unreadable, name, "records cannot be read")
    return records, warnings if items else [f"{name} has an empty list of records."]


def _first(messages: list[str], name: str, what: str) -> list[str]:
    rest = len(messages) - _MOST_MESSAGES
    return (
        messages
        if rest <= 0
        else [*messages[:_MOST_MESSAGES], f"{name}: {rest:,} more of its {what}."]
    )
