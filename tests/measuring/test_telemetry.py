"""The sidecar as a real process over a fake driver, the verdict on clocks, and energy against a
counter that is known."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from fake_nvml import FakeDevice, FakeNvml
from lora_profiler.measuring.harness import driver_view as device_view
from lora_profiler.measuring.harness import telemetry
from lora_profiler.measuring.harness.driver_view import DeviceView
from lora_profiler.measuring.harness.nvml import Nvml, open_device
from lora_profiler.measuring.harness.telemetry import (
    EnergyMeter,
    Sampler,
    TelemetrySidecar,
    clock_flag,
    watch,
)
from lora_profiler.measuring.records.record import Energy, Telemetry
from waiting import alive, wait_for_the_end_of, wait_until

TESTS = Path(__file__).parents[1]


def nvml(card: FakeDevice) -> Nvml:
    return open_device(environ={}, pynvml=FakeNvml(card))


# --- the verdict ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reasons", "clocks", "default", "flag"),
    [
        (0x00, (1980, 1980), 1980, None),
        (0x04, (1980, 1500), 1980, None),  # the software power cap is normal
        (0x08, (1980,), 1980, "thermal_throttling"),
        (0x40, (1980,), 1980, "thermal_throttling"),
        (0x80, (), None, "thermal_throttling"),
        (0x60, (1980,), 1980, "thermal_throttling"),
        (0x27, (1980,), 1980, None),
        (0x00, (1484, 1484, 1980), 1980, "low_clock"),
        (0x04, (1200, 1200, 1200), 1980, "low_clock"),  # the power cap, in long products
        (0x24, (1200, 1200, 1200), 1980, "thermal_throttling"),  # heat as well
        (0x08, (1200, 1200, 1200), 1980, "thermal_throttling"),
        (0x00, (1485, 1485, 300), 1980, None),  # exactly three quarters
        (0x00, (300, 300, 300), None, None),
        (0x00, (), 1980, None),
    ],
)
def test_the_flag_of_the_clocks(
    reasons: int, clocks: tuple[int, ...], default: int | None, flag: str | None
) -> None:
    read = {"sm_clock_mhz": clocks, "default_sm_clock_mhz": default, "throttle_reasons": reasons}
    assert clock_flag(Telemetry(**read)) == flag  # type: ignore[arg-type]


# --- sampling -------------------------------------------------------------------------------------


def test_samples_are_kept_and_bits_or_ed() -> None:
    card = FakeDevice("GPU-1", processes=[(7, 1)], used=100)
    sampler = Sampler(nvml(card), 7)
    sampler.sample()
    card.clocks, card.temperature = {1: 1200, 2: 2600}, 70
    card.power, card.reasons = 99_000, 0x44
    card.used = 300
    card.processes = [(7, 1), (8, 1), (9, 1)]
    sampler.sample()
    card.reasons, card.used, card.processes, card.temperature = 0x01, 200, [(7, 1)], None
    sampler.sample()
    assert sampler.telemetry() == Telemetry(
        sm_clock_mhz=(1800, 1200, 1200), memory_clock_mhz=(2600, 2600, 2600),
        temperature_celsius=(55, 70), power_watts=(350.5, 99.0, 99.0), default_sm_clock_mhz=1980,
        throttle_reasons=0x45, other_processes=2, used_bytes_peak=300,
    )  # fmt: skip
    sampler.clear()
    assert sampler.telemetry() == Telemetry(default_sm_clock_mhz=1980)


class Clock:
    """Goes on while somebody waits."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Due:
    """An event that happens at a time."""

    def __init__(self, clock: Clock, at: float) -> None:
        self.clock, self.at = clock, at

    def is_set(self) -> bool:
        return self.clock.now >= self.at

    def clear(self) -> None:
        self.at = float("inf")

    def wait(self, seconds: float) -> None:
        self.clock.now += max(0.0, seconds)


def test_sampling_keeps_its_pace_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even when a sample itself takes most of the interval."""
    clock = Clock()

    class Slow(Sampler):
        taken = 0

        def sample(self) -> None:
            super().sample()
            self.taken += 1
            clock.now += 3 / 64

    ended_and_restart = iter((Due(clock, 1.5), Due(clock, 1.0)))
    nobody = SimpleNamespace(start=lambda: None)
    threads = SimpleNamespace(Event=lambda: next(ended_and_restart), Thread=lambda **_: nobody)
    monkeypatch.setattr(telemetry, "time", clock)
    monkeypatch.setattr(telemetry, "threading", threads)
    sampler = Slow(nvml(FakeDevice("GPU-1")), 7)
    found = watch(sampler, io.StringIO(), 1 / 16)
    assert sampler.taken == 1.5 * 16
    assert len(found.sm_clock_mhz) == 0.5 * 16


# --- the process ----------------------------------------------------------------------------------


@pytest.fixture
def fake_driver(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def plant(**card: object) -> None:
        monkeypatch.setenv("FAKE_NVML", json.dumps(card))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(TESTS / "fake_driver"), str(TESTS))))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return plant


def test_the_sidecar_samples_from_begin_to_stop(fake_driver: Callable[..., None]) -> None:
    fake_driver(processes=[[os.getpid(), 5], [1, 5]], used=123, reasons=4)

    def sampled(seconds: float) -> Telemetry | None:
        """Of a process that has begun after so long, on a machine that is not too busy."""
        sidecar = TelemetrySidecar(os.getpid(), seconds_between=0.02)
        sidecar.start()
        time.sleep(seconds)
        sidecar.begin()
        time.sleep(seconds / 2)
        found = sidecar.stop(timeout_seconds=60)
        assert sidecar.stop() is None
        return found if found and len(found.sm_clock_mhz) >= 5 else None

    found = next(filter(None, map(sampled, (1, 4, 16, 64))))
    assert set(found.sm_clock_mhz) == {1800}
    assert (found.other_processes, found.used_bytes_peak, found.throttle_reasons) == (1, 123, 4)


def test_it_delays_nothing(
    fake_driver: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_driver()
    monkeypatch.setenv("FAKE_NVML_SECONDS", "120")  # a driver that takes its time
    sidecar = TelemetrySidecar(os.getpid())
    asked = time.monotonic()
    sidecar.start()
    sidecar.begin()
    assert sidecar.stop(timeout_seconds=0.2) is None
    assert time.monotonic() - asked < 60


def test_without_nvml_there_is_no_telemetry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pynvml.py").write_text("raise ImportError\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    sidecar = TelemetrySidecar(os.getpid())
    sidecar.start()
    process = sidecar._process
    assert process is not None
    process.wait(60)
    sidecar.begin()
    sidecar.begin()
    assert sidecar.stop() is None


def test_without_a_start_or_a_program_there_is_no_telemetry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sidecar = TelemetrySidecar(os.getpid())
    sidecar.begin()
    assert sidecar.stop() is None
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    sidecar.start()
    assert sidecar.stop() is None


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_sidecar_that_does_not_answer_is_ended(
    fake_driver: Callable[..., None], how: signal.Signals
) -> None:
    fake_driver()
    sidecar = TelemetrySidecar(os.getpid())
    sidecar.start()
    process = sidecar._process
    assert process is not None
    process.send_signal(how)
    asked = time.monotonic()
    assert sidecar.stop(timeout_seconds=0.3) is None
    assert time.monotonic() - asked < 60
    assert process.returncode == -signal.SIGKILL


OWNER = """
import os, sys, time
from lora_profiler.measuring.harness.telemetry import TelemetrySidecar
sidecar = TelemetrySidecar(os.getpid())
sidecar.start()
print(sidecar._process.pid, flush=True)
time.sleep(60)
"""


def ignores(pid: int, which: signal.Signals) -> bool:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigIgn:"):
            return bool(int(line.split()[1], 16) >> (which - 1) & 1)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_dies_with_its_parent_and_ignores_ctrl_c(fake_driver: Callable[..., None]) -> None:
    fake_driver()
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(TESTS.parent), os.environ["PYTHONPATH"]))
    }
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env=environ
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    wait_until(lambda: ignores(pid, signal.SIGINT))
    os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    assert alive(pid)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_for_the_end_of(pid)


# --- energy ---------------------------------------------------------------------------------------


class Card:
    """A card that takes 90 W when idle and 600 W while it works, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 100.0
        self.device = FakeDevice("GPU-1", energy=7_000_000_000)

    def spend(self, seconds: float, watts: float = 90.0) -> None:
        self.now += seconds
        if self.device.energy is not None:
            self.device.energy += round(watts * seconds * 1000)

    @contextmanager
    def meter(self) -> Iterator[EnergyMeter]:
        with nvml(self.device) as opened:
            yield EnergyMeter(opened, clock=lambda: self.now, sleep=self.spend)


def test_energy_of_a_block_and_of_the_idle_wait_before() -> None:
    card = Card()
    with card.meter() as meter:
        meter.idle()
        card.spend(3.0, 300.0)  # what lies between counts to neither
        with meter.block():
            card.spend(12.5, 600.0)
        card.spend(2.0)
        found = meter.result(50)
    assert found == Energy(
        joules=7500.0, seconds=12.5, steps=50, idle_joules=450.0, idle_seconds=5.0
    )


@pytest.mark.parametrize(
    ("idles", "seconds", "begins_anew"),
    [(True, 9.9, False), (False, 20.0, False), (True, None, False), (True, 20.0, True)],
    ids=["a short block", "no idle wait", "no block", "a counter that began anew"],
)
def test_what_says_nothing_of_energy(idles: bool, seconds: float | None, begins_anew: bool) -> None:
    card = Card()
    with card.meter() as meter:
        if idles:
            meter.idle()
        if seconds is not None:
            with meter.block():
                card.spend(seconds, 600.0)
                if begins_anew:
                    card.device.energy = 5
        assert meter.result(40) is None


def test_a_card_without_a_counter_is_not_waited_for() -> None:
    card = Card()
    card.device.energy = None
    with card.meter() as meter:
        meter.idle()
        assert card.now == 100.0
        with meter.block():
            card.spend(20.0)
        assert meter.result(40) is None


def test_an_error_in_the_block_passes_and_leaves_no_energy() -> None:
    card = Card()
    with card.meter() as meter:
        meter.idle()
        with pytest.raises(MemoryError), meter.block():
            card.spend(20.0)
            raise MemoryError
        assert meter.result(40) is None


class SlowSidecar:
    """One that takes three seconds to answer, in which the card is idle."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self.stopped = 0

    def start(self) -> None:
        pass

    begin = start

    def stop(self) -> Telemetry:
        self._card.spend(3.0)
        self.stopped += 1
        return Telemetry(throttle_reasons=4)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> tuple[Card, DeviceView, SlowSidecar]:
    card = Card()
    sidecar = SlowSidecar(card)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(card.device))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device_view, "TelemetrySidecar", lambda pid: sidecar)
    view = DeviceView("cuda")
    view._energy = EnergyMeter(view._nvml, clock=lambda: card.now, sleep=card.spend)
    return card, view, sidecar


def test_energy_ends_before_the_sidecar_is_waited_for(
    watched: tuple[Card, DeviceView, SlowSidecar],
) -> None:
    card, view, _ = watched
    with view.timing(60.0) as begin:
        card.spend(4.0, 500.0)
        begin()
        card.spend(12.5, 600.0)
    assert view.energy(50) == Energy(
        joules=7500.0, seconds=12.5, steps=50, idle_joules=450.0, idle_seconds=5.0
    )
    assert view.telemetry == Telemetry(throttle_reasons=4)
    assert view.other_cpu_share is not None


def test_a_timing_pass_that_fails_leaves_no_energy_and_no_sidecar(
    watched: tuple[Card, DeviceView, SlowSidecar],
) -> None:
    card, view, sidecar = watched
    with pytest.raises(MemoryError), view.timing(60.0) as begin:
        begin()
        card.spend(12.5, 600.0)
        raise MemoryError
    assert view.energy(50) is None
    assert sidecar.stopped == 1
