"""What every word and number on the page means."""

from collections.abc import Iterable, Mapping

from lora_profiler.report import labels
from lora_profiler.report.blocks import Row, Table, paragraph
from lora_profiler.report.page.parts import Section


def definitions_section() -> Section:
    """Every metric, category, moment, phase, status and flag."""
    tables = (
        _table("Numbers", labels.METRIC_LABELS, labels.METRIC_DEFINITIONS),
        _table("Categories of memory", labels.CATEGORY_LABELS, labels.CATEGORY_DEFINITIONS),
        _table("Moments of a step, as predicted", labels.MOMENT_LABELS, labels.MOMENT_DEFINITIONS),
        _table("How runs end", labels.STATUS_LABELS, labels.STATUS_DEFINITIONS),
        _table("Verdicts on a card", labels.VERDICT_LABELS, labels.VERDICT_DEFINITIONS),
        _table(
            "Flags of a run",
            {name: name.replace("_", " ") for name in labels.FLAG_DEFINITIONS},
            labels.FLAG_DEFINITIONS,
        ),
    )
    lines = (
        f"{labels.ERROR_DEFINITION}. Bytes are binary: 1 GiB = 1,024 MiB.",
        *labels.MFU_DEFINITIONS,
        labels.ENERGY_CAVEAT,
    )
    return Section(name="definitions", title="Definitions", parts=(paragraph(*lines), *tables))


def _table(title: str, names: Mapping[str, str], meanings: Mapping[str, str]) -> Table:
    return Table(title=title, columns=("", "meaning"), rows=tuple(_rows(names, meanings)), left=2)


def _rows(names: Mapping[str, str], meanings: Mapping[str, str]) -> Iterable[Row]:
    for name, label in names.items():
        yield Row(cells=(label, meanings[name]))
