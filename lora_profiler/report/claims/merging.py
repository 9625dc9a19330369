"""Claim 2: (alpha / r) B A has W's shape, and merged and unmerged layers agree to the rounding of
their dtype; what merging into a 4-bit base and quantising it again is worth."""

from dataclasses import dataclass, replace

from lora_profiler.report.blocks import Row, Table, table
from lora_profiler.report.claims.claim import (
    Claim,
    Evidence,
    Number,
    Verdict,
    at_most,
    limit_text,
    number,
    percent,
    worst_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedRow:
    """One model in one dtype. `*_error_of_limit`: the largest error, as a share of what rounding
    alone can make; above 1 the claim fails. Differences are relative to the root mean square.
    """

    model: str
    layouts: tuple[str, ...]
    dtype: str
    layers: int
    shapes_equal: bool
    plain_after_merge: bool
    weight_error_of_limit: Number
    unmerged_error_of_limit: Number
    merged_error_of_limit: Number
    output_difference: Number
    logit_difference: Number
    same_top_token: float
    weights_restored_by_unmerge: float

    @property
    def worst(self) -> Number:
        return worst_of(
            (self.weight_error_of_limit, self.unmerged_error_of_limit, self.merged_error_of_limit)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Nf4Loss:
    """On held-out text."""

    base: Number
    unmerged: Number
    merged_and_quantised_again: Number


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
    unmerged_error_of_limit: Number = None
    merged_error_of_limit: Number = None
    quantisation_error_of_weight: Number = None
    update_of_weight: Number = None
    requantisation_error_of_weight: Number = None
    requantisation_error_of_update: Number = None
    update_kept: Number = None
    loss: Nf4Loss | None = None

    @property
    def worst(self) -> Number:
        """0 where nothing was checked."""
        if not self.checked:
            return 0.0
        return worst_of((self.unmerged_error_of_limit, self.merged_error_of_limit))

    @property
    def sentence(self) -> str:
        if self.loss is None:
            return f"The merge into an NF4 base was not checked: it {self.reason}."
        base, unmerged, again = (
            number(loss, ".3f")
            for loss in (self.loss.base, self.loss.unmerged, self.loss.merged_and_quantised_again)
        )
        return (
            f"On an NF4 base (itself {percent(self.quantisation_error_of_weight)} off) the"
            " merge into the dequantised weight agrees too. Quantised again, as PEFT's merge does,"
            f" the weight is {percent(self.requantisation_error_of_weight)} off,"
            f" {number(self.requantisation_error_of_update, '.2f')} times the size of the update"
            f" ({percent(self.update_of_weight)} of the weight), and keeps"
            f" {percent(self.update_kept)} of it: held-out loss {base} without"
            f" the adapter, {unmerged} with it, {again} merged and quantised again."
        )

    def table(self, loss: Nf4Loss) -> Table:
        shares = {
            "quantising the weight to NF4, error": self.quantisation_error_of_weight,
            "the update": self.update_of_weight,
            "quantising the merged weight again, error": self.requantisation_error_of_weight,
        }
        losses = {
            "held-out loss, no adapter": loss.base,
            "held-out loss, adapter beside the base": loss.unmerged,
            "held-out loss, merged and quantised again": loss.merged_and_quantised_again,
        }
        rows = [(name, percent(share), "") for name, share in shares.items()]
        rows += [(name, "", number(value, ".4f")) for name, value in losses.items()]
        columns = ("NF4 base", "of the weight", "loss")
        return Table(columns=columns, rows=tuple(Row(cells=cells) for cells in rows))


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
    def sentences(self) -> tuple[str, ...]:
        worst = worst_of(row.worst for row in self.rows)
        differences = (
            worst_of(row.output_difference for row in self.rows if row.dtype == dtype)
            for dtype in ("float32", "bfloat16")
        )
        in_float32, in_bfloat16 = (number(worst, ".1e", none="inf") for worst in differences)
        within = "within" if at_most(worst, 1) else "NOT within"
        float32, bfloat16 = self.rows[0], self.rows[1]
        return (
            (
                f"Merged and unmerged outputs and merged weights lie {within} the rounding of their"
                f" dtype: the largest error is {number(worst, '.3g', none='inf')} of what rounding"
                f" can make. The outputs differ by at most {in_float32} in float32 and"
                f" {in_bfloat16} in bfloat16, relative to their root mean square."
            ),
            (
                "Merging cannot be undone to the bit: unmerge gives back"
                f" {percent(float32.weights_restored_by_unmerge)} of the weights in float32,"
                f" {percent(bfloat16.weights_restored_by_unmerge)} in bfloat16."
            ),
            self.nf4.sentence,
        )

    @property
    def headline(self) -> str:
        kept = percent(self.nf4.update_kept)
        lost = f"; NF4 again keeps {kept} of it" if self.nf4.checked else ""
        worst = worst_of(row.worst for row in self.rows)
        return f"error {limit_text(worst)} of rounding's limit{lost}"

    def tables(self) -> tuple[Table, ...]:
        nf4 = self.nf4
        errors = table(
            self.rows,
            (
                ("error, of rounding's limit", lambda row: row.model),
                ("layout", lambda row: ", ".join(row.layouts)),
                ("dtype", lambda row: row.dtype),
                ("layers", lambda row: str(row.layers)),
                ("weight", lambda row: limit_text(row.weight_error_of_limit)),
                ("unmerged", lambda row: limit_text(row.unmerged_error_of_limit)),
                ("merged", lambda row: limit_text(row.merged_error_of_limit)),
                ("differ", lambda row: number(row.output_difference, ".1e")),
                ("undone", lambda row: percent(row.weights_restored_by_unmerge)),
            ),
            left=3,
        )
        if nf4.loss is None:
            return (errors,)
        unmerged, merged = map(limit_text, (nf4.unmerged_error_of_limit, nf4.merged_error_of_limit))
        of_nf4 = ("the same in NF4", "Linear4bit", "float32", str(nf4.layers), "", unmerged, merged)
        last = Row(cells=(*of_nf4, "", ""))
        return (replace(errors, rows=(*errors.rows, last)), nf4.table(nf4.loss))


CLAIM = Claim(
    id=2,
    title="Shape and merge",
    statement=(
        "(alpha / r) B A has the shape of W and adds to it element by element: merged and"
        " unmerged, a layer gives the same output up to the rounding of its dtype."
    ),
    evidence=Merging,
    must_hold=True,
)
