"""Claim 6: the update of full fine-tuning has a low rank in effect: its spectrum, and what its best
approximations still gain."""

from dataclasses import dataclass
from statistics import median

from lora_profiler.report.blocks import Table
from lora_profiler.report.claims.claim import (
    Chart,
    Claim,
    Evidence,
    Loss,
    Series,
    Share,
    Verdict,
    evidence_table,
    percent,
)
from lora_profiler.units import percent_text, shape_text

MOST_OF_GAIN = 0.9
LOW_RANK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """On held-out text: of the base model, of the one fine-tuned in full, and of the base model
    with the update of its linear layers alone."""

    base: float
    full: float
    linear_layers_alone: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """The update cut down to the rank, and LoRA trained at it; gains are shares of that of the
    linear layers' whole update."""

    rank: int
    truncated_loss: Loss
    truncated_gain_share: Share
    lora_loss: Loss
    lora_gain_share: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSummary:
    """Of the singular values of a layer's update: the effective rank, the rank that holds 90 % of
    the energy, and the energy held at ranks 1, 2, 4, 8, ..., as far as the matrix has them."""

    name: str
    effective_rank: float
    rank_for_90_percent: int
    energy: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The same of one matrix, and its singular values relative to the largest, at some tens of
    places."""

    effective_rank: float
    rank_for_90_percent: int
    energy: tuple[float, ...]
    places: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def energy_at_8(self) -> float:
        return self.energy[min(3, len(self.energy) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Layers that are alike: medians over their copies, and the curves of the middle one, beside
    those of its weight and of a Gaussian matrix of its shape."""

    name: str
    copies: int
    out_features: int
    in_features: int
    effective_rank: float
    rank_for_90_percent: float
    energy_at_8: float
    middle: str
    update: Curve
    weight: Curve
    random: Curve

    @property
    def shape(self) -> str:
        return shape_text(self.out_features, self.in_features)

    @property
    def energies(self) -> str:
        return " / ".join(
            percent(share)
            for share in (self.energy_at_8, self.weight.energy_at_8, self.random.energy_at_8)
        )

    @property
    def effective_ranks(self) -> str:
        ranks = (self.effective_rank, self.weight.effective_rank, self.random.effective_rank)
        return " / ".join(f"{rank:.0f}" for rank in ranks)

    @property
    def rank_for_most(self) -> str:
        return f"{self.rank_for_90_percent:g}"

    def chart(self) -> Chart:
        curves = {"update": self.update, "W itself": self.weight, "a random matrix": self.random}
        return Chart(
            key=f"spectrum_{self.name}",
            heading="Spectra of the update",
            title=f"{self.name.rpartition('*.')[2]}: singular values in {self.middle}",
            x_label="number of the singular value",
            y_label="relative to the largest",
            y_scale="log",
            series=tuple(
                Series(label=label, x=curve.places, y=curve.values)
                for label, curve in curves.items()
            ),
            note=f"Effective rank of update / W / random matrix: {self.effective_ranks}.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IntrinsicDimension(Evidence):
    steps: int
    tokens_per_step: int
    full_learning_rate: float
    lora_learning_rate: float
    lora_alpha: float
    losses: Losses
    changed_share: float
    ranks: tuple[Rank, ...]
    kinds: tuple[Kind, ...]
    layers: tuple[LayerSummary, ...]

    @property
    def _low(self) -> Rank:
        return next((row for row in reversed(self.ranks) if row.rank <= LOW_RANK), self.ranks[0])

    @property
    def verdict(self) -> Verdict:
        """Holds if rank 8 keeps most of the gain, partly if half; not where nothing was gained."""
        if self.losses.base <= self.losses.linear_layers_alone:
            return "fails"
        low = max(row.truncated_gain_share or 0.0 for row in self.ranks if row.rank <= LOW_RANK)
        return "holds" if low >= MOST_OF_GAIN else "holds_partly" if low >= 0.5 else "fails"

    @property
    def finding(self) -> tuple[str, ...]:
        losses, low, first = self.losses, self._low, self.ranks[0]
        ranks = (r.rank for r in self.ranks if (r.truncated_gain_share or 0.0) >= MOST_OF_GAIN)
        most, enough = percent_text(MOST_OF_GAIN), next(ranks, None)
        held = [kind.energy_at_8 for kind in self.kinds]
        shares = [k.effective_rank / min(k.out_features, k.in_features) for k in self.kinds]
        return (
            f"Rank {low.rank} keeps {percent(low.truncated_gain_share)} of the gain and"
            f" {percent_text(min(held))} to {percent_text(max(held))} of the energy.",
            f"Rank {first.rank} keeps {percent(first.truncated_gain_share)};"
            + (f" {most} needs rank {enough}." if enough else f" no rank keeps {most}."),
            f"LoRA trained at rank {low.rank} gains {percent(low.lora_gain_share)} of what the"
            " full update gains.",
            f"The update's effective rank is {percent_text(min(shares))} to"
            f" {percent_text(max(shares))} of the full rank.",
            f"Held-out loss: {losses.base:.3f} before, {losses.full:.3f} after full fine-tuning,"
            f" {losses.linear_layers_alone:.3f} with its linear layers only.",
            f"Full fine-tuning changed {percent_text(self.changed_share)} of their numbers.",
        )

    def tables(self) -> tuple[Table, ...]:
        ranks = {
            "rank": "rank", "loss, update cut to it": "truncated_loss",
            "gain kept": "truncated_gain_share", "loss, LoRA": "lora_loss",
            "of that gain": "lora_gain_share",
        }  # fmt: skip
        kinds = {
            "layer": "name", "d x k": "shape", "effective rank": "effective_ranks",
            "energy at rank 8": "energies", "rank for 90 %": "rank_for_most",
        }  # fmt: skip
        return (
            evidence_table(self.ranks, ranks, "Held-out loss"),
            evidence_table(self.kinds, kinds, "Of the update / W / a random matrix"),
        )

    def charts(self) -> tuple[Chart, ...]:
        kept = {
            "full update cut down to the rank": "truncated_gain_share",
            "LoRA trained at the rank": "lora_gain_share",
        }
        held = [layer.energy for layer in self.layers]
        places = range(max(map(len, held)))
        # beyond its last rank a layer holds all
        by_rank = [[energy[min(place, len(energy) - 1)] for energy in held] for place in places]
        by_layer = {
            "the layer with the most": map(max, by_rank),
            "the median layer": map(median, by_rank),
            "the layer with the least": map(min, by_rank),
        }
        gain = Chart(
            key="gain_by_rank",
            heading=HEADING,
            title="Gain of full fine-tuning that each rank keeps",
            x_label="rank",
            y_label="share of the gain of the linear layers' update",
            y_is_share=True,
            series=tuple(Series.of(k, self.ranks, "rank", name) for k, name in kept.items()),
            note="Gain is the fall of the held-out loss.",
        )
        ranks = tuple(2.0**place for place in places)
        energy = Chart(
            key="energy_by_rank",
            heading=HEADING,
            title="Energy of the update that each rank holds",
            x_label="rank",
            y_label="share of the squared norm",
            y_is_share=True,
            series=tuple(Series(label=k, x=ranks, y=tuple(ys)) for k, ys in by_layer.items()),
            note=f"Of {len(self.layers)} layers.",
        )
        return (gain, energy, *(kind.chart() for kind in self.kinds))


HEADING = "How much a rank keeps"

CLAIM = Claim(
    id=6,
    title="Intrinsic dimension",
    statement="A low-rank product keeps most of what full fine-tuning gains.",
    evidence=IntrinsicDimension,
    trains_in_full=True,
)
