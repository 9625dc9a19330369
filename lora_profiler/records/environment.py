"""The machine and software of a run, and what of them its memory depends on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lora_profiler.platform import TORCH, Platform, capability_of, version_of

REHEARSED = "rehearsed"
"""The kind of a device that was pretended: see `Record.is_rehearsed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The device trained on. `uuid_hash` tells cards apart without naming them.

    `kind` is "cuda", "cpu", "xpu", "mps", or "rehearsed" for a CUDA card that was pretended, whose
    `name` says so too.
    """

    kind: str
    name: str
    total_bytes: int | None = None
    uuid_hash: str | None = None
    compute_capability: str | None = None
    driver: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    vbios: str | None = None
    ecc: bool | None = None
    mig: str | None = None
    power_limit_watts: float | None = None
    clocks_locked: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Machine and software of a run: no host name, user name, path or token.

    `packages` maps distributions to versions; `variables` holds allow-listed environment variables.
    `commit`, `dirty` and `diff_hash` are those of this program's source tree, None for an installed
    one. `limits`: what a rehearsal took for granted, a sentence each; a measured record has none.

    Examples:
        >>> from pathlib import Path
        >>> from lora_profiler import Store
        >>> path = Path("benchmarks/records/cpu-epyc/cpu_families.jsonl")
        >>> record = Store(path).records()[0]
        >>> record.environment.packages["torch"]
        '2.13.0+cpu'
    """

    python: str
    platform: str
    packages: Mapping[str, str]
    device: Device
    cpu: str | None = None
    logical_cpus: int | None = None
    threads: int | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    allocator: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    dirty: bool | None = None
    diff_hash: str | None = None
    command: str | None = None
    limits: tuple[str, ...] = ()

    @property
    def trained_on(self) -> Platform:
        """What of this environment the memory of a step depends on, for predictions."""
        is_cuda = self.device.kind in ("cuda", REHEARSED)
        capability = capability_of(self.device.compute_capability) if is_cuda else None
        return Platform(
            capability=capability, torch=version_of(self.packages.get("torch", "")) or TORCH
        )

    @property
    def key(self) -> str:
        """12 hex digits of what can change a result: software, device, processor, threads and
        settings; not the commit.

        Of the allocator the backend counts: which settings are in force follows from the variables
        and torch's version, and can be read only once the device was used.
        """
        import hashlib
        import json

        device = self.device
        parts = [
            self.python, self.platform, sorted(self.packages.items()),
            sorted(self.variables.items()), self.cpu, self.threads, device.kind, device.name,
            device.total_bytes, device.driver, device.cuda, device.mig,
            self.allocator and self.allocator.partition(",")[0],
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
