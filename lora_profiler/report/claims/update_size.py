"""Claim 1: how many numbers a full update has, and how many A and B have."""

from dataclasses import dataclass

from lora_profiler.report.blocks import Table, table
from lora_profiler.report.claims.claim import Chart, Claim, Evidence, Series, Verdict, listed, shape
from lora_profiler.units import count_text, percent_text

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
    a: int
    b: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Layers that are alike; numbers are those of one of them."""

    name: str
    kind: str
    copies: int
    out_features: int
    in_features: int
    full: int
    lora_exceeds_full_from_rank: int
    ranks: tuple[LayerRank, ...]

    @property
    def shape(self) -> str:
        return shape(self.out_features, self.in_features)

    def at(self, rank: int) -> LayerRank:
        return next(row for row in self.ranks if row.rank == rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRank:
    rank: int
    a: int
    b: int
    lora: int
    share_of_full: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """All adapted layers together; `weights` are those of the whole model."""

    weights: int
    full: int
    lora_exceeds_full_from_rank: int
    ranks: tuple[ModelRank, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSize(Evidence):
    example: Example
    layers: tuple[Layer, ...]
    model: Model
    counts_equal_formula: bool

    @property
    def _at_example(self) -> ModelRank:
        return next(row for row in self.model.ranks if row.rank == self.example.rank)

    @property
    def verdict(self) -> Verdict:
        if not self.counts_equal_formula:
            return "fails"
        is_small = all(
            row.share_of_full < 1 for row in self.model.ranks if row.rank <= self.example.rank
        )
        return "holds" if is_small and self.example.fewer > FEWER_THAN_FULL else "holds_partly"

    @property
    def sentences(self) -> tuple[str, ...]:
        example, model, here = self.example, self.model, self._at_example
        first = min(self.layers, key=lambda layer: layer.lora_exceeds_full_from_rank)
        return (
            (
                f"A layer of {shape(example.out_features, example.in_features)} has"
                f" {count_text(example.full)} numbers to update, with rank {example.rank}"
                f" {count_text(example.lora)}: {percent_text(example.fewer)} fewer."
            ),
            (
                f"Here rank {here.rank} trains {count_text(here.lora)} numbers where the full"
                f" update of the same layers has {count_text(model.full)}:"
                f" {percent_text(1 - here.share_of_full)} fewer."
            ),
            (
                f"It is not fewer at every rank: from rank {first.lora_exceeds_full_from_rank} on"
                f" LoRA trains more than the full update in {first.name} ({first.shape}), from"
                f" rank {model.lora_exceeds_full_from_rank} on in all adapted layers together."
            ),
        )

    @property
    def headline(self) -> str:
        example = self.example
        return (
            f"rank {example.rank}: {percent_text(example.fewer)} fewer in"
            f" {shape(example.out_features, example.in_features)},"
            f" {percent_text(1 - self._at_example.share_of_full)} here"
        )

    def tables(self) -> tuple[Table, ...]:
        rank = self.example.rank
        return (
            table(
                [(layer, layer.at(rank)) for layer in self.layers],
                (
                    ("layer", lambda row: row[0].name),
                    ("copies", lambda row: f"x{row[0].copies}"),
                    ("d x k", lambda row: row[0].shape),
                    ("full", lambda row: count_text(row[0].full)),
                    (f"A, rank {rank}", lambda row: count_text(row[1].a)),
                    (f"B, rank {rank}", lambda row: count_text(row[1].b)),
                    ("fewer", lambda row: percent_text(1 - (row[1].a + row[1].b) / row[0].full)),
                    ("more from rank", lambda row: str(row[0].lora_exceeds_full_from_rank)),
                ),
            ),
            table(
                self.model.ranks,
                (
                    ("rank, all layers", lambda row: str(row.rank)),
                    ("A", lambda row: count_text(row.a)),
                    ("B", lambda row: count_text(row.b)),
                    ("A and B", lambda row: count_text(row.lora)),
                    ("of full", lambda row: percent_text(row.share_of_full)),
                ),
            ),
        )

    def charts(self) -> tuple[Chart, ...]:
        together = Series.of("all adapted layers", self.model.ranks, "rank", "share_of_full")
        by_layer = (
            Series(
                label=f"{layer.name.rpartition('*.')[2]}, {layer.shape}",
                x=tuple(row.rank for row in layer.ranks),
                y=tuple((row.a + row.b) / layer.full for row in layer.ranks),
            )
            for layer in self.layers
        )
        chart = Chart(
            key="trained_share",
            title="Numbers that LoRA trains, as a share of the full update",
            x_label="rank",
            y_label="share of the full update",
            y_scale="log",
            y_is_share=True,
            series=(together, *by_layer),
            note="Above 100 %, LoRA trains more numbers than the full update has.",
        )
        return (chart,)


def _trained_share(chart: Chart) -> tuple[str, ...]:
    together, *layers = chart.series
    point = together.at_rank
    beyond = {s.label: next((x for x, y in s.points if y > 1), None) for s in chart.series}
    first = min((rank for rank in beyond.values() if rank is not None), default=None)
    highest = max(x for s in chart.series for x in s.x)
    said = []
    if point:
        share = f"{percent_text(point[1])} of the numbers of the full update"
        said.append(f"At rank {point[0]:g} LoRA trains {share}.")
    if first is None:
        each = f"in each of the {len(layers)} kinds of layers"
        return (*said, f"Up to rank {highest:g} it trains fewer {each}.")
    names = [label for label, rank in beyond.items() if rank == first]
    return (*said, f"At rank {first:g} it trains more than the full update in {listed(names)}.")


CLAIM = Claim(
    id=1,
    title="Size of the update",
    statement=(
        "Fine-tuning a dense layer learns an update as large as its weight, d x k numbers; LoRA"
        " learns B (d x r) and A (r x k) instead, r (d + k) numbers, far fewer while r is far"
        " below d and k."
    ),
    evidence=UpdateSize,
    figures={"How many numbers train": {"trained_share": _trained_share}},
)
