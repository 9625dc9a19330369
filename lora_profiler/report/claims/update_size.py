"""Claim 1: how many numbers a full update has, and how many A and B have."""

from dataclasses import dataclass

from lora_profiler.report.blocks import Table
from lora_profiler.report.claims import claim
from lora_profiler.units import count_text, percent_text, shape_text

FEWER_THAN_FULL = 0.996
"""What is said of the textbook's example: over 99.6 % fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """The textbook's layer; `fewer` is a share of the numbers of the full update."""

    out_features: int
    in_features: int
    rank: int
    full: int
    lora: int
    fewer: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRank:
    """Numbers in A and in B."""

    rank: int
    a: claim.Count
    b: claim.Count


@dataclass(frozen=True, slots=True, kw_only=True)
class AlikeLayers:
    """Layers that are alike; numbers are those of one of them."""

    name: str
    kind: str
    copies: int
    out_features: int
    in_features: int
    full: claim.Count
    lora_exceeds_full_from_rank: int
    ranks: tuple[LayerRank, ...]

    @property
    def shape(self) -> str:
        return shape_text(self.out_features, self.in_features)

    @property
    def first(self) -> LayerRank:
        return self.ranks[0]

    def shares(self, label: str) -> claim.Series:
        """Of its full update, by rank."""
        shares = tuple((row.a + row.b) / self.full for row in self.ranks)
        return claim.Series(label=label, x=tuple(row.rank for row in self.ranks), y=shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRank:
    rank: int
    a: claim.Count
    b: claim.Count
    lora: claim.Count
    share_of_full: claim.Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """All adapted layers together; `weights` are those of the whole model."""

    weights: int
    full: int
    lora_exceeds_full_from_rank: int
    ranks: tuple[ModelRank, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSize(claim.Evidence):
    example: Example
    layers: tuple[AlikeLayers, ...]
    model: Model
    counts_equal_formula: bool

    @property
    def verdict(self) -> claim.Verdict:
        if not self.counts_equal_formula:
            return "fails"
        ranks = (row for row in self.model.ranks if row.rank <= self.example.rank)
        is_small = all(row.lora < self.model.full for row in ranks)
        return "holds" if is_small and self.example.fewer > FEWER_THAN_FULL else "holds_partly"

    @property
    def finding(self) -> tuple[str, ...]:
        example, model = self.example, self.model
        here = next(row for row in model.ranks if row.rank == example.rank)
        layer = min(self.layers, key=lambda layer: layer.lora_exceeds_full_from_rank)
        textbook = shape_text(example.out_features, example.in_features)
        return (
            f"Rank {here.rank}: {percent_text(1 - here.lora / model.full)} fewer numbers here,"
            f" {percent_text(example.fewer)} fewer in {textbook}.",
            f"Here {count_text(here.lora)} numbers train instead of {count_text(model.full)};"
            f" in {textbook} {count_text(example.lora)} instead of {count_text(example.full)}.",
            f"LoRA trains more than the full update from rank {layer.lora_exceeds_full_from_rank}"
            f" in {layer.name}.",
            f"In all layers together it does from rank {model.lora_exceeds_full_from_rank}.",
        )

    def tables(self) -> tuple[Table, ...]:
        by_layer = {
            "layer": "name", "copies": "copies", "d x k": "shape", "full": "full",
            "A, a rank": "first.a", "B, a rank": "first.b",
            "more from rank": "lora_exceeds_full_from_rank",
        }  # fmt: skip
        by_rank = {
            "rank": "rank", "A": "a", "B": "b", "A and B": "lora", "of full": "share_of_full",
        }  # fmt: skip
        return (
            claim.evidence_table(self.layers, by_layer),
            claim.evidence_table(self.model.ranks, by_rank, "All layers together"),
        )

    def charts(self) -> tuple[claim.Chart, ...]:
        chart = claim.Chart(
            key="trained_share",
            heading="How many numbers train",
            title="Numbers that LoRA trains, as a share of the full update",
            x_label="rank",
            y_label="share of the full update",
            y_scale="log",
            y_is_share=True,
            series=(
                claim.Series.of("all adapted layers", self.model.ranks, "rank", "share_of_full"),
                *(
                    layer.shares(f"{layer.name.rpartition('*.')[2]}, {layer.shape}")
                    for layer in self.layers
                ),
            ),
            note="Above 100 %, LoRA trains more numbers than the full update has.",
        )
        return (chart,)


CLAIM = claim.Claim(
    id=1,
    title="Size of the update",
    statement="Full fine-tuning updates all d x k numbers of W; LoRA only r (d + k).",
    evidence=UpdateSize,
)
