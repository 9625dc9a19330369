"""eta and beta out of measured steps: robust least squares of the logarithm of time, in plain
Python; and what `lora-profile calibrate` found on this machine, as it is kept.

Gauss-Newton over log eta and log beta; each step weighs a row by Huber's rule against the median
absolute residual, so that a row of another stack than stated pulls no harder than one a few times
less wrong. A card's memory delivers no more than its bandwidth, so that beta is at most 1; its
clock can be above the one that the peak is stated for, so that eta may be more.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp, log
from pathlib import Path
from statistics import median
from typing import NamedTuple

from lora_profiler._common.paths import cache_folder
from lora_profiler._common.process import allowed_cpus, cpu_model
from lora_profiler.errors import UsageError
from lora_profiler.memory.kernels import StepKernels
from lora_profiler.question.workload import TrainSetup
from lora_profiler.steptime.constants import Constants, Rates
from lora_profiler.steptime.roofline import StepLoad, loaded, step_of

_START = (0.7, 0.7)
_HUBER = 1.345
_MAD_TO_SD = 1.4826
_LEAST_SD = 1e-3
_NUDGE = 1e-4
_ROUNDS = 100
_SETTLED = 1e-9
_LONGEST_STRIDE = 0.5


class Measured(NamedTuple):
    """A measured step: its id, what it asks of the card, the seconds it took."""

    id: str
    load: StepLoad
    seconds: float


class Fitted(NamedTuple):
    """The two constants, and the ids of the rows behind them."""

    eta: float
    beta: float
    rows: frozenset[str]

    def error(self, row: Measured) -> float:
        """(predicted - measured) / measured of a row that was not fitted. Raises UsageError for one
        that was."""
        if row.id in self.rows:
            raise UsageError(
                f"{row.id} was fitted, so it cannot test the fit; leave it out of one of both."
            )
        return row.load.seconds(self.eta, self.beta) / row.seconds - 1


def fit(rows: Sequence[Measured]) -> Fitted:
    """Raises UsageError for fewer than two rows, and for rows that leave one of both constants
    open."""
    if len(rows) < 2:
        raise UsageError(f"two constants need at least two measured steps; {len(rows)} given.")
    point = (log(_START[0]), log(_START[1]))
    for _ in range(_ROUNDS):
        stride = _stride(rows, point)
        longest = max(abs(part) for part in stride)
        shrink = min(1.0, _LONGEST_STRIDE / longest) if longest else 1.0
        point = (point[0] + shrink * stride[0], point[1] + shrink * stride[1])
        if longest < _SETTLED:
            break
    return Fitted(eta=exp(point[0]), beta=exp(point[1]), rows=frozenset(row.id for row in rows))


def _residual(row: Measured, point: tuple[float, float]) -> float:
    return log(row.load.seconds(exp(point[0]), exp(point[1])) / row.seconds)


def _stride(rows: Sequence[Measured], point: tuple[float, float]) -> tuple[float, float]:
    residuals = [_residual(row, point) for row in rows]
    limit = _HUBER * max(_MAD_TO_SD * median(abs(r) for r in residuals), _LEAST_SD)
    xx = xy = yy = xr = yr = 0.0
    for row, residual in zip(rows, residuals, strict=True):
        x = (_residual(row, (point[0] + _NUDGE, point[1])) - residual) / _NUDGE
        y = (_residual(row, (point[0], point[1] + _NUDGE)) - residual) / _NUDGE
        weight = min(1.0, limit / abs(residual)) if residual else 1.0
        xx, xy, yy = xx + weight * x * x, xy + weight * x * y, yy + weight * y * y
        xr, yr = xr + weight * x * residual, yr + weight * y * residual
    determinant = xx * yy - xy * xy
    if determinant < 1e-9 * len(rows) ** 2:
        raise UsageError(
            "these steps leave one constant open: they are all bound by products, or all by bytes."
            " Add others."
        )
    to_most = -point[1]
    along_beta = (xy * xr - xx * yr) / determinant
    if along_beta <= to_most:
        return (xy * yr - yy * xr) / determinant, along_beta
    return -(xr + xy * to_most) / xx, to_most


def leave_out(rows: Sequence[Measured], group_of: Mapping[str, str]) -> dict[str, float]:
    """The error of every row, by id, under the constants of all rows of other groups."""
    errors: dict[str, float] = {}
    for group in dict.fromkeys(group_of[row.id] for row in rows):
        fitted = fit([row for row in rows if group_of[row.id] != group])
        errors |= {row.id: fitted.error(row) for row in rows if group_of[row.id] == group}
    return errors


# --- local ----------------------------------------------------------------------------------------


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
    from lora_profiler.measuring.records.serialize import RecordError, decoded

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
    from lora_profiler.measuring.records.locks import write_durably

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
