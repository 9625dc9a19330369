"""What the measured process learns of its device beside the allocator: the driver's view, context,
telemetry, energy, load."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from lora_profiler.measuring.harness.counters import Counters
from lora_profiler.measuring.harness.machine import CpuTimes, cpu_times, other_cpu_share
from lora_profiler.measuring.harness.nvml import Nvml, open_device
from lora_profiler.measuring.harness.telemetry import (
    MIN_BLOCK_SECONDS,
    EnergyMeter,
    TelemetrySidecar,
    clock_flag,
)
from lora_profiler.measuring.records.record import DeviceSample, Energy, Flag, Telemetry, VramMethod
from lora_profiler.units import MIB

IDLE_BYTES = 64 * MIB
"""In use on a device that nobody uses: a few MiB at most where the driver's reserve is told apart.
The smallest context of another process seen in public takes 107 MiB (RTX 4060 Ti)."""
UNEXPLAINED_BYTES = 256 * MIB
"""Beyond context and allocator: kernels loaded later take less, the context of another process on a
large card takes more."""


class DeviceView:
    """One device for the time of one case. Opened before anything else touches the device, so that
    the first sample is idle.

    `exclusive` is False if someone else had a process or memory on the device at the start or the
    end, None if that is unknown.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.samples: list[DeviceSample] = []
        self.telemetry: Telemetry | None = None
        self.other_cpu_share: float | None = None
        self.exclusive: bool | None = None
        self._nvml = open_device() if kind == "cuda" else Nvml(None, None)
        self._energy = EnergyMeter(self._nvml)
        self._others_at_start = self._nvml.other_processes(os.getpid(), holds_context=False)
        self.sample("idle")

    def sample(self, when: str) -> None:
        used = self._nvml.used_bytes()
        if used is None:
            return
        process = self._nvml.process_bytes(os.getpid())
        reserved = Counters(self.kind).read()["reserved_bytes"]
        self.samples.append(
            DeviceSample(when=when, used_bytes=used, process_bytes=process, reserved_bytes=reserved)
        )

    def make_context(self) -> int | None:
        """Makes the device's context and its BLAS handles; bytes that a first product and its
        gradient leave allocated.

        The context's sample follows the product: the kernels of BLAS are a part of what a process
        costs without its tensors.
        """
        counters = Counters(self.kind)
        if not counters.available:
            return None
        first = torch.zeros(1, device=self.kind)
        before = counters.read()["allocated_bytes"]
        x = torch.ones(16, 16, device=self.kind, requires_grad=True)
        (x @ x).sum().backward()  # type: ignore[no-untyped-call]
        counters.synchronize()
        self.sample("context")
        del x
        after = counters.read()["allocated_bytes"]
        del first
        return after - before if after is not None and before is not None else None

    def limit(self, budget_bytes: int | None) -> None:
        """Emulates a device of `budget_bytes` on CUDA: the allocator gets what the context leaves
        of them."""
        if budget_bytes is None or self.kind != "cuda":
            return
        _, total = torch.cuda.mem_get_info()
        fraction = (budget_bytes - (self.context_bytes() or 0)) / total
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, fraction)))

    @contextmanager
    def timing(self, seconds: float) -> Iterator[Callable[[], None]]:
        """Around a timing pass of at most `seconds`: telemetry from a process of its own, energy,
        and who kept the machine busy.

        What is yielded is to be called when the warm-up is over; all three count from then on.
        """
        sidecar = TelemetrySidecar(os.getpid()) if self._nvml.available else None
        if seconds >= MIN_BLOCK_SECONDS:
            self._energy.idle()
        if sidecar is not None:
            sidecar.start()
        warm: list[CpuTimes | None] = []
        try:
            with ExitStack() as block:

                def begin() -> None:
                    warm.append(cpu_times())
                    if sidecar is not None:
                        sidecar.begin()
                    block.enter_context(self._energy.block())

                yield begin
        finally:  # after the block of energy: the device is idle while the sidecar is waited for
            self.other_cpu_share = other_cpu_share(warm[0], cpu_times()) if warm else None
            if sidecar is not None:
                self.telemetry = sidecar.stop()

    def energy(self, steps: int) -> Energy | None:
        return self._energy.result(steps) if steps else None

    def sampled(self, when: str) -> DeviceSample | None:
        return next((s for s in self.samples if s.when == when), None)

    def context_bytes(self) -> int | None:
        """What the driver took for the context and the first kernels, beyond the idle device and
        the allocator's own."""
        idle, made = self.sampled("idle"), self.sampled("context")
        if idle is None or made is None or made.reserved_bytes is None:
            return None
        return made.used_bytes - idle.used_bytes - made.reserved_bytes

    def used_beyond_idle(self) -> int | None:
        idle, end = self.sampled("idle"), self.sampled("end")
        return end.used_bytes - idle.used_bytes if idle is not None and end is not None else None

    @property
    def process_vram_method(self) -> VramMethod:
        return self._nvml.vram_method(os.getpid())

    @property
    def clock_flag(self) -> Flag | None:
        return None if self.telemetry is None else clock_flag(self.telemetry)

    def failure_counters(self) -> dict[str, int | None]:
        """Free, allocated and reserved bytes, as far as the device tells them after a failure."""
        read = Counters(self.kind).read()
        total, used = self._nvml.total_bytes(), self._nvml.used_bytes()
        return {
            "free_bytes": total - used if total is not None and used is not None else None,
            "allocated_bytes": read["allocated_bytes"],
            "reserved_bytes": read["reserved_bytes"],
        }

    def note_others(self) -> None:
        """Sees at the end who else is on the device: by the driver's list of processes, else by
        memory."""
        others = self._nvml.other_processes(os.getpid())
        if self._others_at_start or others:
            self.exclusive = False
        else:
            self.exclusive = (
                True if self._others_at_start == others == 0 else self._alone_by_memory()
            )

    def _alone_by_memory(self) -> bool | None:
        """Where processes are hidden, as in most containers: nobody's memory at the start, and only
        this process's at the end."""
        idle, now = self.sampled("idle"), self._nvml.used_bytes()
        if idle is None or now is None:
            return None
        context, reserved = self.context_bytes(), Counters(self.kind).read()["reserved_bytes"]
        explained = None
        if context is not None and reserved is not None:
            explained = now - idle.used_bytes - context - reserved <= UNEXPLAINED_BYTES
        empty = None if self._nvml.counts_reserve else idle.used_bytes <= IDLE_BYTES
        if empty is False or explained is False:
            return False
        return True if empty and explained else None

    def close(self) -> None:
        """Lets NVML go."""
        self._nvml.close()
