"""Claim 6: the update of full fine-tuning has a low rank in effect: its spectrum, and what its best
approximations still gain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from lora_profiler.report.blocks import Table, table
from lora_profiler.report.claims.claim import (
    Chart,
    Claim,
    Evidence,
    Number,
    Series,
    Verdict,
    listed,
    number,
    percent,
    shape,
)
from lora_profiler.units import percent_text

MOST_OF_GAIN = 0.9
LOW_RANK = 8
_TENTH = 0.1


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
    truncated_loss: Number
    truncated_gain_share: Number
    lora_loss: Number
    lora_gain_share: Number


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

    def chart(self) -> Chart:
        curves = {"update": self.update, "W itself": self.weight, "a random matrix": self.random}
        return Chart(
            key=f"spectrum_{self.name}",
            title=f"{self.name.rpartition('*.')[2]}: singular values in {self.middle}",
            x_label="number of the singular value",
            y_label="relative to the largest",
            y_scale="log",
            series=tuple(
                Series(label=label, x=curve.places, y=curve.values)
                for label, curve in curves.items()
            ),
            note=(
                f"Effective rank {self.update.effective_rank:.0f} of the update,"
                f" {self.weight.effective_rank:.0f} of W,"
                f" {self.random.effective_rank:.0f} of the random matrix."
            ),
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
    def sentences(self) -> tuple[str, ...]:
        losses, low = self.losses, self._low
        ranks = (r.rank for r in self.ranks if (r.truncated_gain_share or 0.0) >= MOST_OF_GAIN)
        enough = next(ranks, None)
        energies = [kind.energy_at_8 for kind in self.kinds]
        held = f"{percent_text(min(energies))} to {percent_text(max(energies))} of its energy"
        shares = sorted(
            kind.effective_rank / min(kind.out_features, kind.in_features) for kind in self.kinds
        )
        needed = (
            f"{percent_text(MOST_OF_GAIN)} of it needs rank {enough}."
            if enough
            else "no rank tried keeps 90 % of it."
        )
        return (
            (
                f"Full fine-tuning changed {percent_text(self.changed_share)} of the numbers in"
                f" the linear layers; held-out loss {losses.base:.3f} -> {losses.full:.3f}, and"
                f" {losses.linear_layers_alone:.3f} with their update alone."
            ),
            (
                f"Cut down to rank {low.rank}, that update keeps"
                f" {percent(low.truncated_gain_share)} of its gain, to rank 1"
                f" {percent(self.ranks[0].truncated_gain_share)}; {needed}"
            ),
            (
                f"By its numbers the update is not of low rank: rank 8 holds {held}, and"
                f" its effective rank is {percent_text(shares[0])} to {percent_text(shares[-1])} of"
                " the full one."
                if max(energies) < MOST_OF_GAIN
                else f"Rank 8 holds {held}."
            ),
            (
                f"LoRA trained at rank {low.rank} on the same batches gains"
                f" {percent(low.lora_gain_share)} of what the full update of these layers"
                " gains."
            ),
        )

    @property
    def headline(self) -> str:
        low, held = self._low, [kind.energy_at_8 for kind in self.kinds]
        return (
            f"rank {low.rank}: {percent(low.truncated_gain_share)} of the gain,"
            f" {percent_text(min(held))} to {percent_text(max(held))} of the energy"
        )

    def tables(self) -> tuple[Table, ...]:
        losses = self.losses
        return (
            table(
                self.ranks,
                (
                    ("rank", lambda row: str(row.rank)),
                    ("loss, update cut to it", lambda row: number(row.truncated_loss, ".4f")),
                    ("gain kept", lambda row: percent(row.truncated_gain_share)),
                    ("loss, LoRA", lambda row: number(row.lora_loss, ".4f")),
                    ("of that gain", lambda row: percent(row.lora_gain_share)),
                ),
                title=(
                    f"Held-out loss: {losses.base:.4f} before, {losses.linear_layers_alone:.4f}"
                    f" with the whole update of the linear layers, {losses.full:.4f} with all that"
                    " training changed"
                ),
            ),
            table(
                self.kinds,
                (
                    ("layer", lambda kind: kind.name),
                    ("d x k", lambda kind: shape(kind.out_features, kind.in_features)),
                    ("update", lambda kind: f"{kind.effective_rank:.0f}"),
                    ("W", lambda kind: f"{kind.weight.effective_rank:.0f}"),
                    ("random", lambda kind: f"{kind.random.effective_rank:.0f}"),
                    ("update", lambda kind: percent_text(kind.energy_at_8)),
                    ("W", lambda kind: percent_text(kind.weight.energy_at_8)),
                    ("random", lambda kind: percent_text(kind.random.energy_at_8)),
                    ("rank for 90 %", lambda kind: f"{kind.rank_for_90_percent:g}"),
                ),
                title=(
                    "Effective rank, and energy that rank 8 holds: of the update, of W itself, of a"
                    " random matrix"
                ),
            ),
        )

    def charts(self) -> tuple[Chart, ...]:
        cut, trained = "full update cut down to the rank", "LoRA trained at the rank"
        gain = Chart(
            key="gain_by_rank",
            title="How much of the gain of full fine-tuning survives at each rank",
            x_label="rank",
            y_label="share of the gain of the linear layers' update",
            y_is_share=True,
            series=(
                Series.of(cut, self.ranks, "rank", "truncated_gain_share"),
                Series.of(trained, self.ranks, "rank", "lora_gain_share"),
            ),
            note="Gain is the fall of the held-out loss.",
        )
        held = [layer.energy for layer in self.layers]
        places = range(max(map(len, held)))
        # beyond its last rank a layer holds all
        by_rank = [[energy[min(place, len(energy) - 1)] for energy in held] for place in places]
        ranks = tuple(2.0**place for place in places)
        of_layers: dict[str, Callable[[Sequence[float]], float]] = {
            "the layer with the most": max,
            "the median layer": median,
            "the layer with the least": min,
        }
        energy = Chart(
            key="energy_by_rank",
            title="Energy of each layer's update that its best approximation holds",
            x_label="rank",
            y_label="share of the squared norm",
            y_is_share=True,
            series=tuple(
                Series(label=label, x=ranks, y=tuple(map(of, by_rank)))
                for label, of in of_layers.items()
            ),
            note=f"Of {len(self.layers)} layers.",
        )
        return (gain, energy, *(kind.chart() for kind in self.kinds))


def _gain_caption(chart: Chart) -> tuple[str, ...]:
    cut, trained = (series.at_rank for series in chart.series)
    if cut is None:
        return ()
    also = f"; LoRA trained at that rank gains {percent_text(trained[1])} of it" if trained else ""
    kept = f"the update keeps {percent_text(cut[1])} of its gain{also}"
    return (f"Cut down to rank {cut[0]:g}, {kept}.",)


def _energy_caption(chart: Chart) -> tuple[str, ...]:
    most, middle, least = (series.at_rank for series in chart.series)
    if most is None or middle is None or least is None:
        return ()
    held = f"{percent_text(least[1])} to {percent_text(most[1])} of a layer's energy"
    return (f"Rank {middle[0]:g} holds {held}, {percent_text(middle[1])} in the middle.",)


def _spectrum_caption(chart: Chart) -> tuple[str, ...]:
    places = []
    for series in chart.series:
        place = next((x for x, y in series.points if y <= _TENTH), None)
        never = f"not at all in {max(series.x, default=0):g}"
        where = never if place is None else f"by number {place:g}"
        places.append(f"{where} ({series.label})")
    return (f"Singular values fall to a tenth of the largest {listed(places)}.",)


CLAIM = Claim(
    id=6,
    title="Intrinsic dimension",
    statement=(
        "The update that fine-tuning learns has a low rank in effect: a product of two thin"
        " matrices holds most of what it gains."
    ),
    evidence=IntrinsicDimension,
    trains_in_full=True,
    figures={
        "How much a rank keeps": {"gain_by_rank": _gain_caption, "energy_by_rank": _energy_caption},
        "Spectra of the update": {"spectrum_": _spectrum_caption},
    },
)
