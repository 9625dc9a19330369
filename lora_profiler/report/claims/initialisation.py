"""Claim 4: A starts Gaussian and B zero, so that training starts exactly from the base model."""

from dataclasses import dataclass
from typing import Literal

from lora_profiler.report.blocks import Table
from lora_profiler.report.claims.claim import (
    Claim,
    Count,
    Evidence,
    Number,
    OfLimit,
    Size,
    Verdict,
    at_most,
    evidence_table,
    number,
    worst_of,
)

LEAST_P, MOST_Z = 1e-6, 6.0
"""Beyond these a sample is not what it should be: one seed in a million goes astray by chance."""

Init = Literal["gaussian"] | bool
"""PEFT's option `init_lora_weights`; True is its default, Kaiming uniform."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Of a sample scaled to unit variance under the hypothesis; `*_z` are distances from those of
    the standard normal, in the standard errors of a normal sample of this size."""

    count: Count
    mean: Number
    deviation: Size
    skewness: Size
    excess_kurtosis: Size
    mean_z: Number
    deviation_z: Number
    skewness_z: Number
    kurtosis_z: Number
    largest_z: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A and B of every layer before training. p-values are those of a Kolmogorov-Smirnov test with
    the distribution that A should have, and with the normal one."""

    init_lora_weights: Init
    distribution: Literal["normal", "uniform"]
    expected_deviation: str
    layers: int
    moments: Moments
    distance: Number
    p_value: Size
    least_p_value_of_a_layer: Number
    p_value_as_normal: Size
    largest_of_b: Size


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstLogits:
    """Those of the adapted model before the first step, beside the base model's."""

    dtype: str
    init_lora_weights: Init
    equal: bool
    numbers: Count
    largest_difference: Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """Over all adapted layers: the largest entry of A's gradients, the smallest norm of B's, and
    how far either is from the chain rule, as a share of what rounding can make."""

    largest_of_a: Size
    smallest_norm_of_b: Size
    error_of_limit: OfLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstSteps:
    """Gradients before the first step and before the second one, of the Gaussian start."""

    first: Gradients
    a_unmoved_by_first_step: bool
    second: Gradients


@dataclass(frozen=True, slots=True, kw_only=True)
class Initialisation(Evidence):
    rank: int
    alpha: float
    gaussian: Start
    default: Start
    logits: tuple[FirstLogits, ...]
    gradients: FirstSteps

    @property
    def _is_equal(self) -> bool:
        return all(logits.equal for logits in self.logits)

    @property
    def verdict(self) -> Verdict:
        gaussian, first, second = self.gaussian, self.gradients.first, self.gradients.second
        holds = (
            (gaussian.p_value or 0) >= LEAST_P,
            at_most(gaussian.moments.largest_z, MOST_Z),
            self._is_equal and gaussian.largest_of_b == self.default.largest_of_b == 0,
            first.largest_of_a == 0 < (first.smallest_norm_of_b or 0),
            (second.largest_of_a or 0) > 0,
            at_most(first.error_of_limit, 1) and at_most(second.error_of_limit, 1),
        )
        return "holds" if all(holds) else "fails"

    @property
    def finding(self) -> tuple[str, ...]:
        gaussian, default = self.gaussian, self.default
        worst = worst_of(logits.largest_difference for logits in self.logits)
        logits = (
            "The first logits equal the base model's bit for bit"
            if self._is_equal
            else f"The first logits do NOT equal the base model's: up to {number(worst, '.2g')} off"
        )
        first = self.gradients.first.largest_of_a
        return (
            f"{logits}; A is normal (p = {number(gaussian.p_value, '.2g')}), B"
            f" {'zero' if gaussian.largest_of_b == 0 else 'NOT zero'}.",
            f"The first gradient of A is {'zero' if first == 0 else 'NOT zero'}; the first step"
            " moves B alone.",
            "PEFT's default A is uniform within 1 / sqrt(k)"
            f" (p = {number(default.p_value, '.2g')}), not normal"
            f" (p = {number(default.p_value_as_normal, '.1g')}).",
        )

    def tables(self) -> tuple[Table, ...]:
        starts = {
            "init_lora_weights": "init_lora_weights", "A should be": "distribution",
            "deviation": "expected_deviation", "p": "p_value", "p as normal": "p_value_as_normal",
            "measured": "moments.deviation", "skewness": "moments.skewness",
            "kurtosis": "moments.excess_kurtosis", "largest of B": "largest_of_b",
        }  # fmt: skip
        logits = {
            "dtype": "dtype", "init_lora_weights": "init_lora_weights",
            "largest": "largest_difference", "logits": "numbers",
        }  # fmt: skip
        gradients = {
            f"{what}, {step} step": f"{step}.{name}"
            for what, name in (
                ("largest of A", "largest_of_a"),
                ("least norm of B", "smallest_norm_of_b"),
                ("error", "error_of_limit"),
            )
            for step in ("first", "second")
        }
        before = "Adapted less base model, before the first step"
        rule = "Gradients, and their error against the chain rule, of the limit of rounding"
        return (
            evidence_table((self.gaussian, self.default), starts, left=3),
            evidence_table(self.logits, logits, before, left=2),
            evidence_table((self.gradients,), gradients, rule, left=0),
        )


CLAIM = Claim(
    id=4,
    title="Initialisation",
    statement="A starts Gaussian and B zero: training starts exactly from the base model.",
    evidence=Initialisation,
    must_hold=True,
)
