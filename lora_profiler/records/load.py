"""Records of several files and folders as one set: what can be read, and a sentence for everything
that cannot."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_profiler._gc import collector_paused
from lora_profiler.errors import LoraProfilerError
from lora_profiler.records.lines import RecordFile, StoreError, parsed_record, read_records, recency
from lora_profiler.records.record import Record

SUFFIX = ".jsonl"
_TOLD = 3
"""Of the lines of one file that are no records, so many are told of one by one."""
_HOW = "A file of records has one JSON object a line, as `lora-profile bench --records` writes it."


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSet:
    """Records, one of each id: the one that ended last, an interrupted one only where there is no
    other. In order of reading.

    `warnings` tells of lines and files that gave no record.
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
    by_id: dict[str, Record] = {}
    warnings: list[str] = []
    for file in dict.fromkeys(file for path in paths for file in _files(path)):
        with collector_paused():
            found, told = _read(file)
        warnings += told
        for record in found:
            key = record.id
            if key not in by_id or recency(record) >= recency(by_id[key]):
                by_id[key] = record
    if not by_id:
        raise StoreError(f"No record can be read. {' '.join(warnings)} {_HOW}")
    return RecordSet(records=tuple(by_id.values()), warnings=tuple(warnings))


def _files(path: Path) -> list[Path]:
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            what = "is neither a file nor a folder" if path.exists() else "does not exist"
            raise StoreError(f"{path} {what}; name files of records, or folders of {SUFFIX} files.")
        found = [
            file
            for pattern in (f"*{SUFFIX}", f"*/*{SUFFIX}")
            for file in sorted(path.glob(pattern))
            if _is_its_own(file, path)
        ]
    except (OSError, ValueError) as e:  # a name too long, a null byte
        raise StoreError(
            f"{str(path)!r} cannot be opened: {getattr(e, 'strerror', None) or e}."
        ) from None
    if not found:
        raise StoreError(
            f"{path} has no {SUFFIX} files, nor have the folders in it; name files of records."
        )
    return found


def _is_its_own(file: Path, folder: Path) -> bool:
    return (
        file.is_file()
        and not file.is_symlink()
        and (file.parent == folder or not file.parent.is_symlink())
    )


def _read(path: Path) -> tuple[list[Record], list[str]]:
    file = read_records(path)
    if not file.by_id and file.torn:
        document = _bench_document(path)
        if document is not None:
            return document
    return file.records, list(_told(file))


def _told(file: RecordFile) -> Iterator[str]:
    messages, rest = file.unreadable[:_TOLD], len(file.unreadable) - _TOLD
    yield from messages
    if rest > 0:
        yield f"{file.path}: {rest:,} more of its lines are no records that can be read."
    if file.torn:
        lines = f"{file.torn:,} of its lines are" if file.torn > 1 else "one of its lines is"
        yield f"{file.path}: {lines} no JSON, as a crash leaves them."
    elif not file.by_id and not file.unreadable:
        yield f"{file.path} is empty."


def _bench_document(path: Path) -> tuple[list[Record], list[str]] | None:
    """The records of a document of `lora-profile bench --format json` or `compare`; None for
    anything else."""
    try:
        data = json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("records"), list):
        return None
    found: list[Record] = []
    unreadable: list[str] = []
    for number, each in enumerate(data["records"]):
        try:
            found.append(parsed_record(each))
        except LoraProfilerError as e:
            unreadable.append(f"{path}, records[{number}]: {e}")
    rest = len(unreadable) - _TOLD
    more = [f"{path}: {rest:,} more of its records cannot be read."] if rest > 0 else []
    empty = [] if data["records"] else [f"{path} has an empty list of records."]
    return found, [*unreadable[:_TOLD], *more, *empty]
