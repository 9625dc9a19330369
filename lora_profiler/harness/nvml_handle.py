"""Which NVML handle belongs to the device that this process trains on.

CUDA numbers devices by `CUDA_VISIBLE_DEVICES` and by speed, NVML by PCI bus: only the UUID joins
them. A MIG slice has a UUID and a handle of its own; the handle of the whole card shows what all
slices use together and never stands in for one of them. Rules of the variable: CUDA programming
guide, appendix "CUDA environment variables".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class NoDeviceError(Exception):
    """NVML has no handle that is surely that of the asked device; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Card:
    handle: Any
    uuid: str
    name: str


def device_handle(pynvml: Any, uuid: str | None, index: int, environ: Mapping[str, str]) -> Any:
    """NVML's handle of the device that CUDA calls `index` here; by `uuid` where the framework knows
    it, else by `environ`.

    `uuid` may come with or without its prefix, and may be that of a slice or, as some CUDA versions
    have it, of the whole card. Raises NoDeviceError where there is none or the choice is not
    certain, and what pynvml raises.
    """
    cards = _cards(pynvml)
    entries = visible_entries(environ.get("CUDA_VISIBLE_DEVICES"), len(cards))
    if uuid is not None:
        bare = uuid.lower().removeprefix("gpu-").removeprefix("mig-")
        named = [card for card in cards if card.uuid.lower() == f"gpu-{bare}"]
        if not named:
            return _slice_by_uuid(pynvml, f"MIG-{bare}")
        entry = entries[index] if index < len(entries) else ""
        if entry.startswith("MIG-"):
            return _slice_by_uuid(pynvml, entry)
        return _whole_or_only_slice(pynvml, named[0])
    handles = [_resolved(pynvml, entry, cards, environ) for entry in entries[: index + 1]]
    if index >= len(handles):
        raise NoDeviceError(
            "no NVIDIA device is visible to this process" if cards else "no NVIDIA device here"
        )
    return handles[index]


def visible_entries(value: str | None, count: int) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` lists, in order: indices and UUIDs. Unset, it lists all `count`
    cards; empty, none.

    As the driver reads it: the list ends before its first invalid entry, and an entry that comes
    twice makes it empty.
    """
    if value is None:
        return [str(i) for i in range(count)]
    entries: list[str] = []
    for word in value.split(","):
        match = re.match(r"(GPU-|MIG-)\S+|\d+", word.strip())
        if match is None or (match[0].isdigit() and int(match[0]) >= count):
            break
        entry = match[0] if match[1] else str(int(match[0]))
        if entry in entries:
            return []
        entries.append(entry)
    return entries


def _cards(pynvml: Any) -> list[_Card]:
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    return [
        _Card(
            handle=h, uuid=text(pynvml.nvmlDeviceGetUUID(h)), name=text(pynvml.nvmlDeviceGetName(h))
        )
        for h in handles
    ]


def _resolved(pynvml: Any, entry: str, cards: list[_Card], environ: Mapping[str, str]) -> Any:
    if entry.startswith("MIG-"):
        return _slice_by_uuid(pynvml, entry)
    if entry.startswith("GPU-"):  # the first digits are enough where they are one card's alone
        named = [card for card in cards if card.uuid.lower().startswith(entry.lower())]
        if len(named) != 1:
            raise NoDeviceError(f"CUDA_VISIBLE_DEVICES names {len(named)} GPUs by one UUID")
        return _whole_or_only_slice(pynvml, named[0])
    by_bus = environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if not by_bus and len({card.name for card in cards}) > 1:
        raise NoDeviceError(
            "CUDA numbers different GPUs by speed, NVML by bus; set CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )
    return _whole_or_only_slice(pynvml, cards[int(entry)])


def _slice_by_uuid(pynvml: Any, uuid: str) -> Any:
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError as e:
        raise NoDeviceError(f"NVML does not know the device {uuid[:12]}… ({e})") from None


def _whole_or_only_slice(pynvml: Any, card: _Card) -> Any:
    """The card itself, or, where MIG is on, its slice if it has just one: a process is given no
    more than a slice."""
    if not mig_is_on(pynvml, card.handle):
        return card.handle
    slices = []
    for i in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(card.handle)):
        try:
            slices.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card.handle, i))
        except pynvml.NVMLError:  # an index without a slice
            continue
    if len(slices) != 1:
        raise NoDeviceError(
            f"MIG is on with {len(slices)} slices; name one by its UUID in CUDA_VISIBLE_DEVICES"
        )
    return slices[0]


def mig_is_on(pynvml: Any, handle: Any) -> bool:
    """Whether the card is cut into slices now; cards and drivers that know no MIG are not."""
    try:
        return bool(pynvml.nvmlDeviceGetMigMode(handle)[0])
    except (pynvml.NVMLError, AttributeError):
        return False


def text(value: Any) -> str:
    """Older pynvml answers in bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
