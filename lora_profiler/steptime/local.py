"""What `lora-profile calibrate` measured on this machine, as it is kept: one JSON file a device in
the user's cache folder.

    {"format": 1, "key": ..., "rates": {...}, "constants": {...}, "half_width": ..., "errors":
    {step: error, ...},
     "provenance": {"device", "cpu", "threads", "torch", "packages", "platform", "measured_at"}}

Whoever reads imports no torch. A file that cannot be read, or of another format, counts as none: it
can be measured again.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lora_profiler._common.paths import cache_folder
from lora_profiler._common.process import allowed_cpus, cpu_model
from lora_profiler.kernels import StepKernels
from lora_profiler.steptime.constants import Constants, Rates
from lora_profiler.steptime.roofline import StepLoad, loaded
from lora_profiler.steptime.step import step_of
from lora_profiler.workload import TrainSetup

FORMAT = 1
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Of the environment: how many threads torch takes, where somebody says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a calibration comes from. `threads` are torch's own, `measured_at` is UTC in ISO
    8601."""

    device: str
    cpu: str | None
    threads: int | None
    torch: str
    packages: Mapping[str, str]
    platform: str
    measured_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalConstants:
    """Constants of one device of this machine, fitted to steps that it made.

    `errors`: (predicted - measured) / measured of each fitted step by the constants of the steps of
    all other models; `half_width` of the interval around a prediction, as a share of the measured
    time: the largest of them.
    """

    key: str
    rates: Rates
    constants: Constants
    half_width: float
    errors: Mapping[str, float]
    provenance: Provenance

    def load(self, kernels: StepKernels, setup: TrainSetup) -> StepLoad:
        """What one optimizer step of `setup`, whose micro-batch launches `kernels`, asks of this
        device.

        Raises UsageError for an optimizer whose update is not counted.
        """
        return loaded(step_of(kernels, setup), self.rates, self.constants.fixed)

    def seconds(self, kernels: StepKernels, setup: TrainSetup) -> float:
        """Of one optimizer step. Raises what `load` raises."""
        return self.load(kernels, setup).seconds(self.constants.eta, self.constants.beta)


def cpu_key(environ: Mapping[str, str] | None = None) -> str:
    """This machine's CPU under a name of its own: model, processors that this process may use, and
    threads where somebody sets them. The same with and without torch."""
    env = os.environ if environ is None else environ
    parts = ["cpu", cpu_model() or "unknown", str(len(allowed_cpus()) or os.cpu_count() or 1)]
    parts += [f"{name.partition('_')[0]} {env[name]}" for name in THREAD_VARIABLES if env.get(name)]
    return key_of(" ".join(parts))


def key_of(name: str) -> str:
    """Lower-case letters, digits and single underscores of a name, fit for a file's."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def local_path(device_key: str) -> Path | None:
    """Where the calibration of a device is kept; None where there is no home."""
    folder = cache_folder()
    return None if folder is None else folder / "calibration" / f"{key_of(device_key)}.json"


def local_constants(device_key: str) -> LocalConstants | None:
    """The calibration of the device of that key (a card's in the catalogue, or `cpu_key()`); None
    where there is none."""
    path = local_path(device_key)
    if path is None:
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        return None
    # most machines have none, and an answer about a card does without the reader of records
    from lora_profiler.records.decode import RecordError, decoded

    try:
        constants: LocalConstants = decoded(LocalConstants, document, "calibration")
    except (ValueError, RecursionError, RecordError):
        return None
    return constants if _is_usable(constants) else None


def local_cpu() -> LocalConstants | None:
    """The calibration of this machine's CPU; None where there is none."""
    return local_constants(cpu_key())


def keep(local: LocalConstants) -> Path | None:
    """Writes a calibration in place of an older one of its device. None where it cannot be kept."""
    path = local_path(local.key)
    if path is None:
        return None
    from lora_profiler.records.atomic_write import write_durably

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(document_of(local), indent=1, allow_nan=False) + "\n")
    except OSError:
        return None
    return path


def document_of(local: LocalConstants) -> dict[str, object]:
    return {"format": FORMAT, **asdict(local)}


def _is_usable(local: LocalConstants) -> bool:
    """Every figure that something is divided by is above 0, and the interval below the whole."""
    rates, constants = local.rates, local.constants
    rate = (
        rates.bandwidth,
        rates.tensor_flops,
        rates.fp32_flops,
        *rates.operators.values(),
        *rates.tile,
    )
    fixed = constants.fixed
    reached = (
        constants.eta,
        constants.beta,
        fixed.attention_forward,
        fixed.attention_backward,
        fixed.dequantisation,
    )
    others = [value for value in (rates.fresh_bandwidth, fixed.fp32_product) if value is not None]
    return (
        all(value > 0 for value in (*rate, *reached, *others))
        and len(rates.tile) == 2
        and all(len(pair) == 2 and min(pair) > 0 for pair in rates.narrow)
        and 0 <= local.half_width < 1
    )
