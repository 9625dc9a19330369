"""Claim 3: h = W x + (alpha / r) B (A x); and what the second path costs."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_profiler.report.blocks import Table, table
from lora_profiler.report.claims.claim import (
    Claim,
    Evidence,
    Number,
    Verdict,
    at_most,
    limit_text,
    number,
    percent,
    shape,
    worst_of,
)
from lora_profiler.units import bytes_text, percent_text


@dataclass(frozen=True, slots=True, kw_only=True)
class PathRow:
    """Every adapted layer's output in one dtype. The error is the largest, as a share of what
    rounding alone can make; the path's output is relative to the layer's, both as norms.
    """

    dtype: str
    layers: int
    error_of_limit: Number
    worst_layer: str
    largest_path_of_output: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class PathCost:
    """What an adapter adds to a layer of a kind: FLOPs of forward and bytes kept for backward.
    Seconds are medians of forward passes."""

    name: str
    copies: int
    out_features: int
    in_features: int
    base_flops: int
    predicted_flops: int
    measured_flops: int
    predicted_bytes: int
    measured_bytes: int
    base_seconds: float
    adapted_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSeconds:
    """Of a forward pass of the whole model, and of its adapted copy."""

    base_seconds: float
    adapted_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPath(Evidence):
    rank: int
    alpha: float
    rows: tuple[PathRow, ...]
    tokens: int
    costs: tuple[PathCost, ...]
    model: ModelSeconds

    @property
    def _worst(self) -> Number:
        return worst_of(row.error_of_limit for row in self.rows)

    @property
    def verdict(self) -> Verdict:
        if not at_most(self._worst, 1):
            return "fails"
        is_predicted = all(
            cost.predicted_flops == cost.measured_flops
            and cost.predicted_bytes == cost.measured_bytes
            for cost in self.costs
        )
        return "holds" if is_predicted else "holds_partly"

    @property
    def sentences(self) -> tuple[str, ...]:
        kept = bytes_text(sum(cost.copies * cost.measured_bytes for cost in self.costs))
        is_met = "equals" if at_most(self._worst, 1) else "does NOT equal"
        agree = "as predicted" if self.verdict == "holds" else "not all as predicted"
        flops = added_share(self.costs, "measured_flops", "base_flops")
        layer_time = added_share(self.costs, "adapted_seconds", "base_seconds") - 1
        model_time = self.model.adapted_seconds / self.model.base_seconds - 1
        return (
            (
                f"The output of each of the {self.rows[0].layers} layers {is_met} W x + (alpha / r)"
                " B (A x) in float32 and in bfloat16: the largest error is"
                f" {number(self._worst, '.3g', none='inf')} of what rounding can make."
            ),
            (
                f"The second path adds {percent_text(flops)} to the FLOPs of the adapted layers and"
                f" {kept} to what backward keeps, {agree}. To the time of the layers it adds"
                f" {100 * layer_time:.0f} %, to that of the whole forward pass"
                f" {100 * model_time:.0f} %: thin products use a processor worse than thick ones."
            ),
        )

    @property
    def headline(self) -> str:
        return f"error {limit_text(self._worst)} of rounding's limit"

    def tables(self) -> tuple[Table, ...]:
        return (
            table(
                self.rows,
                (
                    ("dtype", lambda row: row.dtype),
                    ("layers", lambda row: str(row.layers)),
                    ("error, of rounding's limit", lambda row: limit_text(row.error_of_limit)),
                    ("in layer", lambda row: row.worst_layer),
                    ("second path, of output", lambda row: percent(row.largest_path_of_output)),
                ),
            ),
            table(
                self.costs,
                (
                    ("layer", lambda cost: cost.name),
                    ("d x k", lambda cost: shape(cost.out_features, cost.in_features)),
                    ("FLOPs, predicted", lambda c: percent_text(c.predicted_flops / c.base_flops)),
                    ("measured", lambda cost: percent_text(cost.measured_flops / cost.base_flops)),
                    ("kept, predicted", lambda cost: bytes_text(cost.predicted_bytes)),
                    ("measured", lambda cost: bytes_text(cost.measured_bytes)),
                    ("time", lambda c: f"{100 * (c.adapted_seconds / c.base_seconds - 1):+.0f} %"),
                ),
                title=(
                    f"What the second path adds to a layer, rank {self.rank}, {self.tokens} tokens"
                ),
            ),
        )


def added_share(costs: Sequence[PathCost], what: str, base: str) -> float:
    """`what` summed over every adapted layer, as a share of `base` summed likewise."""
    added, whole = (
        sum(cost.copies * getattr(cost, name) for cost in costs) for name in (what, base)
    )
    return float(added / whole)


CLAIM = Claim(
    id=3,
    title="Forward path",
    statement=(
        "The input goes through the frozen weight and the adapter at once: h = W x + (alpha /"
        " r) B (A x)."
    ),
    evidence=ForwardPath,
    must_hold=True,
)
