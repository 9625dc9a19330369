"""What the measured process learns of its device beside the allocator: the driver's view, context, telemetry, energy, load."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from lora_profiler.harness.counters import Counters
from lora_profiler.harness.machine import CpuTimes, cpu_times, other_cpu_share
from lora_profiler.harness.nvml import Nvml, open_device
from lora_profiler.harness.telemetry import MIN_BLOCK_SECONDS, EnergyMeter, TelemetrySidecar, too_hot
from lora_profiler.record import DeviceSample, Energy, Telemetry, VramMethod


class DeviceView:
    """One device for the time of one case. Opened before anything else touches the device, so that the first sample is idle.

    `exclusive` is False if someone else had memory or a process on the device at the start or the end, None if that is unknown.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.samples: list[DeviceSample] = []
        self.telemetry: Telemetry | None = None
        self.other_cpu_share: float | None = None
        self.exclusive: bool | None = None
        self._nvml: Nvml | None = open_device() if kind == "cuda" else None
        self._energy = EnergyMeter(self._nvml) if self._nvml is not None and self._nvml.available else None
        self._reserved_at_context: int | None = None
        self._others_at_start = self._nvml.other_processes(os.getpid(), holds_context=False) if self._nvml else None
        self.sample("idle")

    def sample(self, when: str) -> None:
        used = self._nvml.used_bytes() if self._nvml is not None else None
        if self._nvml is None or used is None:
            return
        self.samples.append(DeviceSample(when=when, used_bytes=used, process_bytes=self._nvml.process_bytes(os.getpid())))

    def make_context(self) -> int | None:
        """Makes the device's context and its BLAS handles; bytes that a first product and its gradient leave allocated."""
        counters = Counters(self.kind)
        if not counters.available:
            return None
        first = torch.zeros(1, device=self.kind)
        counters.synchronize()
        self.sample("context")
        self._reserved_at_context = counters.read()["reserved_bytes"]
        before = counters.read()["allocated_bytes"]
        x = torch.ones(16, 16, device=self.kind, requires_grad=True)
        (x @ x).sum().backward()  # type: ignore[no-untyped-call]
        counters.synchronize()
        del x
        after = counters.read()["allocated_bytes"]
        del first
        return after - before if after is not None and before is not None else None

    def limit(self, budget_bytes: int | None) -> None:
        """Emulates a device of `budget_bytes` on CUDA: the allocator gets what the context leaves of them."""
        if budget_bytes is None or self.kind != "cuda":
            return
        _, total = torch.cuda.mem_get_info()
        fraction = (budget_bytes - (self.context_bytes() or 0)) / total
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, fraction)))

    @contextmanager
    def timing(self, seconds: float) -> Iterator[Callable[[], None]]:
        """Around a timing pass of at most `seconds`: telemetry from a process of its own, energy, and who kept the machine busy.

        What is yielded is to be called when the warm-up is over; all three count from then on.
        """
        sidecar = TelemetrySidecar(os.getpid()) if self._energy is not None else None
        if self._energy is not None and seconds >= MIN_BLOCK_SECONDS:
            self._energy.idle()
        if sidecar is not None:
            sidecar.start()
        warm: list[CpuTimes | None] = []
        with ExitStack() as block:

            def begin() -> None:
                warm.append(cpu_times())
                if sidecar is not None:
                    sidecar.begin()
                if self._energy is not None:
                    block.enter_context(self._energy.block())

            try:
                yield begin
            finally:
                self.other_cpu_share = other_cpu_share(warm[0], cpu_times(), os.cpu_count() or 1) if warm else None
                if sidecar is not None:
                    self.telemetry = sidecar.stop()

    def energy(self, steps: int) -> Energy | None:
        return self._energy.result(steps) if self._energy is not None and steps else None

    def used_bytes(self, when: str) -> int | None:
        return next((s.used_bytes for s in self.samples if s.when == when), None)

    def context_bytes(self) -> int | None:
        """What the driver took for the context and the first kernel, beyond the idle device and the allocator's own."""
        idle, made = self.used_bytes("idle"), self.used_bytes("context")
        if idle is None or made is None or self._reserved_at_context is None:
            return None
        return made - idle - self._reserved_at_context

    def used_beyond_idle(self) -> int | None:
        idle, end = self.used_bytes("idle"), self.used_bytes("end")
        return end - idle if idle is not None and end is not None else None

    @property
    def process_vram_method(self) -> VramMethod:
        return self._nvml.vram_method(os.getpid()) if self._nvml is not None else "none"

    @property
    def too_hot(self) -> bool:
        return self.telemetry is not None and too_hot(self.telemetry)

    def failure_counters(self) -> dict[str, int | None]:
        """Free, allocated and reserved bytes, as far as the device tells them after a failure."""
        counters = Counters(self.kind)
        read = counters.read()
        free = None
        if counters.available and self._nvml is not None:
            total, used = self._nvml.total_bytes(), self._nvml.used_bytes()
            free = total - used if total is not None and used is not None else None
        return {"free_bytes": free, "allocated_bytes": read["allocated_bytes"], "reserved_bytes": read["reserved_bytes"]}

    def look_around(self) -> None:
        """Sees at the end who else is on the device."""
        if self._nvml is not None and self._others_at_start is not None:
            others = self._nvml.other_processes(os.getpid())
            self.exclusive = None if others is None and not self._others_at_start else not (self._others_at_start or others)

    def close(self) -> None:
        """Lets NVML go."""
        if self._nvml is not None:
            self._nvml.close()
