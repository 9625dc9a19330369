"""What stands on every page of records: how far off predictions of public measurements are, and
what every word and number means."""

from collections.abc import Iterable, Mapping

from lora_profiler.evidence import interval
from lora_profiler.report import labels
from lora_profiler.report.blocks import Row, Table, paragraph
from lora_profiler.report.evidence.interval import interval_words
from lora_profiler.report.evidence.public import (
    apart_lines,
    coverage_words,
    errors_table,
    left_out_lines,
    missed_lines,
    sources_table,
)
from lora_profiler.report.measured import run_labels
from lora_profiler.report.page.parts import Fold, Section


def definitions_section() -> Section:
    """Every metric, category, moment, phase, status and flag."""
    tables = (
        _table("Numbers", run_labels.METRIC_LABELS, run_labels.METRIC_DEFINITIONS),
        _table("Categories of memory", labels.CATEGORY_LABELS, labels.CATEGORY_DEFINITIONS),
        _table("Moments of a step, as predicted", labels.MOMENT_LABELS, labels.MOMENT_DEFINITIONS),
        _table("How runs end", run_labels.STATUS_LABELS, run_labels.STATUS_DEFINITIONS),
        _table("Verdicts on a card", labels.VERDICT_LABELS, labels.VERDICT_DEFINITIONS),
        _table(
            "Flags of a run",
            {name: name.replace("_", " ") for name in run_labels.FLAG_DEFINITIONS},
            run_labels.FLAG_DEFINITIONS,
        ),
    )
    lines = (
        f"{run_labels.ERROR_DEFINITION}. Bytes are binary: 1 GiB = 1,024 MiB.",
        *run_labels.MFU_DEFINITIONS,
        run_labels.ENERGY_CAVEAT,
    )
    return Section(
        name="definitions",
        title="Definitions",
        parts=(paragraph(*lines), Fold(title="Every word", parts=tables)),
    )


def _table(title: str, names: Mapping[str, str], meanings: Mapping[str, str]) -> Table:
    return Table(title=title, columns=("", "meaning"), rows=tuple(_rows(names, meanings)), left=2)


def _rows(names: Mapping[str, str], meanings: Mapping[str, str]) -> Iterable[Row]:
    for name, label in names.items():
        yield Row(cells=(label, meanings[name]))


# --- public measurements --------------------------------------------------------------------------

_LINES = (
    (
        "What others measured and published, predicted: memory with the libraries and kernels of"
        " each row replayed, and nothing fitted; steps by constants that never saw their model or"
        " card. The dashboard's page Evidence has every row with its address."
    ),
)


def public_section() -> Section:
    """Errors by kind and source, the interval of a peak, and what was missed, set apart and left
    out."""
    peak_interval = interval()
    return Section(
        name="public",
        title="Public measurements",
        parts=(
            paragraph(*_LINES, f"{interval_words(peak_interval)}.", coverage_words(peak_interval)),
            errors_table(),
            Fold(title="By source", parts=(sources_table(),)),
            Fold(title="Misses, and what is known of them", parts=(paragraph(*missed_lines()),)),
            Fold(title="Predicted, but no test", parts=(paragraph(*apart_lines()),)),
            Fold(
                title="What no question here says",
                parts=(paragraph(*left_out_lines("memory")), paragraph(*left_out_lines("steps"))),
            ),
        ),
    )
