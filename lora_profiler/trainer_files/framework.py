"""What is known of a framework's files: data, declared once in each of `frameworks`."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.meaning import Meaning, Reader, is_on

Check = Callable[[Document], "tuple[str, str] | None"]
"""A key and what it contradicts, where it does."""

Together = Callable[[str, Mapping[str, Any], Collection[str]], Iterator[tuple[str, Meaning]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """name: as `--from` takes it. marks: keys that only its files have. keys: what each means, the
    later ones overruling the earlier ones' options. under: the same for keys that begin so.
    implied: what holds without a key: its words, and what it means. together: the same of what
    several ranks make of a stack, all options and all keys. computed: what a key means whose value
    a script works out. stack: the trainer whose defaults hold,
    by what the file says; None where the file is of no trainer, but beside one. files: keys that
    name a file beside this one."""

    name: str
    title: str
    marks: frozenset[str]
    keys: Mapping[str, Reader]
    under: Mapping[str, Reader] = field(default_factory=dict)
    implied: Callable[[Document], Iterator[tuple[str, Meaning]]] = lambda document: iter(())
    together: Together = lambda stack, options, keys: iter(())
    computed: Mapping[str, Meaning] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    stack: Callable[[Document], str] | None = None
    files: tuple[str, ...] = ()

    def reader(self, key: str) -> Reader | None:
        """What reads a key, None for one that is not known."""
        if key in self.keys:
            return self.keys[key]
        prefixes = [prefix for prefix in self.under if key.startswith(prefix)]
        return self.under[max(prefixes, key=len)] if prefixes else None


def both_on(first: str, second: str, why: str) -> Check:
    """Two switches of which at most one can be on."""

    def check(document: Document) -> tuple[str, str] | None:
        if not (is_on(document.get(first)) and is_on(document.get(second))):
            return None
        line = document.entries[first].line
        return second, f"{second} contradicts {first} in line {line}: {why}"

    return check
