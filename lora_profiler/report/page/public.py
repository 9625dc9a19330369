"""How far off predictions of public measurements are, whatever else the page is about."""

from lora_profiler.evidence import interval
from lora_profiler.report.blocks import paragraph
from lora_profiler.report.empirical_interval import interval_words
from lora_profiler.report.evidence import (
    apart_lines,
    coverage_words,
    errors_table,
    left_out_lines,
    missed_lines,
    sources_table,
)
from lora_profiler.report.page.parts import Fold, Section

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
    found = interval()
    return Section(
        name="public",
        title="Public measurements",
        parts=(
            paragraph(*_LINES, f"{interval_words(found)}.", coverage_words(found)),
            errors_table(),
            sources_table(),
            Fold(title="Misses, and what is known of them", parts=(paragraph(*missed_lines()),)),
            Fold(title="Predicted, but no test", parts=(paragraph(*apart_lines()),)),
            Fold(
                title="What no question here says",
                parts=(paragraph(*left_out_lines("memory")), paragraph(*left_out_lines("steps"))),
            ),
        ),
    )
