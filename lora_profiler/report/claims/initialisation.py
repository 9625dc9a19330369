"""Claim 4: A starts Gaussian and B zero, so that training starts exactly from the base model."""

from dataclasses import dataclass
from typing import Literal

from lora_profiler.report.blocks import Table, table
from lora_profiler.report.claims.claim import (
    Claim,
    Evidence,
    Number,
    Verdict,
    at_most,
    limit_text,
    number,
    worst_of,
)
from lora_profiler.units import count_text

LEAST_P, MOST_Z = 1e-6, 6.0
"""Beyond these a sample is not what it should be: one seed in a million goes astray by chance."""

Init = Literal["gaussian"] | bool
"""PEFT's option `init_lora_weights`; True is its default, Kaiming uniform."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Of a sample scaled to unit variance under the hypothesis; `*_z` are distances from those of
    the standard normal, in the standard errors of a normal sample of this size.
    """

    count: int
    mean: Number
    deviation: Number
    skewness: Number
    excess_kurtosis: Number
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
    p_value: Number
    least_p_value_of_a_layer: Number
    p_value_as_normal: Number
    largest_of_b: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Logits:
    """Those of the adapted model before the first step, beside the base model's."""

    dtype: str
    init_lora_weights: Init
    equal: bool
    numbers: int
    largest_difference: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """Over all adapted layers: the largest entry of A's gradients, the smallest norm of B's, and
    how far either is from the chain rule, as a share of what rounding can make.
    """

    largest_of_a: Number
    smallest_norm_of_b: Number
    error_of_limit: Number


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
    logits: tuple[Logits, ...]
    gradients: FirstSteps

    @property
    def _is_equal(self) -> bool:
        return all(logits.equal for logits in self.logits)

    @property
    def verdict(self) -> Verdict:
        gaussian, first, second = self.gaussian, self.gradients.first, self.gradients.second
        is_gaussian = (gaussian.p_value or 0) >= LEAST_P and at_most(
            gaussian.moments.largest_z, MOST_Z
        )
        is_start = self._is_equal and gaussian.largest_of_b == self.default.largest_of_b == 0
        is_learning = (
            first.largest_of_a == 0 < (first.smallest_norm_of_b or 0)
            and (second.largest_of_a or 0) > 0
        )
        by_chain_rule = at_most(first.error_of_limit, 1) and at_most(second.error_of_limit, 1)
        return "holds" if is_gaussian and is_start and is_learning and by_chain_rule else "fails"

    @property
    def sentences(self) -> tuple[str, ...]:
        gaussian, m = self.gaussian, self.gaussian.moments
        worst = worst_of(logits.largest_difference for logits in self.logits)
        equal = "equal the base model's bit for bit, in float32 and bfloat16"
        if not self._is_equal:
            by = number(worst, ".2g", none="inf")
            equal = f"do NOT equal the base model's: they differ by up to {by}"
        return (
            (
                'With init_lora_weights="gaussian" A is normal with deviation 1 / r (p ='
                f" {number(gaussian.p_value, '.2g')} on {count_text(m.count)} numbers, skewness"
                f" {number(m.skewness, '+.4f')}, excess kurtosis"
                f" {number(m.excess_kurtosis, '+.4f')}), and B is"
                f" {'zero' if gaussian.largest_of_b == 0 else 'NOT zero'}."
            ),
            (
                "PEFT's own default is not Gaussian: A is uniform within 1 / sqrt(k), whatever the"
                f" rank (p = {number(self.default.p_value, '.2g')}; as a normal sample p ="
                f" {number(self.default.p_value_as_normal, '.1g')})."
            ),
            f"Before the first step the logits {equal}.",
            (
                "The first gradient of A is"
                f" {'exactly zero' if self.gradients.first.largest_of_a == 0 else 'NOT zero'},"
                " since it is B's transpose times the rest; that of B is not, so the first step"
                " moves B alone, and A learns from the second on."
            ),
        )

    @property
    def headline(self) -> str:
        first = self.gradients.first.largest_of_a
        start = "logits equal bit for bit" if self._is_equal else "logits differ"
        of_a = "zero" if first == 0 else number(first, ".1e")
        p = number(self.gaussian.p_value, ".2g")
        return f"{start}; A normal, p = {p}, its first gradient {of_a}"

    def tables(self) -> tuple[Table, ...]:
        steps = self.gradients
        return (
            table(
                (self.gaussian, self.default),
                (
                    ("init_lora_weights", lambda row: init_label(row.init_lora_weights)),
                    (
                        "A should be",
                        lambda row: f"{row.distribution}, deviation {row.expected_deviation}",
                    ),
                    ("p", lambda row: number(row.p_value, ".2g")),
                    ("p as normal", lambda row: number(row.p_value_as_normal, ".1g")),
                    ("deviation", lambda row: number(row.moments.deviation, ".4f")),
                    ("skewness", lambda row: number(row.moments.skewness, "+.4f")),
                    ("kurtosis", lambda row: number(row.moments.excess_kurtosis, "+.4f")),
                    ("largest of B", lambda row: number(row.largest_of_b, "g")),
                ),
                left=2,
            ),
            table(
                self.logits,
                (
                    (
                        "adapted less base, before the first step",
                        lambda row: f"logits, {row.dtype}, {init_label(row.init_lora_weights)}",
                    ),
                    ("largest", lambda row: number(row.largest_difference, "g")),
                    ("numbers", lambda row: count_text(row.numbers)),
                ),
            ),
            table(
                (("first", steps.first), ("second", steps.second)),
                (
                    ("", lambda row: f"gradients before the {row[0]} step"),
                    ("largest of A", lambda row: number(row[1].largest_of_a, ".3g")),
                    ("least norm of B", lambda row: number(row[1].smallest_norm_of_b, ".3g")),
                    (
                        "chain rule, of rounding's limit",
                        lambda row: limit_text(row[1].error_of_limit),
                    ),
                ),
            ),
        )


def init_label(option: Init) -> str:
    return "True (default)" if option is True else str(option)


CLAIM = Claim(
    id=4,
    title="Initialisation",
    statement="A starts Gaussian and B zero, so that training starts exactly from the base model.",
    evidence=Initialisation,
    must_hold=True,
)
