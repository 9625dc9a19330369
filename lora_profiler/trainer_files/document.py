"""A file of keys and values: YAML or JSON as plain values under dotted keys, each with its line.

Nothing in a file is run or constructed: YAML goes through the safe composer, and tags that would
make objects are refused, as are anchors that unfold to more than a configuration can hold. PyYAML
is imported only here, and only for YAML.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from os.path import isfile  # which no name makes raise
from pathlib import Path
from typing import Any, NamedTuple

from lora_profiler._common.paths import read_regular
from lora_profiler.errors import UsageError

MAX_BYTES = 256_000
"""A configuration has a few thousand."""
MAX_VALUES = 20_000
MAX_DEPTH = 20
MOST = 2**63
_PLAIN_TAGS = ("null", "bool", "int", "float", "str", "timestamp", "map", "seq", "merge", "value")
_YAML = "tag:yaml.org,2002:"


class TrainerFileError(UsageError):
    """A trainer's file that cannot be read as a question; the message has file, line and key."""


class Entry(NamedTuple):
    """One key's value; `line` counts from 1, 0 for what has none."""

    key: str
    value: Any
    line: int


@dataclass(frozen=True, slots=True)
class Document:
    """The keys of one file, nested ones joined by dots; lists are values. `name` stands in
    messages, `folder` is where files named in it are looked for after the working directory,
    nowhere where it is None.
    `computed`: the lines of keys whose value only running the file would tell."""

    name: str
    entries: Mapping[str, Entry]
    folder: Path | None = field(default_factory=Path)
    computed: Mapping[str, int] = field(default_factory=dict)

    def named_file(self, value: Any) -> Path | None:
        """The file that a value names; None where there is none."""
        if self.folder is None or not isinstance(value, str) or not value.strip():
            return None
        path = at_hand(self.folder, value)
        return path if isfile(path) else None

    def get(self, key: str, default: Any = None) -> Any:
        entry = self.entries.get(key)
        return default if entry is None or entry.value is None else entry.value

    def has_under(self, prefix: str) -> bool:
        """Whether the mapping `prefix` has a key of its own."""
        return any(key.startswith(f"{prefix}.") for key in self.entries)

    def error(self, key: str, text: str) -> TrainerFileError:
        return TrainerFileError(f"{self.place(key)}: {text}")

    def place(self, key: str) -> str:
        line = self.entries[key].line if key in self.entries else 0
        return f"{self.name}:{line}" if line else self.name


def at_hand(folder: Path, name: str) -> Path:
    """The file `name` in the working directory, where trainers look, else in `folder`."""
    path = Path(name)
    return path if isfile(path) else folder / path


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """The text of a file. Raises TrainerFileError for what is too large or no text."""
    try:
        content = read_regular(path, max_bytes)
    except FileNotFoundError:
        raise TrainerFileError(f"There is no file {path}; check the path.") from None
    except IsADirectoryError:
        raise TrainerFileError(f"{path} is a folder; name a trainer's file in it.") from None
    except OSError as e:
        raise TrainerFileError(f"{path} cannot be read: {e.strerror}.") from None
    return text_of(content, str(path), max_bytes)


def text_of(content: bytes, name: str, max_bytes: int = MAX_BYTES) -> str:
    """The text in a file's `content`. Raises TrainerFileError as `read_text` does."""
    if len(content) > max_bytes:
        raise _too_large(name, max_bytes)
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as e:
        raise TrainerFileError(
            f"{name} is not UTF-8 text (byte {e.start}); save it as UTF-8."
        ) from None


def _too_large(name: str, max_bytes: int) -> TrainerFileError:
    return TrainerFileError(
        f"{name} is larger than {max_bytes:,} bytes; a trainer's file has a few thousand."
    )


def parse(text: str, name: str, folder: Path | None, *, is_json: bool) -> Document:
    """The document in `text`. Raises TrainerFileError for what is no mapping of keys to values."""
    by_key: dict[str, Entry] = {}
    for entry in _json_entries(text, name) if is_json else _yaml_entries(text, name):
        entry = entry._replace(value=_writable(entry, name))
        earlier = by_key.setdefault(entry.key, entry)
        if earlier is not entry and earlier.value != entry.value:
            raise TrainerFileError(
                f"{name}:{entry.line}: {entry.key} is given twice, with another value in line"
                f" {earlier.line}; leave one of them out."
            )
    return Document(name=name, entries=by_key, folder=folder)


def unfolded(entry: Entry, name: str) -> list[Entry]:
    """A mapping, or a text that is one in JSON, as entries under the entry's key; the entry itself
    where it is neither. Raises TrainerFileError for JSON that is broken."""
    key, value, line = entry
    if isinstance(value, str) and value.lstrip().startswith("{"):
        place = f"{name}:{line} ({key})" if line else f"{name} ({key})"
        found = parse(f'{{"{key}": {value}}}', place, None, is_json=True).entries.values()
        return [each._replace(line=line) for each in found]
    if not isinstance(value, dict) or not value:
        return [entry]
    return [Entry(f"{key}.{inner}", each, line) for inner, each in _flat(value, name, 0)]


def is_writable(number: int) -> bool:
    """Whether a whole number is one that a configuration can mean. Python refuses to write numbers
    of over 4,300 digits."""
    return abs(number) < MOST


def _writable(entry: Entry, name: str) -> Any:
    """The value with infinities and NaN as text: no option takes them, and JSON has none. Raises
    TrainerFileError for a whole number beyond 64 bits."""

    def writable(value: Any) -> Any:
        if isinstance(value, list):
            return [writable(item) for item in value]
        if isinstance(value, dict):
            return {key: writable(item) for key, item in value.items()}
        if isinstance(value, float) and not isfinite(value):
            return str(value)
        if isinstance(value, int) and not is_writable(value):
            place = f"{name}:{entry.line}" if entry.line else name
            raise TrainerFileError(f"{place}: {entry.key} is a number beyond 64 bits.")
        return value

    return writable(entry.value)


def _json_entries(text: str, name: str) -> Iterator[Entry]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as e:
        raise TrainerFileError(
            f"{name} is not valid JSON: {e.msg} at line {e.lineno}, column {e.colno}."
        ) from None
    except (ValueError, RecursionError):
        raise TrainerFileError(f"{name} is not valid JSON.") from None
    if not isinstance(content, dict):
        raise TrainerFileError(f"{name} holds no keys; a trainer's file is a mapping.")
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        for key in re.findall(r'"((?:[^"\\]|\\.)*)"\s*:', line):
            lines.setdefault(key, number)
    for key, value in _flat(content, name, 0):
        yield Entry(key, value, lines.get(key.rpartition(".")[2], 0))


def _flat(mapping: Mapping[str, Any], name: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > MAX_DEPTH:
        raise TrainerFileError(f"{name} is nested more than {MAX_DEPTH} deep.")
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            for inner, innermost in _flat(value, name, depth + 1):
                yield f"{key}.{inner}", innermost
        else:
            yield key, value


def _yaml_entries(text: str, name: str) -> Iterator[Entry]:
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as e:
        line = f":{e.problem_mark.line + 1}" if e.problem_mark else ""
        raise TrainerFileError(f"{name}{line}: not valid YAML: {e.problem or e.context}.") from None
    except yaml.YAMLError as e:
        raise TrainerFileError(f"{name}: not valid YAML: {str(e).splitlines()[0]}.") from None
    except RecursionError:
        raise TrainerFileError(f"{name} is nested more than {MAX_DEPTH} deep.") from None
    if not isinstance(root, yaml.MappingNode):
        raise TrainerFileError(f"{name} holds no keys; a trainer's file is a mapping.")
    return _NodeReader(loader, name).mapping(root, "", 0)


class _NodeReader:
    """Plain values of YAML's nodes, counted: an anchor that is used again unfolds again."""

    def __init__(self, loader: Any, name: str) -> None:
        self.loader = loader
        self.name = name
        self.count = 0

    def mapping(self, node: Any, prefix: str, depth: int) -> Iterator[Entry]:
        """The entries of a mapping node; those merged in (`<<`) come only where no own key is."""
        self._check(node, depth)
        merged: list[Entry] = []
        own: set[str] = set()
        for key_node, value_node in node.value:
            self._check(key_node, depth)
            if key_node.tag == f"{_YAML}merge":
                parts = value_node.value if value_node.id == "sequence" else [value_node]
                for part in parts:
                    if part.id != "mapping":
                        raise self.error(part, "<< merges something that is no mapping.")
                    merged += self.mapping(part, prefix, depth + 1)
                continue
            if key_node.id != "scalar":
                raise self.error(key_node, "a key is a mapping or a list; keys are names here.")
            key = f"{prefix}{key_node.value}"
            own.add(key)
            if value_node.id == "mapping" and value_node.value:
                yield from self.mapping(value_node, f"{key}.", depth + 1)
            else:
                line = key_node.start_mark.line + 1
                yield Entry(key, self.value(value_node, depth + 1), line)
        for entry in merged:
            head = prefix + entry.key.removeprefix(prefix).partition(".")[0]
            if head not in own:
                yield entry

    def value(self, node: Any, depth: int) -> Any:
        self._check(node, depth)
        if node.id == "sequence":
            return [self.value(item, depth + 1) for item in node.value]
        if node.id == "mapping":
            return {entry.key: entry.value for entry in self.mapping(node, "", depth + 1)}
        try:
            return self.loader.construct_object(node)
        except (ValueError, TypeError, AttributeError, OverflowError):
            kind = node.tag.removeprefix(_YAML)
            raise self.error(node, f"{node.value[:40]!r} is no {kind}.") from None

    def error(self, node: Any, text: str) -> TrainerFileError:
        return TrainerFileError(f"{self.name}:{node.start_mark.line + 1}: {text}")

    def _check(self, node: Any, depth: int) -> None:
        self.count += 1
        if depth > MAX_DEPTH:
            raise self.error(node, f"nested more than {MAX_DEPTH} deep.")
        if self.count > MAX_VALUES:
            raise self.error(node, f"anchors unfold to more than {MAX_VALUES:,} values.")
        if not node.tag.startswith(_YAML) or node.tag.removeprefix(_YAML) not in _PLAIN_TAGS:
            tag = node.tag.replace(_YAML, "!!")[:60]
            raise self.error(node, f"the tag {tag} would construct an object, and is refused.")
