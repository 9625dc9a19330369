"""What a shared library asks of others: read from its ELF tables, so that no binutils are
needed."""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_DYNAMIC_NEEDED = 1
_SECTION_DYNAMIC, _SECTION_SYMBOLS = 6, 11
_SECTION_VERSIONS, _SECTION_VERSIONS_NEEDED = 0x6FFFFFFF, 0x6FFFFFFE
_SYMBOL = struct.Struct("<IBBHQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")


@dataclass(frozen=True, slots=True)
class Symbol:
    """One that a library uses and does not define. `version` and the `soname` it is asked of are ""
    where it has no version."""

    name: str
    version: str
    soname: str


@dataclass(frozen=True, slots=True)
class Library:
    """`needed`: the sonames that it names."""

    needed: tuple[str, ...]
    undefined: tuple[Symbol, ...]


def read_library(path: Path) -> Library:
    """Raises ValueError for a file that is no 64-bit little-endian ELF library."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{path.name} is no 64-bit ELF library")
        sections = list(_sections(data))
        return Library(_needed(data, sections), tuple(_undefined(data, sections)))


@dataclass(frozen=True, slots=True)
class _Section:
    kind: int
    start: int
    size: int
    link: int
    """The section of its strings."""

    @property
    def end(self) -> int:
        return self.start + self.size


def _sections(data: mmap.mmap) -> Iterator[_Section]:
    (table,) = struct.unpack_from("<Q", data, 0x28)
    entry_bytes, count = struct.unpack_from("<HH", data, 0x3A)
    for i in range(count):
        _, kind, _, _, start, size, link, *_ = _SECTION.unpack_from(data, table + i * entry_bytes)
        yield _Section(kind, start, size, link)


def _text(data: mmap.mmap, start: int) -> str:
    return data[start : data.find(b"\0", start)].decode("ascii", "replace")


def _of_kind(sections: list[_Section], kind: int) -> Iterator[_Section]:
    return (section for section in sections if section.kind == kind)


def _needed(data: mmap.mmap, sections: list[_Section]) -> tuple[str, ...]:
    return tuple(
        _text(data, sections[section.link].start + value)
        for section in _of_kind(sections, _SECTION_DYNAMIC)
        for tag, value in struct.iter_unpack("<QQ", data[section.start : section.end])
        if tag == _DYNAMIC_NEEDED
    )


def _undefined(data: mmap.mmap, sections: list[_Section]) -> Iterator[Symbol]:
    versions = _versions_needed(data, sections)
    of_symbols = next((data[s.start : s.end] for s in _of_kind(sections, _SECTION_VERSIONS)), b"")
    for section in _of_kind(sections, _SECTION_SYMBOLS):
        strings = sections[section.link].start
        for i, entry in enumerate(_SYMBOL.iter_unpack(data[section.start : section.end])):
            name, _, _, defined_in, _, _ = entry
            if defined_in or not name:
                continue
            number = struct.unpack_from("<H", of_symbols, 2 * i)[0] & 0x7FFF if of_symbols else 0
            yield Symbol(_text(data, strings + name), *versions.get(number, ("", "")))


def _versions_needed(data: mmap.mmap, sections: list[_Section]) -> dict[int, tuple[str, str]]:
    """Number of a version -> its name, and the library of which it is asked."""
    versions: dict[int, tuple[str, str]] = {}
    for section in _of_kind(sections, _SECTION_VERSIONS_NEEDED):
        strings, at = sections[section.link].start, section.start
        while True:
            _, count, file, first, following = struct.unpack_from("<HHIII", data, at)
            entry = at + first
            for _ in range(count):
                _, _, number, name, step = struct.unpack_from("<IHHII", data, entry)
                versions[number & 0x7FFF] = _text(data, strings + name), _text(data, strings + file)
                entry += step
            if not following:
                break
            at += following
    return versions
