"""What every word and number on the page means."""

from collections.abc import Iterable, Mapping

from lora_profiler.report import metrics
from lora_profiler.report.blocks import Row, Table, paragraph
from lora_profiler.report.page.parts import Section


def definitions_section() -> Section:
    """Every metric, category, moment, phase, status and flag."""
    tables = (
        _table("Numbers", metrics.METRIC_LABELS, metrics.METRIC_DEFINITIONS),
        _table("Categories of memory", metrics.CATEGORY_LABELS, metrics.CATEGORY_DEFINITIONS),
        _table("Moments of a step, as predicted", metrics.MOMENT_LABELS, metrics.MOMENT_DEFINITIONS),
        _table("How runs end", metrics.STATUS_LABELS, metrics.STATUS_DEFINITIONS),
        _table("Verdicts on a card", metrics.VERDICT_LABELS, metrics.VERDICT_DEFINITIONS),
        _table("Flags of a run", {name: name.replace("_", " ") for name in metrics.FLAG_DEFINITIONS}, metrics.FLAG_DEFINITIONS),
    )
    lines = (f"{metrics.ERROR_DEFINITION}. Bytes are binary: 1 GiB = 1,024 MiB.", *metrics.MFU_DEFINITIONS, metrics.ENERGY_CAVEAT)
    return Section(name="definitions", title="Definitions", parts=(paragraph(*lines), *tables))


def _table(title: str, labels: Mapping[str, str], meanings: Mapping[str, str]) -> Table:
    return Table(title=title, columns=("", "meaning"), rows=tuple(_rows(labels, meanings)), left=2)


def _rows(labels: Mapping[str, str], meanings: Mapping[str, str]) -> Iterable[Row]:
    for name, label in labels.items():
        yield Row(cells=(label, meanings[name]))
