"""`--lengths FILE`: how many samples there are of each length, as CSV (length,count) or JSON."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_profiler.batching.sample_lengths import MOST_SAMPLES, SampleLengths, check_length
from lora_profiler.errors import UsageError
from lora_profiler.units import shown


def read_histogram(path: Path) -> SampleLengths:
    """Of JSON an object of counts by length, or a list of pairs or of objects with `length` and
    `count`; of CSV two columns, with or without a heading.

    Raises UsageError for anything else, with the line.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no text in UTF-8.") from None
    except OSError as e:
        raise UsageError(f"{path} cannot be read: {e.strerror}.") from None
    pairs = _of_json(text, path) if path.suffix.lower() == ".json" else _of_csv(text, path)
    counts: dict[int, int] = {}
    for where, length, count in pairs:
        check_length(length, where)
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MOST_SAMPLES:
            raise UsageError(
                f"{where} has a count of {shown(count)}; it must be a whole number from 0."
            )
        if count:
            counts[length] = counts.get(length, 0) + count
    return SampleLengths(counts=dict(sorted(counts.items())), source=path.name)


def parsed_json(text: str, path: Path) -> Any:
    """Raises UsageError with the line where `text`, which is of `path`, is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        where = f"line {e.lineno:,}: {e.msg}" if isinstance(e, json.JSONDecodeError) else str(e)
        raise UsageError(f"{path} is not valid JSON, {where}.") from None


def _of_csv(text: str, path: Path) -> Iterator[tuple[str, Any, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        cells = [cell.strip() for cell in line.replace(";", ",").replace("\t", ",").split(",")]
        if not any(cells):
            continue
        where = f"{path}, line {number:,},"
        if len(cells) != 2:
            raise UsageError(f"{where} has {len(cells)} cells; it needs two, length,count.")
        if number == 1 and not any(cell[:1].isdigit() for cell in cells):
            continue  # the heading
        length, count = (int(cell) if cell.isdecimal() else cell for cell in cells)
        yield where, length, count


def _of_json(text: str, path: Path) -> Iterator[tuple[str, Any, Any]]:
    document = parsed_json(text, path)
    entries = list(document.items()) if isinstance(document, dict) else document
    if not isinstance(entries, list):
        raise UsageError(f'{path} has no counts by length, as in {{"512": 30}}.')
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, entry {number:,},"
        if isinstance(entry, dict) and {"length", "count"} <= entry.keys():
            length, count = entry["length"], entry["count"]
        elif isinstance(entry, list | tuple) and len(entry) == 2:
            length, count = entry
        else:
            raise UsageError(f"{where} is neither [length, count] nor an object of the two.")
        yield where, int(length) if str(length).isdecimal() else length, count
