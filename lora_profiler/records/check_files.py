"""What must be true of a file of records that is to be kept."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from lora_profiler.errors import LoraProfilerError
from lora_profiler.records.lines import parsed_record
from lora_profiler.records.record import SCHEMA_VERSION, Record
from lora_profiler.records.validate import problems


def check_file(path: Path) -> list[str]:
    """What is wrong with a file of records that is to be kept, naming line and id; empty for a good
    one. Raises OSError.

    Every line must be strict JSON, of the present schema or one that migrates; the keys written in
    it must be those that its contents give; ids must differ; and `problems` must find nothing.
    """
    found: list[str] = []
    seen: dict[str, int] = {}
    text = path.read_bytes()
    if text and not text.endswith(b"\n"):
        found.append(f"{path}: the last line has no end; a write may have been cut off.")
    for number, line in enumerate(text.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line.decode("utf-8"), parse_constant=_no_number)
            record = parsed_record(data)
        except (ValueError, RecursionError, LoraProfilerError) as e:
            found.append(f"{path}, line {number}: {e}")
            continue
        sentences = [*_written_keys(data, record), *problems(record)]
        if record.id in seen:
            sentences.append(f"Line {seen[record.id]} has the same id.")
        seen[record.id] = number
        found += [f"{path}, line {number}, {record.id}: {sentence}" for sentence in sentences]
    return found


def check_folder(folder: Path) -> tuple[int, list[str]]:
    """How many files of records lie under `folder`, and what is wrong with them; ids must differ
    within a file only."""
    files = sorted(folder.rglob("*.jsonl"))
    return len(files), [message for path in files for message in check_file(path)]


def _written_keys(data: Mapping[str, Any], record: Record) -> Iterable[str]:
    """Keys of older schemas were made by older rules, or by none."""
    if data["schema_version"] != SCHEMA_VERSION:
        return
    for name, made in (
        ("id", record.id),
        ("case_key", record.case_key),
        ("environment_key", record.environment.key),
    ):
        if data.get(name) != made:
            yield (
                f"{name} is written as {data.get(name)!r}, but the record's contents make it"
                f" {made!r}."
            )


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON.")
