"""eta and beta out of measured steps: robust least squares of the logarithm of time, in plain
Python.

Gauss-Newton over log eta and log beta; each step weighs a row by Huber's rule against the median
absolute residual, so that a row of another stack than stated pulls no harder than one a few times
less wrong. A card's memory delivers no more than its bandwidth, so that beta is at most 1; its
clock can be above the one that the peak is stated for, so that eta may be more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import median

from lora_profiler.errors import UsageError
from lora_profiler.steptime.roofline import StepLoad

_START = (0.7, 0.7)
_HUBER = 1.345
_MAD_TO_SD = 1.4826
_LEAST_SD = 1e-3
_NUDGE = 1e-4
_ROUNDS = 100
_SETTLED = 1e-9
_LONGEST_STRIDE = 0.5


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured step: its id, what it asks of the card, the seconds it took."""

    id: str
    load: StepLoad
    seconds: float


@dataclass(frozen=True, slots=True)
class Fitted:
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
