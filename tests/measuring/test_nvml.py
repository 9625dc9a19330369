"""NVML through stand-ins: a fake module for what devices and drivers may answer, and, where a C
compiler is at hand, a driver library of our own under the real binding, which holds the calls and
structures to what nvml.h declares.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import in_python
from fake_nvml import FakeDevice, FakeNvml
from lora_profiler.measuring.harness import nvml
from lora_profiler.measuring.harness.nvml import (
    THROTTLING,
    Nvml,
    open_cards,
    open_device,
    uuid_hash,
    visible_entries,
)
from lora_profiler.units import MIB

ROOT = Path(__file__).parents[2]
FIGURES = (
    "used_bytes", "total_bytes", "sm_clock_mhz", "memory_clock_mhz", "default_sm_clock_mhz",
    "clocks_locked", "temperature_celsius", "throttle_reasons", "power_watts", "power_limit_watts",
    "energy_millijoules", "name", "uuid", "uuid_hash", "vbios", "driver", "ecc", "mig",
    "compute_capability",
)  # fmt: skip


def two_cards() -> FakeNvml:
    return FakeNvml(FakeDevice("GPU-1111-aaaa", used=10), FakeDevice("GPU-2222-bbbb", used=20))


def sliced_card(*names: str) -> FakeDevice:
    slices = [
        FakeDevice(f"MIG-{9 - i}", name=f"NVIDIA Example MIG {name}", slice=True, used=i)
        for i, name in enumerate(names)
    ]
    return FakeDevice("GPU-5555", mig=1, slices=slices, used=999)


def opened(library: FakeNvml, uuid: str | None = None, index: int = 0, **environ: str) -> Nvml:
    return open_device(uuid, index, environ=environ, pynvml=library)


# --- which device ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "entries"),
    [
        (None, ["0", "1", "2"]),
        ("", []),
        ("1", ["1"]),
        (" 2 , 0", ["2", "0"]),
        ("0,2,-1,1", ["0", "2"]),
        ("0,7,1", ["0"]),
        ("1,1", []),
        ("1gpu2,2ampere", ["1", "2"]),
        ("NoDevFiles", []),
        ("GPU-8932f937,GPU-11", ["GPU-8932f937", "GPU-11"]),
        ("MIG-GPU-63fe/1/0", ["MIG-GPU-63fe/1/0"]),
    ],
)
def test_visible_devices_are_read_as_the_driver_reads_them(
    value: str | None, entries: list[str]
) -> None:
    assert visible_entries(value, 3) == entries


def test_visible_devices_agree_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch matched its parser to the driver's; it does not drop indices that are too large."""
    torch_cuda = pytest.importorskip("torch.cuda")
    indices = ("0", "2,1", "0,2,-1,1", "1,1", "1gpu2,2ampere", "")
    for value in (*indices, "GPU-8932f937,GPU-11", "GPU-1,GPU-1", "MIG-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert visible_entries(value, 3) == [*map(str, torch_cuda._parse_visible_devices())]


@pytest.mark.parametrize(
    ("environ", "index", "used"),
    [
        ({}, 0, 10),
        ({}, 1, 20),
        ({"CUDA_VISIBLE_DEVICES": "1"}, 0, 20),
        ({"CUDA_VISIBLE_DEVICES": "1,0"}, 1, 10),
        ({"CUDA_VISIBLE_DEVICES": "GPU-2222-bbbb"}, 0, 20),
        ({"CUDA_VISIBLE_DEVICES": "GPU-22"}, 0, 20),
        ({"CUDA_VISIBLE_DEVICES": "GPU-22,GPU-11"}, 1, 10),
    ],
)
def test_the_device_of_the_environment(environ: dict[str, str], index: int, used: int) -> None:
    with opened(two_cards(), index=index, **environ) as device:
        assert device.used_bytes() == used


@pytest.mark.parametrize(
    ("value", "why"),
    [
        *((value, "visible") for value in ("", "-1", "5")),
        ("GPU-3", "0 GPUs"),
        ("MIG-7", "not know"),
    ],
)
def test_no_device_is_none_and_says_why(value: str, why: str) -> None:
    library = two_cards()
    device = opened(library, CUDA_VISIBLE_DEVICES=value)
    assert not device.available
    assert why in device.problem
    assert all(getattr(device, figure)() is None for figure in FIGURES)
    assert library.opened == 0


@pytest.mark.parametrize("uuid", ["2222-bbbb", "GPU-2222-bbbb", "2222-BBBB"])
def test_the_uuid_outweighs_indices(uuid: str) -> None:
    assert opened(two_cards(), uuid).used_bytes() == 20
    assert opened(two_cards(), uuid, CUDA_VISIBLE_DEVICES="0").used_bytes() == 20


def test_an_unknown_uuid_is_no_device() -> None:
    assert opened(two_cards(), "7777").used_bytes() is None


def test_a_prefix_that_fits_two_cards_is_no_device() -> None:
    library = FakeNvml(FakeDevice("GPU-12"), FakeDevice("GPU-13", used=3))
    assert "2 GPUs" in opened(library, CUDA_VISIBLE_DEVICES="GPU-1").problem
    assert opened(library, CUDA_VISIBLE_DEVICES="GPU-13").used_bytes() == 3


def test_cards_of_several_kinds_need_the_order_of_the_bus() -> None:
    slow = FakeDevice("GPU-1", name="Slow", used=10)
    library = FakeNvml(slow, FakeDevice("GPU-2", name="Fast", used=20))
    device = opened(library, CUDA_VISIBLE_DEVICES="0")
    assert device.used_bytes() is None
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in device.problem
    by_bus = {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert opened(library, **by_bus).used_bytes() == 10
    assert opened(library, "2").used_bytes() == 20


def test_a_slice_never_gets_the_card_s_figures() -> None:
    library = FakeNvml(sliced_card("1g.10gb", "3g.40gb"))
    assert opened(library, CUDA_VISIBLE_DEVICES="MIG-8").used_bytes() == 1
    assert opened(library, "8").used_bytes() == 1  # torch gives the slice's own UUID
    # or that of the card
    assert opened(library, "GPU-5555", CUDA_VISIBLE_DEVICES="MIG-8").used_bytes() == 1
    assert opened(library, CUDA_VISIBLE_DEVICES="MIG-8").mig() == "3g.40gb"
    by_name = opened(library, CUDA_VISIBLE_DEVICES="GPU-5555")
    for device in (opened(library), opened(library, "GPU-5555"), by_name):
        assert device.used_bytes() is None
        assert "2 slices" in device.problem


def test_the_only_slice_of_a_card_is_meant() -> None:
    library = FakeNvml(sliced_card("7g.80gb"))
    by_index = opened(library, CUDA_VISIBLE_DEVICES="0")
    for device in (opened(library), opened(library, "GPU-5555"), by_index):
        assert (device.used_bytes(), device.mig()) == (0, "7g.80gb")


def test_mig_of_whole_cards() -> None:
    sliced, unknown = sliced_card("1g.10gb", "2g.20gb"), FakeDevice("GPU-3", mig=None)
    cards, problem = open_cards(FakeNvml(sliced, FakeDevice("GPU-2"), unknown))
    assert ([card.mig() for card in cards], problem) == (["on", "off", "not supported"], "")


# --- figures --------------------------------------------------------------------------------------


def test_figures_of_a_whole_card() -> None:
    card = FakeDevice("GPU-1", processes=[(7, 400), (8, 500)], reasons=0x04, application_clock=1500)
    library = FakeNvml(card)
    with opened(library) as device:
        assert library.opened == 1
        assert (device.used_bytes(), device.total_bytes()) == (card.used, card.total)
        told = (device.process_bytes(7), device.vram_method(7), device.other_processes(7))
        assert told == (400, "pid", 1)
        told = (device.sm_clock_mhz(), device.memory_clock_mhz(), device.default_sm_clock_mhz())
        assert told == (1800, 2600, 1980)
        told = (device.temperature_celsius(), device.power_watts(), device.power_limit_watts())
        assert told == (55, 350.5, 700.0)
        told = (device.throttle_reasons(), device.energy_millijoules(), device.clocks_locked())
        assert told == (4, 123_456, True)
        assert device.compute_capability() == (9, 0)
        told = (device.ecc(), device.mig(), device.vbios(), device.driver())
        assert told == (True, "off", card.vbios, "580.65.06")
        assert device.problem == ""
    assert library.opened == 0
    assert all(getattr(device, figure)() is None for figure in FIGURES)


def test_older_drivers_and_bindings() -> None:
    old: Any = {f"old_{of}_call_only": True for of in ("process", "temperature", "reasons")}
    card = FakeDevice("GPU-1", memory_v2=False, processes=[(7, 400)], reasons=0x48, **old)
    device = opened(FakeNvml(card, as_bytes=True))
    assert device.used_bytes() == card.used + card.reserved
    assert device.process_bytes(7) == 400
    assert (device.temperature_celsius(), device.throttle_reasons()) == (55, 0x48)
    told = (device.name(), device.driver(), device.uuid())
    assert told == ("NVIDIA Example", "580.65.06", "GPU-1")


def test_memory_stays_with_the_version_that_answered_first() -> None:
    """Else a difference of two figures would be off by what the driver keeps for itself."""
    card = FakeDevice("GPU-1")
    device = opened(FakeNvml(card))
    assert device.used_bytes() == card.used
    card.memory_v2 = False
    assert device.used_bytes() is None


def test_a_device_that_tells_nothing_raises_nothing() -> None:
    clocks = ("clocks", "default_clock", "application_clock", "reasons")
    power = ("temperature", "power", "power_limit", "energy")
    silent = dict.fromkeys((*clocks, *power, "processes", "mig", "ecc", "vbios", "capability"))
    device = opened(FakeNvml(FakeDevice("GPU-1", **silent)))
    told = {figure for figure in FIGURES if getattr(device, figure)() is not None}
    assert told == {"used_bytes", "total_bytes", "name", "uuid", "uuid_hash", "driver", "mig"}
    facts = (device.process_bytes(7), device.vram_method(7), device.other_processes(7))
    assert facts == (None, "device_delta", None)


@pytest.mark.parametrize(
    "processes", [[], [(31_337, 400)], [(7, 0)], [(7, None)], [(7, 2**64 - 1)], None]
)
def test_containers_hide_the_process(processes: list[tuple[int, int | None]] | None) -> None:
    device = opened(FakeNvml(FakeDevice("GPU-1", processes=processes)))
    assert (device.process_bytes(7), device.vram_method(7)) == (None, "device_delta")


@pytest.mark.parametrize(
    ("processes", "with_context", "before_context"),
    [
        ([(7, 1)], 0, 0),
        ([(7, 1), (8, 1), (9, 1)], 2, 2),
        ([], None, 0),
        ([(31_337, 1)], None, 1),
        (None, None, None),
    ],
)
def test_other_processes(
    processes: list[tuple[int, int | None]] | None, with_context: object, before_context: object
) -> None:
    device = opened(FakeNvml(FakeDevice("GPU-1", processes=processes)))
    assert device.other_processes(7) == with_context
    assert device.other_processes(7, holds_context=False) == before_context


def test_no_driver_and_no_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(FakeNvml(driver=False)).problem == "no NVIDIA driver here (Driver Not Loaded)"
    assert open_cards(FakeNvml(driver=False)) == ([], "no NVIDIA driver here (Driver Not Loaded)")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "nvidia-ml-py is not installed" in open_device().problem
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(FakeDevice("GPU-1")))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert open_device().uuid() == "GPU-1"


def test_cards_are_closed_one_by_one() -> None:
    library = two_cards()
    cards, _ = open_cards(library)
    assert [card.used_bytes() for card in cards] == [10, 20]
    for card in cards:
        card.close()
    assert library.opened == 0


def test_a_uuid_hash_is_the_same_from_torch_and_from_nvml() -> None:
    assert uuid_hash("GPU-8932f937-d72c") == uuid_hash("8932F937-d72c")
    assert uuid_hash("GPU-8932f937-d72c") != uuid_hash("MIG-8932f937-d72c")
    assert re.fullmatch("[0-9a-f]{12}", uuid_hash("GPU-8932f937-d72c"))


# --- whose memory it is ---------------------------------------------------------------------------

ME = os.getpid()


class FakeCounters:
    """As much of the allocator's counters as the driver's figures are held against."""

    available = True
    reserved: int | None = None

    def __init__(self, kind: str) -> None: ...

    def read(self) -> dict[str, int | None]:
        return {"reserved_bytes": FakeCounters.reserved, "allocated_bytes": 0}

    def synchronize(self) -> None: ...


@pytest.fixture
def view_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeDevice], Any]:
    device_view = pytest.importorskip("lora_profiler.measuring.harness.driver_view")

    def opened_view(card: FakeDevice) -> Any:
        monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(card))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(device_view, "Counters", FakeCounters)
        FakeCounters.reserved = None
        return device_view.DeviceView("cuda")

    return opened_view


HIDDEN: dict[str, Any] = {"processes": None}
EMPTY: dict[str, Any] = {"processes": []}  # as many containers show it
OLD: dict[str, Any] = {"processes": None, "memory_v2": False}


@pytest.mark.parametrize(
    ("card", "idle", "others", "exclusive"),
    [
        (HIDDEN, 1, 0, True),
        (HIDDEN, 64, 250, True),
        (HIDDEN, 65, 0, False),  # somebody's memory is there at the start
        (HIDDEN, 1, 260, False),  # and at the end more than kernels loaded late
        (EMPTY, 1, 0, True),
        (EMPTY, 500, 0, False),
        (EMPTY, 1, 500, False),
        (OLD, 1, 0, None),  # with the driver's reserve among it nothing is known of the start
        (OLD, 1, 500, False),
        ({"processes": [(4242, None)]}, 1, 0, False),
    ],
)
def test_where_processes_are_hidden_memory_tells_who_is_there(
    card: dict[str, Any],
    idle: int,
    others: int,
    exclusive: bool | None,
    view_of: Callable[[FakeDevice], Any],
) -> None:
    device = FakeDevice("GPU-1", used=idle * MIB, **card)
    view = view_of(device)
    device.used, FakeCounters.reserved = (idle + 400 + 22) * MIB, 22 * MIB
    view.sample("context")
    device.used, FakeCounters.reserved = (idle + 400 + 5000 + others) * MIB, 5000 * MIB
    view.note_others()
    assert view.exclusive is exclusive


def test_a_list_that_shows_us_is_believed(view_of: Callable[[FakeDevice], Any]) -> None:
    """A screen takes memory, but it is no process that computes."""
    lists: Any = [([(ME, 5)], True), ([(ME, 5), (4242, 5)], False)]
    for at_the_end, exclusive in lists:
        device = FakeDevice("GPU-1", used=700 * MIB)
        view = view_of(device)
        device.processes = at_the_end
        view.note_others()
        assert view.exclusive is exclusive


def test_a_run_without_a_context_does_not_know_whether_it_was_alone(
    view_of: Callable[[FakeDevice], Any],
) -> None:
    view = view_of(FakeDevice("GPU-1", used=MIB, **HIDDEN))
    view.note_others()
    assert view.exclusive is None


def test_the_context_holds_what_the_first_product_loads(
    view_of: Callable[[FakeDevice], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 MiB for the context, 100 MiB for BLAS; a budget leaves the rest to the allocator, whose
    own bytes are in neither."""
    torch = pytest.importorskip("torch")
    device = FakeDevice("GPU-1", used=3 * MIB, **HIDDEN)
    view = view_of(device)
    zeros, product = torch.zeros, torch.Tensor.__matmul__

    def first_kernel(*size: int, device: str) -> Any:
        grow(302, 2)
        return zeros(*size)

    def first_product(a: Any, b: Any) -> Any:
        grow(164, 66)
        return product(a, b)

    def grow(used: int, reserved: int) -> None:
        device.used, FakeCounters.reserved = device.used + used * MIB, reserved * MIB

    monkeypatch.setattr(torch, "zeros", first_kernel)
    monkeypatch.setattr(torch.Tensor, "__matmul__", first_product)
    view.kind = "cpu"
    view.make_context()
    assert view.context_bytes() == 400 * MIB
    reserved = [(s.when, s.reserved_bytes) for s in view.samples]
    assert reserved == [("idle", None), ("context", 66 * MIB)]
    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 80_000 * MIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    view.kind = "cuda"
    view.limit(8400 * MIB)
    assert fractions == [0.1]


# --- against the real binding ---------------------------------------------------------------------


def test_every_call_and_constant_is_pynvml_s() -> None:
    pynvml = pytest.importorskip("pynvml")
    source = Path(nvml.__file__).read_text()
    named = re.findall(r"\bnvml(?:Device|System|Init|Shutdown)\w*", source)
    calls = {name for name in named if not name.endswith("EventReason")}
    assert len(calls) > 25
    assert {name for name in calls if not callable(getattr(pynvml, name, None))} == set()
    not_faked = {"nvmlDeviceGetClock", "nvmlDeviceGetPowerManagementLimit"}
    assert {name for name in calls if not hasattr(FakeNvml(), name)} <= not_faked
    assert (nvml._CLOCK_SM, nvml._CLOCK_MEMORY) == (pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM)
    assert nvml._APPLICATION_DEFAULT == pynvml.NVML_CLOCK_ID_APP_CLOCK_DEFAULT
    assert nvml._SENSOR_GPU == pynvml.NVML_TEMPERATURE_GPU
    hardware = ("HwSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
    assert sum(getattr(pynvml, f"nvmlClocksEventReason{name}") for name in hardware) == THROTTLING
    assert not THROTTLING & pynvml.nvmlClocksEventReasonSwPowerCap


REAL_BINDING = """
import json, os
from lora_profiler.measuring.harness.nvml import open_device
def facts(uuid=None, **environ):
    with open_device(uuid, environ=environ) as d:
        me = os.getpid()
        return [d.problem, d.uuid(), d.used_bytes(), d.total_bytes(), d.process_bytes(me), d.process_bytes(4242),
                d.other_processes(me), d.mig(), d.energy_millijoules(), d.sm_clock_mhz(), d.memory_clock_mhz(),
                d.temperature_celsius(), d.throttle_reasons(), d.power_watts(), d.power_limit_watts(), d.ecc(), d.driver(),
                d.compute_capability()]
third, fourth = "MIG-33333333-aaaa-bbbb-cccc-000000000003", "MIG-44444444-aaaa-bbbb-cccc-000000000004"
print(json.dumps([facts(), facts(CUDA_VISIBLE_DEVICES="1"), facts(CUDA_VISIBLE_DEVICES=fourth),
                  facts("22222222-aaaa-bbbb-cccc-000000000002", CUDA_VISIBLE_DEVICES=third)]))
"""


@pytest.mark.skipif(
    shutil.which("cc") is None or sys.platform != "linux", reason="needs a C compiler on Linux"
)
def test_the_real_binding_over_a_driver_library(tmp_path: Path) -> None:
    pytest.importorskip("pynvml")
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", library, ROOT / "tests" / "nvml_stub.c"], check=True
    )
    environ = os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    whole, ambiguous, named, of_card = json.loads(in_python(REAL_BINDING, env=environ))
    rest = [1755, 2619, 41, 0x44, 123.4, None, None, "580.65.06", [9, 0]]
    whole_uuid = "GPU-11111111-aaaa-bbbb-cccc-000000000001"
    slices = "MIG-{0}-aaaa-bbbb-cccc-00000000000{1}"
    assert whole == ["", whole_uuid, 1000, 80_000, 700, None, 1, "off", 5_000_000_000, *rest]
    assert "2 slices" in ambiguous[0]
    assert ambiguous[1:] == [None] * 17
    sizes = [4000, 80_000, 700, None, 1, "4g.40gb", None]
    assert named == ["", slices.format("44444444", 4), *sizes, *rest]
    assert of_card[:3] == ["", slices.format("33333333", 3), 3000]


@pytest.mark.gpu
def test_on_a_real_card() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("pynvml")
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA card")
    properties = torch.cuda.get_device_properties(0)
    with open_device(str(properties.uuid)) as device:
        assert device.problem == ""
        assert device.total_bytes() == pytest.approx(properties.total_memory, rel=0.05)
        before = device.used_bytes()
        held = torch.ones(2**28, device="cuda")
        assert before is not None
        assert device.used_bytes() >= before + held.numel() * 4  # type: ignore[operator]
