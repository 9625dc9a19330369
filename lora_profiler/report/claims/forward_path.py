"""Claim 3: h = W x + (alpha / r) B (A x); and what the second path costs."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_profiler.report.blocks import Table
from lora_profiler.report.claims import claim
from lora_profiler.units import bytes_text, percent_text, shape_text


@dataclass(frozen=True, slots=True, kw_only=True)
class PathRow:
    """Every adapted layer's output in one dtype. The error is the largest, as a share of what
    rounding alone can make; the path's output is relative to the layer's, both as norms."""

    dtype: str
    layers: int
    error_of_limit: claim.OfLimit
    worst_layer: str
    largest_path_of_output: claim.Share


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
    predicted_bytes: claim.Bytes
    measured_bytes: claim.Bytes
    base_seconds: float
    adapted_seconds: float

    @property
    def shape(self) -> str:
        return shape_text(self.out_features, self.in_features)

    @property
    def predicted_share(self) -> claim.Share:
        return self.predicted_flops / self.base_flops

    @property
    def measured_share(self) -> claim.Share:
        return self.measured_flops / self.base_flops

    @property
    def more_time(self) -> claim.Share:
        return self.adapted_seconds / self.base_seconds - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSeconds:
    """Of a forward pass of the whole model, and of its adapted copy."""

    base_seconds: float
    adapted_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPath(claim.Evidence):
    rank: int
    alpha: float
    rows: tuple[PathRow, ...]
    tokens: int
    costs: tuple[PathCost, ...]
    model: ModelSeconds

    @property
    def _worst(self) -> claim.Number:
        return claim.worst_of(row.error_of_limit for row in self.rows)

    @property
    def verdict(self) -> claim.Verdict:
        if not claim.at_most(self._worst, 1):
            return "fails"
        is_predicted = all(
            cost.predicted_flops == cost.measured_flops
            and cost.predicted_bytes == cost.measured_bytes
            for cost in self.costs
        )
        return "holds" if is_predicted else "holds_partly"

    @property
    def finding(self) -> tuple[str, ...]:
        kept = bytes_text(sum(cost.copies * cost.measured_bytes for cost in self.costs))
        flops = added_share(self.costs, "measured_flops", "base_flops")
        layers = added_share(self.costs, "adapted_seconds", "base_seconds") - 1
        model = self.model.adapted_seconds / self.model.base_seconds - 1
        as_predicted = "as predicted" if self.verdict == "holds" else "NOT all as predicted"
        return (
            f"All {self.rows[0].layers} layers agree {claim.within_rounding(self._worst)}.",
            f"The adapter adds {percent_text(flops)} FLOPs to its layers and {kept} for backward,"
            f" {as_predicted}.",
            f"It adds {100 * layers:.0f} % to their time and {100 * model:.0f} % to the forward"
            " pass.",
            "Thin matrix products use a processor badly.",
        )

    def tables(self) -> tuple[Table, ...]:
        errors = {
            "dtype": "dtype", "layers": "layers", "error": "error_of_limit",
            "in layer": "worst_layer", "adapter, of output": "largest_path_of_output",
        }  # fmt: skip
        costs = {
            "layer": "name", "d x k": "shape", "FLOPs, predicted": "predicted_share",
            "FLOPs, measured": "measured_share", "kept, predicted": "predicted_bytes",
            "kept, measured": "measured_bytes", "time": "more_time",
        }  # fmt: skip
        title = f"What the adapter adds to a layer, rank {self.rank}, {self.tokens} tokens"
        of_limit = "Error, of the limit of rounding"
        return claim.evidence_table(self.rows, errors, of_limit), claim.evidence_table(
            self.costs, costs, title
        )


def added_share(costs: Sequence[PathCost], what: str, base: str) -> float:
    """`what` summed over every adapted layer, as a share of `base` summed likewise."""
    added = sum(cost.copies * getattr(cost, what) for cost in costs)
    return float(added / sum(cost.copies * getattr(cost, base) for cost in costs))


CLAIM = claim.Claim(
    id=3,
    title="Forward path",
    statement="A layer's output is h = W x + (alpha / r) B (A x).",
    evidence=ForwardPath,
    must_hold=True,
)
