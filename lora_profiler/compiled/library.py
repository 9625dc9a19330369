"""Where profiles are found: in the bundle of the package, else in a cache in the user's folder that
several processes may share.

The cache is a SQLite file of one table, so that writers wait for each other and a killed one leaves
nothing half done. A cache that cannot be read is put aside; a cached profile made with other
versions than those installed is not used.
"""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from lora_profiler._paths import cache_folder
from lora_profiler._versions import installed_version
from lora_profiler.compiled.bundle import bundled_profile
from lora_profiler.compiled.profile import FORMAT, Profile, ProfileError, packed, unpacked

_WAIT_SECONDS = 30.0
_TABLE = (
    "CREATE TABLE IF NOT EXISTS profiles (key TEXT PRIMARY KEY, format INTEGER NOT NULL, data BLOB"
    " NOT NULL) WITHOUT ROWID"
)


def cache_path() -> Path | None:
    """`profiles.sqlite` in the user's cache folder, or in $LORA_PROFILER_CACHE; None where there is
    no home."""
    folder = cache_folder()
    return None if folder is None else folder / "profiles.sqlite"


def find_profile(key: str) -> Profile | None:
    """The profile of this key: bundled, else cached by the versions that are installed; None where
    there is none."""
    bundled = bundled_profile(key)
    if bundled is not None:
        return bundled
    path = cache_path()
    found = _read(path, key) if path is not None else None
    return found if found is not None and _is_of_these_versions(found.versions) else None


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


def _read(path: Path, key: str) -> Profile | None:
    """None too for what cannot be read: a profile can always be made again."""
    if not path.is_file():
        return None
    import sqlite3  # a process that has no profile to read does without

    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_SECONDS)
        ) as connection:
            row = connection.execute(
                "SELECT data FROM profiles WHERE key = ? AND format = ?", (key, FORMAT)
            ).fetchone()
        return None if row is None else unpacked(row[0])
    except (sqlite3.Error, ProfileError):
        return None


def _is_of_these_versions(versions: Mapping[str, str]) -> bool:
    """A package that is not installed here cannot contradict."""
    return all(
        installed in (None, made)
        for name, made in versions.items()
        for installed in [installed_version(name)]
    )
