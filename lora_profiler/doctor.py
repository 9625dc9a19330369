"""What this installation can do: versions, devices, cache folders and hub settings. Imports nothing heavy, prints no secret."""

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGES: dict[str, str] = {
    "click": "command line",
    "rich": "tables on a terminal",
    "huggingface_hub": "models that are not bundled",
    "numpy": "sweep()",
    "torch": "measuring",
    "transformers": "measuring",
    "peft": "measuring",
    "accelerate": "measuring",
    "bitsandbytes": "QLoRA and 8-bit optimizers",
    "nvidia-ml-py": "devices below, and --gpu auto",
    "psutil": "measuring",
    "streamlit": "dashboard",
    "plotly": "dashboard and report",
    "pandas": "dashboard",
    "jinja2": "report",
}
"""Distribution name -> what it is for here."""

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
HUB_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HUB_DISABLE_TELEMETRY")
DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A card as NVML sees it. `mig` is "off", "on" (its slices are what a process gets) or "not supported"."""

    index: int
    name: str
    total_bytes: int
    used_bytes: int
    mig: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """One fact a line: (section, name, value)."""

    lines: tuple[tuple[str, str, str], ...]

    def as_dict(self) -> dict[str, dict[str, str]]:
        out: dict[str, dict[str, str]] = {}
        for section, name, value in self.lines:
            out.setdefault(section, {})[name] = value
        return out


def diagnose(environ: Mapping[str, str] | None = None) -> Diagnosis:
    """Looks around once. `environ` stands in for the environment in tests."""
    env = os.environ if environ is None else environ
    lines = [("python", "version", platform.python_version()), ("python", "platform", platform.platform())]
    lines += [("python", "executable", sys.executable)]
    lines += [("packages", name, _version(name)) for name in PACKAGES]
    devices, problem = nvml_devices()
    if problem:
        lines.append(("devices", "NVML", problem))
    lines += [("devices", f"{d.index}: {d.name}", _device_text(d)) for d in devices]
    lines += [("devices", name, env[name]) for name in DEVICE_VARIABLES if name in env]
    lines += _hub_lines(env)
    return Diagnosis(lines=tuple(lines))


def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return f"not installed ({PACKAGES[distribution]})"


def _device_text(device: Device) -> str:
    from lora_profiler.units import bytes_text

    return f"{bytes_text(device.total_bytes)}, {bytes_text(device.used_bytes)} in use, MIG {device.mig}"


def nvml_devices() -> tuple[list[Device], str]:
    """Cards that NVML lists, and why there is none. Makes no CUDA context."""
    try:
        import pynvml  # from the distribution nvidia-ml-py
    except ImportError:
        return [], "nvidia-ml-py is not installed, so no card was looked for"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as e:
        return [], f"no NVIDIA driver here ({e})"
    try:
        return [_device(pynvml, i) for i in range(pynvml.nvmlDeviceGetCount())], ""
    except pynvml.NVMLError as e:
        return [], f"NVML failed ({e})"
    finally:
        pynvml.nvmlShutdown()


def _device(pynvml: Any, index: int) -> Device:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = pynvml.nvmlDeviceGetName(handle)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        mig = "on" if pynvml.nvmlDeviceGetMigMode(handle)[0] else "off"
    except pynvml.NVMLError:
        mig = "not supported"
    return Device(
        index=index,
        name=name.decode() if isinstance(name, bytes) else str(name),
        total_bytes=int(memory.total),
        used_bytes=int(memory.used),
        mig=mig,
    )


def _hub_lines(env: Mapping[str, str]) -> list[tuple[str, str, str]]:
    home = Path(env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface").expanduser()
    cache = Path(env.get("HF_HUB_CACHE") or home / "hub").expanduser()
    token_file = Path(env.get("HF_TOKEN_PATH") or home / "token").expanduser()
    set_by = next((name for name in TOKEN_VARIABLES if env.get(name)), "")
    token = f"set by {set_by}" if set_by else "set by a token file" if token_file.is_file() else "none (gated models need one)"
    offline = env.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    lines = [
        ("hub", "cache folder", f"{cache} ({'exists' if cache.is_dir() else 'not there yet'})"),
        ("hub", "token", token),
        ("hub", "offline", "yes, HF_HUB_OFFLINE is set: bundled, local and cached models only" if offline else "no"),
    ]
    return lines + [("hub", name, _without_credentials(env[name])) for name in HUB_VARIABLES if name in env]


def _without_credentials(value: str) -> str:
    """An address with user and password left out."""
    scheme, separator, rest = value.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else value
