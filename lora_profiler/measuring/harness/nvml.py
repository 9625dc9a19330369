"""One NVIDIA device as its driver sees it, through NVML: memory, processes, clocks, power,
energy; and which devices this process may see.

Makes no CUDA context and raises nothing: what NVML cannot tell (no driver, an old one, a MIG slice,
a container) is None. pynvml comes from nvidia-ml-py and is imported when a device is opened.
Meaning and units of the calls: NVML API reference.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Self

from lora_profiler.measuring.records.record import VramMethod


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


HW_SLOWDOWN = 0x08
SW_THERMAL_SLOWDOWN = 0x20
HW_THERMAL_SLOWDOWN = 0x40
HW_POWER_BRAKE_SLOWDOWN = 0x80
"""Bits of `throttle_reasons`, NVML's nvmlClocksEventReason... constants."""

THROTTLING = HW_SLOWDOWN | HW_THERMAL_SLOWDOWN | HW_POWER_BRAKE_SLOWDOWN
"""What makes a time invalid. The software power cap is not in it: large cards meet it in every long
matrix product."""

_CLOCK_SM, _CLOCK_MEMORY, _APPLICATION_DEFAULT, _SENSOR_GPU = 1, 2, 2, 0
"""NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_CLOCK_ID_APP_CLOCK_DEFAULT, NVML_TEMPERATURE_GPU."""


OF_DRIVER = ("uuid_hash", "driver", "vbios", "ecc", "mig", "power_limit_watts", "clocks_locked")
"""Fields of `record.Device` that the driver alone knows, and the names of `Nvml`'s methods."""


class Nvml:
    """A handle on one device, or on none: then `problem` says why and every figure is None. Close
    it, or use `with`."""

    def __init__(self, pynvml: Any, handle: Any, problem: str = "") -> None:
        """Takes over one `nvmlInit`, which `close` ends. `pynvml` and `handle` are None where there
        is no device."""
        self._pynvml = pynvml
        self._handle = handle
        self._memory_version: tuple[int, ...] | None = None
        self.problem = problem

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets NVML go; every later figure is None."""
        library, self._pynvml, self._handle = self._pynvml, None, None
        if library is not None:
            _shut_down(library)

    @property
    def available(self) -> bool:
        return self._handle is not None

    # --- memory, in bytes -------------------------------------------------------------------------

    def used_bytes(self) -> int | None:
        """What all processes use on the device. The driver's own reserve is left out where NVML has
        memory info version 2."""
        memory = self._memory()
        return None if memory is None else int(memory.used)

    @property
    def counts_reserve(self) -> bool:
        """Whether `used_bytes` holds the driver's reserve, some hundred MiB: an old driver, or
        nothing was asked yet."""
        return not self._memory_version

    def total_bytes(self) -> int | None:
        memory = self._memory()
        return None if memory is None else int(memory.total)

    def process_bytes(self, pid: int) -> int | None:
        """What the driver says process `pid` uses; None in containers that show host ids, nothing,
        or no figure."""
        return (self._processes() or {}).get(pid)

    def vram_method(self, pid: int) -> VramMethod:
        """How the memory of `pid` can be told here: its own figure, the device's less an idle
        baseline, or not at all."""
        if self.process_bytes(pid) is not None:
            return "pid"
        return "none" if self.used_bytes() is None else "device_delta"

    def other_processes(self, pid: int, *, holds_context: bool = True) -> int | None:
        """How many processes beside `pid` compute on the device; None where it cannot be told.

        A process that holds a CUDA context and is not in the list has another id there (a
        container), or the list is hidden: then nobody can say which entry is its own. With
        `holds_context` False, everyone listed is another.
        """
        processes = self._processes()
        if processes is None or (holds_context and pid not in processes):
            return None
        return len(processes.keys() - {pid})

    def _memory(self) -> Any:
        """Version 2, or 1 if that is what the first answer came in: a difference of the two would
        be off by the reserve."""
        versions = [(0x02000028,), ()] if self._memory_version is None else [self._memory_version]
        for version in versions:
            memory = self._ask("nvmlDeviceGetMemoryInfo", *version)
            if memory is not None:
                self._memory_version = version
                return memory
        return None

    def _processes(self) -> dict[int, int | None] | None:
        """Process id -> bytes. Version 2 answers where the driver is older than the binding."""
        listed = self._ask_first(
            "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetComputeRunningProcesses_v2"
        )
        if listed is None:
            return None
        used = {int(p.pid): p.usedGpuMemory for p in listed}
        # 2**64-1: not available
        return {pid: int(value) if value and value < 2**63 else None for pid, value in used.items()}

    # --- clocks, heat and power -------------------------------------------------------------------

    def sm_clock_mhz(self) -> int | None:
        return self._int("nvmlDeviceGetClockInfo", _CLOCK_SM)

    def memory_clock_mhz(self) -> int | None:
        return self._int("nvmlDeviceGetClockInfo", _CLOCK_MEMORY)

    def default_sm_clock_mhz(self) -> int | None:
        """The SM clock that the board is sold with; consumer cards have none to tell."""
        default = self._int("nvmlDeviceGetDefaultApplicationsClock", _CLOCK_SM)
        return default or self._int("nvmlDeviceGetClock", _CLOCK_SM, _APPLICATION_DEFAULT)

    def clocks_locked(self) -> bool | None:
        """True if the application clock was moved off its default; a lock by `nvidia-smi -lgc`
        shows nowhere, so never False."""
        requested = self._int("nvmlDeviceGetApplicationsClock", _CLOCK_SM)
        default = self.default_sm_clock_mhz()
        return True if requested and default and requested != default else None

    def temperature_celsius(self) -> int | None:
        value = self._ask_first(
            "nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature", arguments=(_SENSOR_GPU,)
        )
        return None if value is None else int(value)

    def throttle_reasons(self) -> int | None:
        """Why clocks are below their highest, as NVML's bits; see `THROTTLING`."""
        value = self._ask_first(
            "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"
        )
        return None if value is None else int(value)

    def power_watts(self) -> float | None:
        """A mean over the last second on most cards since Ampere: not to be integrated."""
        milliwatts = self._int("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / 1000

    def power_limit_watts(self) -> float | None:
        milliwatts = self._ask_first(
            "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetPowerManagementLimit"
        )
        return None if milliwatts is None else int(milliwatts) / 1000

    def energy_millijoules(self) -> int | None:
        """Counted since the driver was loaded, on Volta and later."""
        return self._int("nvmlDeviceGetTotalEnergyConsumption")

    # --- what it is -------------------------------------------------------------------------------

    def name(self) -> str | None:
        return self._text("nvmlDeviceGetName")

    def uuid(self) -> str | None:
        return self._text("nvmlDeviceGetUUID")

    def uuid_hash(self) -> str | None:
        uuid = self.uuid()
        return None if uuid is None else uuid_hash(uuid)

    def compute_capability(self) -> tuple[int, int] | None:
        capability = self._ask("nvmlDeviceGetCudaComputeCapability")
        return None if capability is None else (int(capability[0]), int(capability[1]))

    def vbios(self) -> str | None:
        return self._text("nvmlDeviceGetVbiosVersion")

    def driver(self) -> str | None:
        if self._pynvml is None:
            return None
        try:
            return text(self._pynvml.nvmlSystemGetDriverVersion())
        except Exception:
            return None

    def ecc(self) -> bool | None:
        modes = self._ask("nvmlDeviceGetEccMode")
        return None if modes is None else bool(modes[0])

    def mig(self) -> str | None:
        """A slice's own name such as "1g.10gb"; of a whole card "on" (cut into slices), "off" or
        "not supported"."""
        if not self.available:
            return None
        if self._ask("nvmlDeviceIsMigDeviceHandle"):
            return (self.name() or "").partition("MIG ")[2] or "slice"
        if self._ask("nvmlDeviceGetMigMode") is None:
            return "not supported"
        return "on" if mig_is_on(self._pynvml, self._handle) else "off"

    # --- asking -----------------------------------------------------------------------------------

    def _ask(self, function: str, *arguments: Any) -> Any:
        """The answer to one call. Whatever fails is None: NVMLError, a function that this pynvml or
        this driver lacks."""
        if self._handle is None:
            return None
        try:
            return getattr(self._pynvml, function)(self._handle, *arguments)
        except Exception:
            return None

    def _ask_first(self, *functions: str, arguments: tuple[Any, ...] = ()) -> Any:
        answers = (self._ask(function, *arguments) for function in functions)
        return next((answer for answer in answers if answer is not None), None)

    def _int(self, function: str, *arguments: Any) -> int | None:
        value = self._ask(function, *arguments)
        return None if value is None else int(value)

    def _text(self, function: str) -> str | None:
        value = self._ask(function)
        return None if value is None else text(value)


def open_device(
    uuid: str | None = None,
    index: int = 0,
    *,
    environ: Mapping[str, str] | None = None,
    pynvml: Any = None,
) -> Nvml:
    """The device that CUDA calls `index` in this process; by `uuid`, such as torch's device
    properties have, where it is known.

    `environ` and `pynvml` stand in for the environment and the module in tests.
    """
    library, problem = _initialised(pynvml)
    if library is None:
        return Nvml(None, None, problem)
    try:
        return Nvml(
            library, device_handle(library, uuid, index, os.environ if environ is None else environ)
        )
    except NoDeviceError as e:
        problem = str(e)
    except Exception as e:
        problem = f"NVML failed ({e})"
    _shut_down(library)
    return Nvml(None, None, problem)


def open_cards(pynvml: Any = None) -> tuple[list[Nvml], str]:
    """Every whole card of the machine in NVML's order, each to be closed; and why there is none."""
    library, problem = _initialised(pynvml)
    if library is None:
        return [], problem
    cards: list[Nvml] = []
    try:
        for i in range(library.nvmlDeviceGetCount()):
            handle = library.nvmlDeviceGetHandleByIndex(i)
            library.nvmlInit()
            cards.append(Nvml(library, handle))
    except Exception as e:
        problem = f"NVML failed ({e})"
    finally:
        _shut_down(library)
    return cards, problem or ("" if cards else "no NVIDIA device here")


def uuid_hash(uuid: str) -> str:
    """12 hex digits that tell devices apart without naming them; the same for torch's UUID and for
    NVML's, which has "GPU-"."""
    import hashlib

    full = uuid.lower()
    full = full if full.startswith(("gpu-", "mig-")) else f"gpu-{full}"
    return hashlib.sha256(full.encode()).hexdigest()[:12]


def _initialised(library: Any) -> tuple[Any, str]:
    """pynvml after `nvmlInit`, or None and the reason."""
    if library is None:
        try:
            library = import_module("pynvml")
        except ImportError:
            return None, "no GPU was searched; nvidia-ml-py is not installed"
    try:
        library.nvmlInit()
    except Exception as e:
        return None, f"no NVIDIA driver here ({e})"
    return library, ""


def _shut_down(library: Any) -> None:
    try:
        library.nvmlShutdown()
    except Exception:
        return
