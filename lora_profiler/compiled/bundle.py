"""The profiles that come with the package: those of one model packed together, since they differ in
little.

A SQLite file of two tables: `packs` holds lines of JSON, one profile a line, compressed by LZMA;
`profiles` tells in which pack and on which line a key lies. Written by `python -m
benchmarks.bundle`.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path

from lora_profiler.compiled.profile import (
    FORMAT,
    Profile,
    ProfileError,
    profile_from_json,
    profile_json,
)

LARGEST_PACK = 8_000_000
"""Bytes before compression; whoever reads one profile unpacks those beside it."""
BUNDLED = Path(__file__).parent / "data" / "profiles.sqlite"


def bundled_profile(key: str) -> Profile | None:
    """None where the package has none of this key, or a file that cannot be read: any profile can
    be made again."""
    path = BUNDLED
    if not path.is_file():
        return None
    import sqlite3  # a process that has no profile to read does without

    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        ) as connection:
            if connection.execute("PRAGMA user_version").fetchone() != (FORMAT,):
                return None
            place = connection.execute(
                "SELECT pack, line FROM profiles WHERE key = ?", (key,)
            ).fetchone()
        if place is None:
            return None
        pack, line = place
        return profile_from_json(json.loads(_lines(path, pack)[line]))
    except (sqlite3.Error, ProfileError, ValueError, KeyError, TypeError, IndexError, EOFError):
        return None


def bundled_profiles() -> Iterator[Profile]:
    """All of them, pack by pack; none where the file is missing. Raises ProfileError and ValueError
    for one that is damaged."""
    import sqlite3

    if not BUNDLED.is_file():
        return
    with closing(
        sqlite3.connect(f"{BUNDLED.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    ) as connection:
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
    import sqlite3

    with closing(
        sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    ) as connection:
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
