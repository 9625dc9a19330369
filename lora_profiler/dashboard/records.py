"""Where records come from: the checkout's, the user's own, those named at the start, and an upload.
Nothing else is opened."""

import argparse
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from lora_profiler.dashboard.answered import INSTEAD
from lora_profiler.dashboard.shipped import shipped
from lora_profiler.facts.catalog.meta_build import builds_refused
from lora_profiler.measuring.records.load import (
    SUFFIX,
    RecordSet,
    StoreError,
    newest,
    read_content,
    read_set,
)
from lora_profiler.measuring.records.store import default_records_path
from lora_profiler.runs.comparison.scored import Scored, scored
from lora_profiler.units import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSource:
    """A file, or a folder of files, under the words by which a page names it."""

    label: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loaded:
    """Records beside their predictions, and a sentence for everything that could not be read.

    Equal to itself alone, so that what is worked out of it can be kept. `complete` is False for the
    first part of a large file, the rest of which is still being read.
    """

    scored: tuple[Scored, ...]
    warnings: tuple[str, ...]
    complete: bool = True


BUNDLED = "Bundled runs"


def sources(arguments: Sequence[str]) -> list[RecordSource]:
    """What there is to show; `arguments` are those that `lora-profile app` hands over."""
    given = argparse.ArgumentParser(exit_on_error=False, add_help=False)
    given.add_argument("--records", action="append", default=[], type=Path)
    named: list[Path] = given.parse_known_args(list(arguments))[0].records
    shared = {path.name for path in named if sum(other.name == path.name for other in named) > 1}
    places = [
        RecordSource(label=path.name if path.name not in shared else str(path), path=path)
        for path in dict.fromkeys(named)
    ]
    if (bundled := shipped("benchmarks/records")) is not None:
        places.append(RecordSource(label=BUNDLED, path=bundled))
    try:
        own = default_records_path()
    except StoreError:
        return places
    return [*places, RecordSource(label="My records", path=own)] if os.path.isfile(own) else places


AT_ONCE_BYTES = 8 * MIB
"""Up to so much is waited for: a second of reading."""
_FIRST_BYTES = 2 * MIB

Files = tuple[tuple[str, int, int], ...]
"""Of each file its path, when it changed (ns) and its bytes."""
_Key = tuple[Path, Files, str]

_one_reader = threading.Lock()
"""Of what is waited for: a second window waits for the first to have read."""
_large: "dict[_Key, Future[Loaded]]" = {}


def loaded(source: RecordSource, engine: str) -> Loaded:
    """The records of a source, read again only where a file has changed; of much only a part until
    `read_on` has read the rest.

    Raises StoreError, and UsageError for the engine.
    """
    files = tuple(
        (str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in _files(source.path)
    )
    key = source.path, files, engine
    with _one_reader:
        if sum(size for *_, size in files) <= AT_ONCE_BYTES:
            return _scored(*key)
        future = _large.get(key)
        if future is None:
            _forget_others(key)
            _large[key] = Future()
    if future is not None and future.done():
        return future.result()
    return _first_part(files, engine)


def _forget_others(key: _Key) -> None:
    for other in [other for other in _large if (other[0], other[2]) == (key[0], key[2])]:
        del _large[other]


def read_on() -> None:
    """Begins to read the rest of what was shown in part, after a drawing, not to slow it."""
    with _one_reader:
        for key, future in _large.items():
            if not (future.running() or future.done()):
                future.set_running_or_notify_cancel()
                threading.Thread(target=_read_rest, args=(key, future), daemon=True).start()


def _read_rest(key: _Key, future: "Future[Loaded]") -> None:
    try:
        future.set_result(_scored(*key))
    except BaseException as e:
        future.set_exception(e)


def still_reading() -> bool:
    """Whether the rest is not there yet of something of which a part is shown."""
    with _one_reader:
        return any(not future.done() for future in _large.values())


def _files(path: Path) -> list[Path]:
    return (
        [path] if path.is_file() else sorted({*path.glob(f"*{SUFFIX}"), *path.glob(f"*/*{SUFFIX}")})
    )


@lru_cache(maxsize=8)
def _read(path: Path, files: Files) -> RecordSet:
    with builds_refused(INSTEAD):
        return read_set([path])


@lru_cache(maxsize=8)
def _scored(path: Path, files: Files, engine: str) -> Loaded:
    record_set = _read(path, files)
    return Loaded(scored=tuple(scored(record_set.records, engine)), warnings=record_set.warnings)


@lru_cache(maxsize=2)
def _first_part(files: Files, engine: str) -> Loaded:
    path = Path(max(files, key=lambda file: file[2])[0])
    with open(path, "rb") as file:
        content = file.read(_FIRST_BYTES).rpartition(b"\n")[0]
    try:
        return replace(uploaded(path.name, content, engine), warnings=(), complete=False)
    except StoreError:  # what is wrong with it is told when all of it is read
        return Loaded(scored=(), warnings=(), complete=False)


@lru_cache(maxsize=2)
def uploaded(name: str, content: bytes, engine: str) -> Loaded:
    """The records in an uploaded file, which is kept nowhere: a JSON object a line, or what `bench
    --format json` printed.

    Raises StoreError where there is no record in it.
    """
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as e:
        raise StoreError(
            f"{name} is no file of records: it is not UTF-8 text (byte {e.start})."
        ) from None
    with builds_refused(INSTEAD):
        records = read_content(name, content)
    return Loaded(scored=tuple(scored(records.records, engine)), warnings=records.warnings)


@lru_cache(maxsize=8)
def merged(parts: tuple[Loaded, ...]) -> Loaded:
    """Several as one: of each id the record that ended last, as one file has it."""
    if len(parts) == 1:
        return parts[0]
    return Loaded(
        scored=tuple(newest((s for part in parts for s in part.scored), lambda s: s.record)),
        warnings=tuple(warning for part in parts for warning in part.warnings),
        complete=all(part.complete for part in parts),
    )
