"""What the peaks are made of: predicted beside measured, category by category."""

from collections.abc import Iterable, Sequence

from lora_profiler.comparison.errors import counted
from lora_profiler.report.blocks import by_category, filled
from lora_profiler.report.charts.bars import CategoryBar, category_bars
from lora_profiler.report.charts.plot import shortened
from lora_profiler.report.page.parts import Drawing, Fold, Part, Section
from lora_profiler.report.page.runs import Run, peak_of, worst_first
from lora_profiler.units import bytes_text, count_text

FEW, CHOSEN, WORST = 8, 8, 4
"""So few are all shown at once; of more so many are chosen, and the worst besides."""
MOST_IN_FOLDS = 300
"""Up to so many runs every one is drawn, in folds by model."""


def composition_section(runs: Sequence[Run]) -> Section | None:
    """Bars of chosen runs, and of all others by model where they are not too many; None where no
    run says what its peak was."""
    known = [
        r
        for r in runs
        if r.scored.record.measurement.went_through
        and r.scored.record.measurement.attribution_bytes
    ]
    if not known:
        return None
    if len(known) <= FEW:
        parts: list[Part] = [peaks_drawing("peaks", known, "Peak of every run")]
    else:
        worst = [run for run in worst_first(known)[:WORST] if run.error]
        parts = [
            peaks_drawing(
                "peaks",
                largest_of_each_kind(known),
                "The largest peaks, one of each family and method",
            )
        ]
        if worst:
            parts.append(peaks_drawing("peaks-worst", worst, "The peaks that were predicted worst"))
        parts += _folds(known) if len(known) <= MOST_IN_FOLDS else []
    return Section(name="composition", title="What the peaks are made of", parts=tuple(parts))


def largest_of_each_kind(known: Sequence[Run]) -> list[Run]:
    """The run with the largest peak of each family and method, those with the largest of all, at
    most `CHOSEN`."""
    picked: dict[tuple[str, str], Run] = {}
    for run in sorted(known, key=lambda run: -peak_of(run)):
        picked.setdefault((run.family, run.method), run)
    return list(picked.values())[:CHOSEN]


def _folds(known: Sequence[Run]) -> Iterable[Fold]:
    models = dict.fromkeys(run.model for run in known)
    for number, model in enumerate(models):
        members = [run for run in known if run.model == model]
        title = (
            f"{shortened(model)}: {count_text(len(members))} run{'s' if len(members) > 1 else ''}"
        )
        yield Fold(
            title=title,
            parts=(peaks_drawing(f"peaks-{number}", members, "Peak of every run of this model"),),
        )


def peaks_drawing(name: str, members: Sequence[Run], what: str) -> Drawing:
    """The peaks of these runs, predicted beside measured, by category; one alone is named by the
    caption."""
    several = len(members) > 1
    what = what if several else f"{members[0].name}: the peak"
    bars = [bar for run in members for bar in _bars(run, run.name if several else "")]
    largest = max((bar.total_bytes for bar in bars), default=0)
    return Drawing(
        name=name,
        caption=f"{what}, predicted beside measured, by category.",
        description=(
            f"Stacked bars in pairs for {count_text(len(members))} run{'s' if several else ''}, the"
            f" largest of {bytes_text(largest)}."
        ),
        figure=category_bars(bars),
        numbers=filled(
            by_category(
                "The numbers of the figure",
                ("run", ""),
                [((bar.group, bar.label), bar.bytes, False) for bar in bars],
            )
        ),
    )


def _bars(run: Run, name: str) -> Iterable[CategoryBar]:
    prediction, measured = run.scored.prediction, run.scored.record.measurement
    if prediction is not None:
        lower = prediction.saved_activation_bytes is None
        yield CategoryBar(
            label="predicted",
            bytes=counted(prediction.workload, prediction.peak.bytes),
            group=name,
            at_least=lower,
        )
    yield CategoryBar(label="measured", bytes=measured.attribution_bytes, group=name)
