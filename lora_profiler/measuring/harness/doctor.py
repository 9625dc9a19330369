"""What this installation can do: versions, devices, measuring, cache folders and hub settings.

Imports nothing heavy and prints no secret; what only torch can tell comes from a process of its
own.
"""

import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from shutil import disk_usage

from lora_profiler._common.own_defaults import config_path, has_config, read_config
from lora_profiler._common.packages import installed_version
from lora_profiler._common.paths import hub_cache, hub_home
from lora_profiler.errors import UsageError
from lora_profiler.measuring.harness.capabilities import Abilities, abilities
from lora_profiler.measuring.harness.nvml import Nvml, open_cards
from lora_profiler.units import bytes_text

PACKAGES: dict[str, str] = {
    "click": "command line", "rich": "tables on a terminal",
    "huggingface_hub": "models that are not bundled", "numpy": "sweep()", "torch": "measuring",
    "transformers": "measuring", "peft": "measuring", "accelerate": "measuring",
    "bitsandbytes": "QLoRA and 8-bit optimizers", "nvidia-ml-py": "devices below, and --gpu auto",
    "psutil": "measuring", "streamlit": "dashboard", "pandas": "dashboard",
    "jinja2": "report", "ray": "bench --ray",
}  # fmt: skip
"""Distribution name -> what it is for here."""

SECTIONS = ("python", "packages", "devices", "measuring", "hub", "defaults")
"""Of a diagnosis, in order."""
MEASURING = ("torch", "transformers", "peft", "accelerate")
"""Distributions without which nothing is trained."""

_VRAM_METHODS = {
    "pid": "yes",
    "device_delta": (
        "no, the driver hides it here; taken from the whole device less what was in use before"
    ),
    "none": "no",
}

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
HUB_VARIABLES = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_TOKEN_PATH",
    "HF_HUB_OFFLINE",
    "HF_ENDPOINT",
    "HF_HUB_DISABLE_TELEMETRY",
)
DEVICE_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "CUBLAS_WORKSPACE_CONFIG",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """One fact a line: (section, name, value)."""

    lines: tuple[tuple[str, str, str], ...]

    def as_dict(self) -> dict[str, dict[str, str]]:
        out: dict[str, dict[str, str]] = {}
        for section, name, value in self.lines:
            out.setdefault(section, {})[name] = value
        return out


def diagnosed(environ: Mapping[str, str] | None = None) -> Iterator[Diagnosis]:
    """Section after section; that of measuring takes a few seconds where torch is installed.
    `environ` stands in for the environment in tests."""
    env = os.environ if environ is None else environ
    yield _section(
        "python",
        [
            ("version", platform.python_version()),
            ("platform", platform.platform()),
            ("executable", sys.executable),
        ],
    )
    yield _section("packages", [(name, _version(name)) for name in PACKAGES])
    variables = [(name, env[name]) for name in DEVICE_VARIABLES if name in env]
    yield _section("devices", [*_device_lines(), *variables])
    yield _section("measuring", [*_measuring_lines(abilities(env)), *_record_lines()])
    yield _section("hub", _hub_lines(env))
    yield _section("defaults", _default_lines(env))


def _section(name: str, lines: Iterable[tuple[str, str]]) -> Diagnosis:
    return Diagnosis(lines=tuple((name, *line) for line in lines))


def _version(distribution: str) -> str:
    return installed_version(distribution) or f"not installed ({PACKAGES[distribution]})"


def missing() -> list[str]:
    """Distributions that measuring and traces lack."""
    return [name for name in MEASURING if not _installed(name)]


def _installed(distribution: str) -> bool:
    return not _version(distribution).startswith("not installed")


def _device_lines() -> list[tuple[str, str]]:
    """Cards that NVML lists, or why there is none."""
    cards, problem = open_cards()
    lines = [("NVML", problem or f"driver {cards[0].driver()}")]
    for i, card in enumerate(cards):
        with card:
            lines.append((f"{i}: {card.name()}", _card_text(card)))
    return lines


def _card_text(card: Nvml) -> str:
    total, used, counter = card.total_bytes(), card.used_bytes(), card.energy_millijoules()
    memory = "memory shared with the processor"
    if total is not None and used is not None:
        memory = f"{bytes_text(total)}, {bytes_text(used)} in use"
    energy = "energy counter" if counter is not None else "no energy counter"
    return f"{memory}, MIG {card.mig()}, {energy}"


def _measuring_lines(abilities: Abilities) -> Iterator[tuple[str, str]]:
    """What `bench` can train here, and why not."""
    lacking = missing()
    devices = ", ".join(abilities.devices)
    trains = f"yes, on {devices}" if devices else f"no: {abilities.problem}"
    if lacking:
        names = ", ".join(lacking)
        trains = f"no: {names} not installed; pip install 'lora-profiler[measure]'"
    yield "full, LoRA", trains
    yield "QLoRA", _qlora_text(abilities, bool(lacking))
    if devices:
        bfloat16 = [f"{device}: {text}" for device, text in abilities.bfloat16.items()]
        yield "torch", f"{abilities.torch}, sees {devices}"
        yield "bfloat16", ", ".join(bfloat16) or "not known"
    if abilities.problem and devices:
        yield "inquiry", f"stopped at {abilities.problem}"
    if abilities.vram_method is not None:
        yield "memory of one process", _VRAM_METHODS[abilities.vram_method]


def _qlora_text(abilities: Abilities, incomplete: bool) -> str:
    if not _installed("bitsandbytes"):
        return "no: bitsandbytes not installed; pip install 'lora-profiler[qlora]'"
    if incomplete or not abilities.devices:
        return "no, as above"
    works = [device for device, text in abilities.four_bit.items() if text == "yes"]
    fails = [f"{device}: {text}" for device, text in abilities.four_bit.items() if text != "yes"]
    return "; ".join([f"yes, on {', '.join(works)}"] * bool(works) + fails) or "not known"


def _record_lines() -> list[tuple[str, str]]:
    """Where `bench` keeps its records unless told otherwise, and how much room is left there."""
    from lora_profiler.measuring.records.load import StoreError
    from lora_profiler.measuring.records.store import default_records_path

    try:
        path = default_records_path()
        folder = next(f for f in path.parents if f.is_dir())
        return [("records", str(path)), ("free disk there", bytes_text(disk_usage(folder).free))]
    except (StoreError, OSError) as e:
        return [("records", f"no place: {e}")]


def _hub_lines(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    cache = hub_cache(env)
    usual = os.path.join(hub_home(env), "token")
    token_file = os.path.expanduser(env.get("HF_TOKEN_PATH") or usual)
    set_by = next((name for name in TOKEN_VARIABLES if env.get(name)), "")
    set_by = set_by or ("a token file" if os.path.isfile(token_file) else "")
    offline = env.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    only = "yes, HF_HUB_OFFLINE is set: bundled, local and cached models only"
    there = "exists" if os.path.isdir(cache) else "not there yet, or not readable"
    yield "cache folder", f"{cache} ({there})"
    yield "token", f"set by {set_by}" if set_by else "none (gated models need one)"
    yield "offline", only if offline else "no"
    for name in HUB_VARIABLES:
        if name in env:
            yield name, _without_credentials(env[name])


def _default_lines(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The user's own defaults of the command line, or what is wrong with their file."""
    path = config_path(env)
    if not has_config(path):
        yield "file", f"{path} (not there)"
        return
    yield "file", str(path)
    try:
        values = read_config(path)
    except UsageError as e:
        yield "problem", str(e)
        return
    yield from ((k, v if isinstance(v, str) else ", ".join(v)) for k, v in values.items())


def _without_credentials(value: str) -> str:
    """An address with user and password left out."""
    scheme, separator, rest = value.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else value
