"""A stand-in for the module pynvml: cards and slices described by plain values, with the calls and
errors of nvidia-ml-py."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """As pynvml's: every call that the device cannot answer raises it."""


class LibraryMismatchError(Exception):
    """As pynvml's NVMLLibraryMismatchError, which is no NVMLError: the driver is older than the
    binding."""


@dataclass
class FakeDevice:
    """A card, or a slice of one where `slice` is true. None: the device cannot tell. Values as NVML
    has them (mW, mJ)."""

    uuid: str
    name: str = "NVIDIA Example"
    total: int = 80_000_000_000
    used: int = 1_000_000_000
    reserved: int = 600_000_000
    memory_v2: bool = True
    processes: list[tuple[int, int | None]] | None = field(default_factory=list)
    old_process_call_only: bool = False
    mig: int | None = 0
    slices: "list[FakeDevice]" = field(default_factory=list)
    slice: bool = False
    clocks: dict[int, int] | None = field(default_factory=lambda: {1: 1800, 2: 2600})
    default_clock: int | None = 1980
    application_clock: int | None = 1980
    temperature: int | None = 55
    old_temperature_call_only: bool = False
    power: int | None = 350_500
    power_limit: int | None = 700_000
    reasons: int | None = 0
    old_reasons_call_only: bool = False
    energy: int | None = 123_456
    ecc: int | None = 1
    capability: tuple[int, int] | None = (9, 0)
    vbios: str | None = "96.00.74.00.01"


_PLAIN = {
    "nvmlDeviceGetDefaultApplicationsClock": "default_clock",
    "nvmlDeviceGetApplicationsClock": "application_clock",
    "nvmlDeviceGetTemperature": "temperature",
    "nvmlDeviceGetCurrentClocksThrottleReasons": "reasons",
    "nvmlDeviceGetPowerUsage": "power",
    "nvmlDeviceGetEnforcedPowerLimit": "power_limit",
    "nvmlDeviceGetTotalEnergyConsumption": "energy",
    "nvmlDeviceGetCudaComputeCapability": "capability",
}
"""Calls that tell a value of a device as it is."""


class FakeNvml:
    """The module. `driver` False: there is no driver to initialise. `opened` counts initialisations
    less shutdowns."""

    NVMLError = NVMLError

    def __init__(self, *cards: FakeDevice, driver: bool = True, as_bytes: bool = False) -> None:
        self.cards = cards
        self.driver = driver
        self.as_bytes = as_bytes
        self.opened = 0

    def __getattr__(self, name: str) -> Any:
        if name not in _PLAIN:
            raise AttributeError(name)
        return lambda device, *_: _told(getattr(device, _PLAIN[name]))

    def nvmlInit(self) -> None:
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlSystemGetDriverVersion(self) -> Any:
        return self._text("580.65.06")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeDevice:
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeDevice:
        for device in (*self.cards, *(part for card in self.cards for part in card.slices)):
            if device.uuid == uuid:
                return device
        raise NVMLError("Not Found")

    def nvmlDeviceGetUUID(self, device: FakeDevice) -> Any:
        return self._text(device.uuid)

    def nvmlDeviceGetName(self, device: FakeDevice) -> Any:
        return self._text(device.name)

    def nvmlDeviceGetVbiosVersion(self, device: FakeDevice) -> Any:
        return self._text(_told(device.vbios))

    def nvmlDeviceIsMigDeviceHandle(self, device: FakeDevice) -> int:
        return int(device.slice)

    def nvmlDeviceGetMigMode(self, device: FakeDevice) -> list[int]:
        if device.slice:
            raise NVMLError("Invalid Argument")
        return [_told(device.mig)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, device: FakeDevice) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: FakeDevice, index: int) -> FakeDevice:
        if index >= len(device.slices):
            raise NVMLError("Not Found")
        return device.slices[index]

    def nvmlDeviceGetMemoryInfo(
        self, device: FakeDevice, version: int | None = None
    ) -> SimpleNamespace:
        if version is None:
            return SimpleNamespace(total=device.total, used=device.used + device.reserved)
        if not device.memory_v2 or version != 0x02000028:
            raise NVMLError("Function Not Found")
        return SimpleNamespace(total=device.total, used=device.used, reserved=device.reserved)

    def nvmlDeviceGetComputeRunningProcesses(self, device: FakeDevice) -> list[SimpleNamespace]:
        if device.old_process_call_only:
            raise LibraryMismatchError
        return self.nvmlDeviceGetComputeRunningProcesses_v2(device)

    def nvmlDeviceGetComputeRunningProcesses_v2(self, device: FakeDevice) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in _told(device.processes)
        ]

    def nvmlDeviceGetClockInfo(self, device: FakeDevice, kind: int) -> int:
        return _told(device.clocks)[kind]

    def nvmlDeviceGetTemperatureV(self, device: FakeDevice, sensor: int) -> int:
        return _told(None if device.old_temperature_call_only else device.temperature)

    def nvmlDeviceGetCurrentClocksEventReasons(self, device: FakeDevice) -> int:
        return _told(None if device.old_reasons_call_only else device.reasons)

    def nvmlDeviceGetEccMode(self, device: FakeDevice) -> list[int]:
        return [_told(device.ecc)] * 2

    def _text(self, value: str) -> str | bytes:
        return value.encode() if self.as_bytes else value


def _told(value: Any) -> Any:
    if value is None:
        raise NVMLError("Not Supported")
    return value
