"""Where profiles are found: in the bundle of the package, else in a cache in the user's folder that
several processes may share. Both are SQLite files; one that cannot be read counts as empty, since
any profile can be made again.

The bundle has two tables: `packs` holds lines of JSON, one profile a line, those of one model
compressed together by LZMA, since they differ in little; `profiles` tells in which pack and on
which line a key lies. Written by `python -m benchmarks.truth.bundle`.

The cache has one table, so that writers wait for each other and a killed one leaves nothing half
done. A cache that cannot be read is put aside; a cached profile made with other versions than those
installed is not used.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from lora_profiler._common.packages import installed_version
from lora_profiler._common.paths import cache_folder
from lora_profiler.memory.compiled.profile import (
    FORMAT,
    Profile,
    ProfileError,
    packed,
    profile_from_json,
    profile_json,
    unpacked,
)

if TYPE_CHECKING:
    import sqlite3

LARGEST_PACK = 4_000_000
"""Bytes before compression; whoever reads one profile unpacks those beside it."""
BUNDLED = Path(__file__).parent / "data" / "profiles.sqlite"
_WAIT_SECONDS = 30.0
_TABLE = (
    "CREATE TABLE IF NOT EXISTS profiles (key TEXT PRIMARY KEY, format INTEGER NOT NULL, data BLOB"
    " NOT NULL) WITHOUT ROWID"
)


def find_profile(key: str) -> Profile | None:
    """The profile of this key: bundled, else cached by the versions that are installed; None where
    there is none."""
    return bundled_profile(key) or _cached_profile(key)


@contextmanager
def _reading(path: Path, options: str = "") -> Iterator["sqlite3.Connection"]:
    import sqlite3  # a process that has no profile to read does without

    uri = f"{path.absolute().as_uri()}?mode=ro{options}"
    with closing(sqlite3.connect(uri, uri=True, timeout=_WAIT_SECONDS)) as connection:
        yield connection


# --- the bundle -----------------------------------------------------------------------------------


def bundled_profile(key: str) -> Profile | None:
    """None where the package has none of this key, or a file that cannot be read."""
    try:
        written_at = os.stat(BUNDLED).st_mtime_ns
    except OSError:
        return None
    import sqlite3

    try:
        bundle = _bundle(BUNDLED, written_at)
        if bundle is None:
            return None
        place = bundle.execute("SELECT pack, line FROM profiles WHERE key = ?", (key,)).fetchone()
        if place is None:
            return None
        pack, line = place
        return profile_from_json(json.loads(_lines(BUNDLED, pack)[line]))
    except (sqlite3.Error, ProfileError, ValueError, KeyError, TypeError, IndexError, EOFError):
        return None


@lru_cache(maxsize=1)
def _bundle(path: Path, written_at: int) -> "sqlite3.Connection | None":
    """The bundle, open for all lookups of this process; None for one of another format. A question
    looks up dozens of keys, and most of them are not there."""
    import sqlite3

    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
    is_known = connection.execute("PRAGMA user_version").fetchone() == (FORMAT,)
    return connection if is_known else None


def bundled_profiles() -> Iterator[Profile]:
    """All of them, pack by pack; none where the file is missing. Raises ProfileError and ValueError
    for one that is damaged."""
    if not BUNDLED.is_file():
        return
    with _reading(BUNDLED, "&immutable=1") as connection:
        packs = [
            number for (number,) in connection.execute("SELECT number FROM packs ORDER BY number")
        ]
    for number in packs:
        for line in _lines(BUNDLED, number):
            yield profile_from_json(json.loads(line))


@lru_cache(maxsize=4)
def _lines(path: Path, pack: int) -> list[bytes]:
    """Raises ValueError for a pack that is none."""
    import lzma

    with _reading(path, "&immutable=1") as connection:
        (data,) = connection.execute("SELECT data FROM packs WHERE number = ?", (pack,)).fetchone()
    try:
        return lzma.decompress(data).split(b"\n")
    except lzma.LZMAError as e:
        raise ValueError(f"pack {pack} is damaged") from e


def write_bundle(path: Path, packs: Iterable[Sequence[Profile]]) -> None:
    """A new file at `path`, in place of one that is there. The same profiles in the same order make
    the same bytes."""
    import lzma
    import sqlite3

    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with closing(sqlite3.connect(fresh)) as connection, connection:
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("CREATE TABLE packs (number INTEGER PRIMARY KEY, data BLOB NOT NULL)")
        connection.execute(
            "CREATE TABLE profiles (key TEXT PRIMARY KEY, pack INTEGER, line INTEGER) WITHOUT ROWID"
        )
        for number, lines in enumerate(few for profiles in packs for few in _divided(profiles)):
            data = lzma.compress(b"\n".join(lines.values()), preset=9 | lzma.PRESET_EXTREME)
            connection.execute("INSERT INTO packs VALUES (?, ?)", (number, data))
            connection.executemany(
                "INSERT INTO profiles VALUES (?, ?, ?)",
                [(key, number, i) for i, key in enumerate(lines)],
            )
    fresh.replace(path)


def _divided(profiles: Sequence[Profile]) -> Iterator[dict[str, bytes]]:
    """Lines by key, as many together as are unpacked in a blink."""
    lines: dict[str, bytes] = {}
    size = 0
    for profile in profiles:
        line = json.dumps(profile_json(profile), separators=(",", ":")).encode()
        if lines and size + len(line) > LARGEST_PACK:
            yield lines
            lines, size = {}, 0
        lines[profile.key] = line
        size += len(line)
    yield lines


# --- the cache ------------------------------------------------------------------------------------


def cache_path() -> Path | None:
    """`profiles.sqlite` in the user's cache folder, or in $LORA_PROFILER_CACHE; None where there is
    no home."""
    folder = cache_folder()
    return None if folder is None else folder / "profiles.sqlite"


def keep(profile: Profile) -> Path | None:
    """Puts a profile into the cache, in place of one with its key. None where it cannot be kept:
    the next one traces again."""
    import sqlite3

    path = cache_path()
    if path is None:
        return None
    for attempt in (1, 2):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, [profile])
            _cached_keys.cache_clear()  # a file's time may be too coarse to show it
            return path
        except (
            sqlite3.OperationalError
        ):  # locked for long, a full disk, a folder that cannot be written
            return None
        except sqlite3.DatabaseError:
            if attempt == 2:
                return None
            path.replace(path.with_suffix(".unreadable"))
        except OSError:
            return None
    return None


def write(path: Path, profiles: "list[Profile]") -> None:
    """Adds profiles to the file at `path`, all or none. Raises sqlite3.Error."""
    import sqlite3

    rows = [(p.key, FORMAT, packed(p)) for p in profiles]
    with closing(sqlite3.connect(path, timeout=_WAIT_SECONDS)) as connection, connection:
        connection.execute(_TABLE)
        connection.executemany("INSERT OR REPLACE INTO profiles VALUES (?, ?, ?)", rows)


def _cached_profile(key: str) -> Profile | None:
    """None too for one that cannot be read, or was made with other versions."""
    path = cache_path()
    if path is None:
        return None
    try:
        written = os.stat(path)
    except OSError:
        return None
    if key not in _cached_keys(path, (written.st_ino, written.st_size, written.st_mtime_ns)):
        return None
    import sqlite3

    try:
        with _reading(path) as connection:
            row = connection.execute(
                "SELECT data FROM profiles WHERE key = ? AND format = ?", (key, FORMAT)
            ).fetchone()
        profile = None if row is None else unpacked(row[0])
    except (sqlite3.Error, ProfileError):
        return None
    return profile if profile is not None and _is_of_these_versions(profile.versions) else None


@lru_cache(maxsize=1)
def _cached_keys(path: Path, written: tuple[int, ...]) -> frozenset[str]:
    """Those in the cache as it was last written; none of a file that cannot be read. A question
    looks up dozens of keys, and most of them are not there."""
    import sqlite3

    try:
        with _reading(path) as connection:
            rows = connection.execute("SELECT key FROM profiles WHERE format = ?", (FORMAT,))
            return frozenset(key for (key,) in rows)
    except sqlite3.Error:
        return frozenset()


def _is_of_these_versions(versions: Mapping[str, str]) -> bool:
    """A package that is not installed here cannot contradict."""
    return all(installed_version(name) in (None, made) for name, made in versions.items())
