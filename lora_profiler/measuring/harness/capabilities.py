"""What torch can train on here, found out by a process of its own, `python -m
lora_profiler.measuring.harness.capabilities`, and which device a command takes.

Whoever asks imports no torch and makes no device context. The process tries the things themselves:
a tensor on each device, a 4-bit weight there and back; what it found before it crashed or ran out
of time still counts.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from lora_profiler._common.packages import installed_version
from lora_profiler.measuring.harness.nvml import open_device
from lora_profiler.measuring.harness.preflight import MeasurementError
from lora_profiler.measuring.harness.process import python_path
from lora_profiler.measuring.records.record import VramMethod
from lora_profiler.question.gpu_platform import TORCH, Platform, version_of
from lora_profiler.question.workload import Device

_CPU_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16", "bf16"})
"""Names of processor flags, on x86 and ARM, of instructions that multiply in bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """torch's version, None if it is not there; its device types, best first; per device what
    works, "yes" or why not.

    `vram_method` is how the memory of one process can be told on a CUDA device. `problem` says what
    ended the inquiry early.
    """

    torch: str | None = None
    devices: tuple[str, ...] = ()
    bfloat16: Mapping[str, str] = field(default_factory=dict)
    four_bit: Mapping[str, str] = field(default_factory=dict)
    vram_method: VramMethod | None = None
    problem: str = ""


def abilities(environ: Mapping[str, str] | None = None, timeout_seconds: float = 30.0) -> Abilities:
    """Starts the process and waits for it, a few seconds where all is well, `timeout_seconds` at
    most. Raises nothing."""
    if find_spec("torch") is None:
        return Abilities(problem="torch is not installed")
    env = dict(os.environ if environ is None else environ)
    env["PYTHONPATH"] = python_path(env)
    command = [sys.executable, "-m", "lora_profiler.measuring.harness.capabilities"]
    try:
        done = subprocess.run(
            command,
            check=False,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_seconds,
        )
        output, ending = done.stdout, _ending(done)
    except subprocess.TimeoutExpired as e:
        output, ending = e.stdout or b"", f"took longer than {timeout_seconds:g} s"
    except OSError as e:
        return Abilities(problem=f"python cannot be started ({e})")
    facts: dict[str, Any] = {}
    for line in output.decode(errors="replace").splitlines():
        if line.startswith("{") and line.endswith("}"):
            facts.update(json.loads(line))
    trying = facts.pop("trying", "importing torch")
    known = {"devices": tuple(facts.pop("devices", ())), **facts}
    return Abilities(**known, problem=f"{trying}: {ending}" if ending else "")


def _ending(done: "subprocess.CompletedProcess[bytes]") -> str:
    """Why the process ended early; "" if it did not."""
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"ended with code {done.returncode}"


# --- the process ----------------------------------------------------------------------------------


def main() -> None:
    """Prints what is found, one JSON object a line, the later completing the earlier."""
    for facts in inquiry():
        print(json.dumps(facts), flush=True)


def inquiry() -> Iterator[dict[str, Any]]:
    import torch

    accelerator = (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    )
    devices = [*([accelerator.type] if accelerator is not None else []), "cpu"]
    yield {"torch": torch.__version__, "devices": devices, "trying": "bfloat16"}
    yield {
        "bfloat16": {device: _bfloat16(torch, device) for device in devices},
        "trying": "memory of one process",
    }
    if devices[0] == "cuda":
        yield {"vram_method": _vram_method(torch)}
    four_bit: dict[str, str] = {}
    for device in devices if find_spec("bitsandbytes") is not None else ():
        yield {"trying": f"4 bit on {device}"}
        four_bit[device] = _four_bit(torch, device)
        yield {"four_bit": dict(four_bit)}


def _bfloat16(torch: Any, device: str) -> str:
    if device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "in software" if torch.cuda.is_bf16_supported() else "no"
    try:
        ones = torch.ones(8, 8, dtype=torch.bfloat16, device=device)
        (ones @ ones).sum().item()
    except Exception as e:  # each backend has errors of its own
        return f"no ({type(e).__name__})"
    return "in software" if device == "cpu" and not _CPU_BFLOAT16 & _cpu_flags() else "yes"


def _cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next(
                (set(line.split()) for line in file if line.startswith(("flags", "Features"))),
                set(),
            )
    except OSError:
        return set()


def _vram_method(torch: Any) -> VramMethod:
    from lora_profiler.measuring.harness.nvml import open_device

    held = torch.ones(2**20, device="cuda")  # a context, without which no driver lists the process
    torch.cuda.synchronize()
    with open_device(
        str(getattr(torch.cuda.get_device_properties(held.device), "uuid", "")) or None
    ) as nvml:
        return nvml.vram_method(os.getpid())


def _four_bit(torch: Any, device: str) -> str:
    """A weight to NF4 with double quantisation and back, as QLoRA keeps its base."""
    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        weight = torch.linspace(-1, 1, 64 * 64, device=device).reshape(64, 64)
        back = dequantize_4bit(*quantize_4bit(weight, quant_type="nf4", compress_statistics=True))
        worst = (back - weight).abs().max().item()
    except Exception as e:  # a missing library, an unknown device, a kernel that is not there
        return f"no ({type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''})"
    return "yes" if worst < 0.25 else f"no (values come back {worst:g} off)"


if __name__ == "__main__":
    main()


# --- device choice --------------------------------------------------------------------------------


CPU_BUILD = "+cpu"
"""How torch's own version ends where it was built without any accelerator."""
_DEVICE_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/dri")
"""What Linux shows where NVIDIA (dxg: under Windows), AMD or Intel devices can be used."""
_QUESTION = (
    "import torch; found = torch.accelerator.current_accelerator(check_available=True); print(found"
    " and found.type)"
)
_ANSWER_SECONDS = 120.0


def present_device(
    platform: str = sys.platform,
    exists: Callable[[str], bool] = lambda path: Path(path).exists(),
    ask: Callable[[], str | None] | None = None,
) -> Device:
    """The accelerator that torch would train on here, "cpu" where there is none.

    Most machines tell at once; where a device is there but not NVIDIA's to tell of, torch is asked
    in a process of its own.
    """
    if torch_version().endswith(CPU_BUILD):
        return "cpu"
    with open_device() as nvml:
        if nvml.available:
            return "cuda"
    if platform == "linux" and not any(map(exists, _DEVICE_FILES)):
        return "cpu"
    accelerator = (ask or _torch_accelerator)()
    return accelerator if accelerator in get_args(Device) else "cpu"  # type: ignore[return-value]  # one of the four by now


def present_platform(device: Device) -> Platform:
    """What `device` is here: no capability where it is no CUDA card or NVML cannot tell, the usual
    torch where pip cannot."""
    torch = version_of(torch_version())
    capability = None
    if device == "cuda":
        with open_device() as card:
            version = card.compute_capability()
        capability = 10 * version[0] + version[1] if version else None
    return Platform(capability=capability, torch=torch or TORCH)


def check_device(device: Device) -> None:
    """Raises MeasurementError where the installed torch was built without the device."""
    if device != "cpu" and torch_version().endswith(CPU_BUILD):
        raise MeasurementError(
            f"torch {torch_version()} is built for the CPU alone and has no {device}; take --device"
            " cpu."
        )


def torch_version() -> str:
    """The installed torch's version; "" if there is none."""
    return installed_version("torch") or ""


def _torch_accelerator() -> str | None:
    """What torch names as its accelerator in a process of its own; None where it has none, or where
    that process fails."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _QUESTION],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ANSWER_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
