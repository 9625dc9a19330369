"""Clocks, heat, power and energy of the device while a run is timed.

The samples come from a process of its own, `python -m lora_profiler.measuring.harness.telemetry`: a
thread would take the interpreter from the loop that it watches. It ends when its standard input
closes, so that it never outlives the run.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from lora_profiler.measuring.harness.nvml import SW_THERMAL_SLOWDOWN, THROTTLING, Nvml, open_device
from lora_profiler.measuring.harness.process import python_path
from lora_profiler.measuring.records.record import Energy, Flag, Telemetry

IDLE_SECONDS = 5.0
MIN_BLOCK_SECONDS = 10.0
"""A shorter block says too little: cards see their own power only part of the time (arXiv
2312.02741)."""

LEAST_CLOCK_SHARE = 0.75
"""Of the default clock: a lower median is flagged."""


def clock_flag(telemetry: Telemetry) -> Flag | None:
    """What the clocks say of the times: that heat or a power brake slowed the card, or only that it
    ran far below its default.

    The second has ordinary causes, the software power cap in long products or locked clocks above
    all: such times are the card's.
    """
    reasons = telemetry.throttle_reasons
    low = _clock_is_low(telemetry)
    if reasons & THROTTLING or (low and reasons & SW_THERMAL_SLOWDOWN):
        return "thermal_throttling"
    return "low_clock" if low else None


def _clock_is_low(telemetry: Telemetry) -> bool:
    if not telemetry.sm_clock_mhz or telemetry.default_sm_clock_mhz is None:
        return False
    from statistics import median

    return median(telemetry.sm_clock_mhz) < LEAST_CLOCK_SHARE * telemetry.default_sm_clock_mhz


# --- the sidecar, seen from the measured process --------------------------------------------------


_COMMAND = (sys.executable, "-m", "lora_profiler.measuring.harness.telemetry")


class TelemetrySidecar:
    """Samples the device of process `pid` from `start` (or the last `begin`) to `stop`. None of the
    three raises."""

    def __init__(self, pid: int, *, seconds_between: float = 0.1) -> None:
        self._command = [*_COMMAND, str(pid), str(seconds_between)]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Starts the process and waits for nothing. It takes its first sample some tenths of a
        second later."""
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": python_path()},
            )
        except OSError:
            self._process = None

    def begin(self) -> None:
        """Forgets the samples so far, such as those of the warm-up. Waits for nothing."""
        if self._process is not None and self._process.stdin is not None:
            try:
                self._process.stdin.write("begin\n")
                self._process.stdin.flush()
            except OSError:
                return

    def stop(self, timeout_seconds: float = 3.0) -> Telemetry | None:
        """What was sampled; None without NVML, without a single sample, or if the process does not
        answer in time."""
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            answer, _ = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return None
        return _telemetry(answer)


def _telemetry(answer: str) -> Telemetry | None:
    import json

    from lora_profiler.measuring.records.serialize import RecordError, decoded

    try:
        telemetry = decoded(Telemetry | None, json.loads(answer), "telemetry")
    except (ValueError, RecordError):  # it was ended before it could answer
        return None
    return telemetry if isinstance(telemetry, Telemetry) else None


# --- the sidecar itself ---------------------------------------------------------------------------


_SERIES = ("sm_clock_mhz", "memory_clock_mhz", "temperature_celsius", "power_watts")
"""Fields of `Telemetry` that hold every sample, by the names of `Nvml`'s methods."""


class Sampler:
    """Collects what `nvml` says; figures that it does not tell stay out."""

    def __init__(self, nvml: Nvml, pid: int) -> None:
        self._nvml = nvml
        self._pid = pid
        self.clear()

    def clear(self) -> None:
        """Forgets every sample."""
        self._series: dict[str, list[Any]] = {}
        self._reasons = 0

    def sample(self) -> None:
        """Takes one sample."""
        figures = {name: getattr(self._nvml, name)() for name in _SERIES}
        figures["other_processes"] = self._nvml.other_processes(self._pid)
        figures["used_bytes_peak"] = self._nvml.used_bytes()
        for name, value in figures.items():
            if value is not None:
                self._series.setdefault(name, []).append(value)
        self._reasons |= self._nvml.throttle_reasons() or 0

    def telemetry(self) -> Telemetry:
        values_by_name = self._series.items()
        read: dict[str, Any] = {
            n: tuple(of) if n in _SERIES else max(of) for n, of in values_by_name
        }
        return Telemetry(
            **read,
            default_sm_clock_mhz=self._nvml.default_sm_clock_mhz(),
            throttle_reasons=self._reasons,
        )


def watch(sampler: Sampler, commands: IO[str], seconds_between: float) -> Telemetry:
    """Samples every `seconds_between` until `commands` ends; a line in it clears what was
    sampled."""
    ended, restart = threading.Event(), threading.Event()

    def listen() -> None:
        for _ in commands:
            restart.set()
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    due = time.monotonic()
    while not ended.is_set():
        if restart.is_set():
            restart.clear()
            sampler.clear()
        sampler.sample()
        due = max(due + seconds_between, time.monotonic())
        ended.wait(due - time.monotonic())
    return sampler.telemetry()


def main(pid: str, seconds_between: str) -> None:
    """Prints one Telemetry as JSON, or null without NVML, when standard input closes."""
    import json
    import signal
    from dataclasses import asdict

    # Ctrl-C reaches the whole group; the run decides when this ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answer = None
    with open_device() as nvml:
        if nvml.available:
            telemetry = watch(Sampler(nvml, int(pid)), sys.stdin, float(seconds_between))
            answer = asdict(telemetry)
    try:
        print(json.dumps(answer), flush=True)
    except BrokenPipeError:  # nobody is there to read it
        os._exit(0)


# --- energy ---------------------------------------------------------------------------------------


class EnergyMeter:
    """The driver's energy counter over an idle wait and over one block of whole steps, begun and
    ended on synchronised devices.

    meter = EnergyMeter(nvml)
    meter.idle()
    with meter.block():
        ...
    energy = meter.result(steps)
    """

    def __init__(
        self,
        nvml: Nvml,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`clock` and `sleep` stand in for time in tests."""
        self._nvml = nvml
        self._clock = clock
        self._sleep = sleep
        self._idle: tuple[float, float] | None = None
        self._block: tuple[float, float] | None = None

    def idle(self, seconds: float = IDLE_SECONDS) -> None:
        """Waits, and reads what the idle device takes meanwhile. Does not wait where there is no
        counter."""
        before = self._read()
        if before is not None:
            self._sleep(seconds)
            self._idle = _difference(before, self._read())

    @contextmanager
    def block(self) -> Iterator[None]:
        before = self._read()
        yield
        self._block = _difference(before, self._read())

    def result(self, steps: int) -> Energy | None:
        """Of a block of `steps` optimizer steps. None without a counter or an idle wait, and for a
        block under ten seconds."""
        if self._idle is None or self._block is None or self._block[1] < MIN_BLOCK_SECONDS:
            return None
        joules, seconds = self._block
        return Energy(
            joules=joules,
            seconds=seconds,
            steps=steps,
            idle_joules=self._idle[0],
            idle_seconds=self._idle[1],
        )

    def _read(self) -> tuple[int, float] | None:
        millijoules = self._nvml.energy_millijoules()
        return None if millijoules is None else (millijoules, self._clock())


def _difference(
    before: tuple[int, float] | None, after: tuple[int, float] | None
) -> tuple[float, float] | None:
    """Joules and seconds between two readings; None if one is missing or the counter began anew
    (the driver was reloaded)."""
    if before is None or after is None or after[0] < before[0]:
        return None
    return (after[0] - before[0]) / 1000, after[1] - before[1]


if __name__ == "__main__":
    main(*sys.argv[1:])
