"""What the driver holds of a card for a process that computes on it: its context and the kernels it
has loaded, outside torch's allocator.

`data/contexts.csv` has what is published, each row with its address and how sure it is. Rows that
say `process` are torch's own out-of-memory message: what the process has in use, less what PyTorch
has allocated and reserved (to 10 MiB); `context` is a bare context, before any kernel is loaded.
Both grow with the number of multiprocessors, since each gets its own local memory, so that a class
of cards is told by the fewest and the most bytes a multiprocessor among its published cards.
"""

import csv
from dataclasses import dataclass
from functools import cache
from io import StringIO
from typing import Any

from lora_profiler.catalog.config import data_text
from lora_profiler.catalog.gpus import bundled_gpus
from lora_profiler.units import MIB


@dataclass(frozen=True, slots=True)
class Context:
    """Bytes; what is published of cards of this class lies between the two."""

    least_bytes: int
    most_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedContext:
    """One row of the table. `what`: "context" or "process"."""

    key: str
    mebibytes: int
    what: str
    source: str
    confidence: str


@cache
def context_of(key: str) -> Context:
    """Of the card `key`: as many multiprocessors as it has, at what the published cards of its
    compute capability take for one. Where none is published, of all; where the card's
    multiprocessors are not known, as of another vendor's or `custom:24GiB`, the fewest and the
    most bytes that are published of any card.

    Examples:
        >>> from lora_profiler.catalog.contexts import context_of
        >>> context_of("t4").most_bytes < context_of("h100_sxm_80gb").least_bytes
        True
    """
    counts = multiprocessors()
    if key not in counts:
        sizes = [row.mebibytes * MIB for row in published_contexts()]
        return Context(min(sizes), max(sizes))
    capability = _capabilities().get(key)
    own = [r for r in published_contexts() if _capabilities()[r.key] == capability]
    rows = own or published_contexts()
    shares = [row.mebibytes * MIB / counts[row.key] for row in rows]
    return Context(round(counts[key] * min(shares)), round(counts[key] * max(shares)))


@cache
def published_contexts() -> tuple[PublishedContext, ...]:
    rows: Any = csv.DictReader(StringIO(data_text("contexts.csv")))
    return tuple(PublishedContext(**{**r, "mebibytes": int(r["mebibytes"])}) for r in rows)


@cache
def multiprocessors() -> dict[str, int]:
    """Key -> multiprocessors."""
    return {key: count for key, (count, _) in processor_table().items()}


@cache
def most_multiprocessors(capability: int) -> int:
    """Of the cards of a compute capability times ten; of all where none has it."""
    counts = multiprocessors()
    own = [n for key, n in counts.items() if _capabilities()[key] == capability]
    return max(own or counts.values())


@cache
def processor_table() -> dict[str, tuple[int, int]]:
    """Key -> multiprocessors and MiB of L2 cache, of NVIDIA's cards, from its specifications; only
    scratch memory of a few kernels goes by the cache."""
    return {
        row["key"]: (int(row["multiprocessors"]), int(row["l2_mib"]))
        for row in csv.DictReader(StringIO(data_text("multiprocessors.csv")))
    }


@cache
def _capabilities() -> dict[str, int | None]:
    return {gpu.key: gpu.capability for gpu in bundled_gpus()}
