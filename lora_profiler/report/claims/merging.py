"""Claim 2: (alpha / r) B A has W's shape, and merged and unmerged layers agree to the rounding of
their dtype; what merging into a 4-bit base and quantising it again is worth."""

from dataclasses import dataclass

from lora_profiler.report.blocks import Table
from lora_profiler.report.claims.claim import (
    Claim,
    Evidence,
    Loss,
    Norm,
    Number,
    OfLimit,
    Part,
    Share,
    Verdict,
    at_most,
    evidence_table,
    number,
    percent,
    within_rounding,
    worst_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedRow:
    """One model in one dtype. `*_error_of_limit`: the largest error, as a share of what rounding
    alone can make; above 1 the claim fails. Differences are relative to the root mean square."""

    model: str
    layouts: tuple[str, ...]
    dtype: str
    layers: int
    shapes_equal: bool
    plain_after_merge: bool
    weight_error_of_limit: OfLimit
    unmerged_error_of_limit: OfLimit
    merged_error_of_limit: OfLimit
    output_difference: Norm
    logit_difference: Number
    same_top_token: float
    weights_restored_by_unmerge: Part

    @property
    def layout(self) -> str:
        return ", ".join(self.layouts)

    @property
    def worst(self) -> Number:
        return worst_of(
            (self.weight_error_of_limit, self.unmerged_error_of_limit, self.merged_error_of_limit)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Nf4Loss:
    """On held-out text."""

    base: Loss
    unmerged: Loss
    merged_and_quantised_again: Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Nf4:
    """The model in NF4 with double quantisation. Not `checked` for a `reason`, or with all else.

    Errors as in `MergedRow`, of the merge into the dequantised weight. The other numbers are ratios
    of Frobenius norms over all layers; `update_kept` is the share of the update that PEFT's merge,
    which quantises again, leaves in the weight.
    """

    checked: bool
    reason: str | None = None
    layers: int | None = None
    unmerged_error_of_limit: OfLimit = None
    merged_error_of_limit: OfLimit = None
    quantisation_error_of_weight: Share = None
    update_of_weight: Share = None
    requantisation_error_of_weight: Share = None
    requantisation_error_of_update: Number = None
    update_kept: Share = None
    loss: Nf4Loss | None = None

    @property
    def worst(self) -> Number:
        """0 where nothing was checked."""
        if not self.checked:
            return 0.0
        return worst_of((self.unmerged_error_of_limit, self.merged_error_of_limit))


@dataclass(frozen=True, slots=True, kw_only=True)
class Merging(Evidence):
    """The first two rows are the model's own, in float32 and in bfloat16."""

    rows: tuple[MergedRow, ...]
    nf4: Nf4

    @property
    def verdict(self) -> Verdict:
        is_rounding = at_most(worst_of((*(row.worst for row in self.rows), self.nf4.worst)), 1)
        is_plain = all(row.shapes_equal and row.plain_after_merge for row in self.rows)
        if not is_rounding or not is_plain:
            return "fails"
        return "holds" if self.nf4.checked else "holds_partly"

    @property
    def finding(self) -> tuple[str, ...]:
        nf4, worst = self.nf4, worst_of(row.worst for row in self.rows)
        differ, restored = [], []
        for dtype in ("float32", "bfloat16"):
            rows = [row for row in self.rows if row.dtype == dtype]
            differ.append(number(worst_of(row.output_difference for row in rows), ".1e"))
            restored.append(percent(rows[0].weights_restored_by_unmerge))
        again = f"The merge into an NF4 base was not checked: it {nf4.reason}."
        if nf4.checked:
            kept = percent(nf4.update_kept)
            again = f"Merged into NF4 and quantised again, {kept} of the update is left."
        return (
            f"Merged and unmerged agree {within_rounding(worst)}.",
            f"Outputs differ by up to {differ[0]} in float32, {differ[1]} in bfloat16.",
            f"Unmerging restores {restored[0]} of the weights in float32,"
            f" {restored[1]} in bfloat16.",
            again,
        )

    def tables(self) -> tuple[Table, ...]:
        errors = {
            "model": "model", "layout": "layout", "dtype": "dtype", "layers": "layers",
            "weight": "weight_error_of_limit", "unmerged": "unmerged_error_of_limit",
            "merged": "merged_error_of_limit", "differ": "output_difference",
            "restored": "weights_restored_by_unmerge",
        }  # fmt: skip
        tables = (evidence_table(self.rows, errors, "Error, of the limit of rounding", left=3),)
        if not self.nf4.checked:
            return tables
        of_nf4 = {
            "unmerged": "unmerged_error_of_limit", "merged": "merged_error_of_limit",
            "NF4 error": "quantisation_error_of_weight", "update": "update_of_weight",
            "error again": "requantisation_error_of_weight", "update kept": "update_kept",
        }  # fmt: skip
        losses = {
            "no adapter": "loss.base", "adapter": "loss.unmerged",
            "merged, quantised again": "loss.merged_and_quantised_again",
        }  # fmt: skip
        shares = "In NF4: error, of the limit of rounding; sizes, of the weight"
        return (
            *tables,
            evidence_table((self.nf4,), of_nf4, shares, left=0),
            evidence_table((self.nf4,), losses, "In NF4: held-out loss", left=0),
        )


CLAIM = Claim(
    id=2,
    title="Shape and merge",
    statement="(alpha / r) B A has the shape of W; merged into W, the output stays the same.",
    evidence=Merging,
    must_hold=True,
)
