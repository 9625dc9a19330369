"""The page of a run of `verify`: one layer in numbers and pictures, what each claim was found to
be, and every number of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from lora_profiler.report import charts
from lora_profiler.report.blocks import Paragraph, Row, Table, paragraph
from lora_profiler.report.claims import caption, grouped
from lora_profiler.report.claims.chart import Chart, numbers_table
from lora_profiler.report.claims.document import claim_blocks
from lora_profiler.report.labels import CLAIM_VERDICT_LABELS
from lora_profiler.report.learn.counts import counts_chart, counts_words
from lora_profiler.report.learn.findings import findings
from lora_profiler.report.learn.flow import flow
from lora_profiler.report.learn.layer import LoraLayer, adam_bytes, gradient_bytes
from lora_profiler.report.learn.matrices import matrices
from lora_profiler.report.page.content import Content
from lora_profiler.report.page.parts import Beside, Card, Drawing, Fold, Part, Picture, Section
from lora_profiler.units import bytes_text, count_text, percent_text, shape_text

_MOST_AT_ONCE = 6
"""Figures of one heading; the others are in a fold."""


def mathematics_content(document: Mapping[str, Any]) -> Content:
    """The page of a document of `report.claims`; the same document makes the same page at any
    time."""
    found = findings(document)
    closing = [document["tolerances"]] if "tolerances" in document else []
    return Content(
        title=f"The mathematics of LoRA, checked on {found.model}",
        lines=(*found.lines, *closing),
        cards=tuple(
            Card(label=c.title, value=CLAIM_VERDICT_LABELS[c.verdict], note=c.headline)
            for c in found.claims
        ),
        sections=(
            _layer_section(LoraLayer()),
            *(
                _group_section(number, heading, members)
                for number, (heading, members) in enumerate(grouped(found.charts))
            ),
            _claims_section(document),
        ),
        data=dict(document),
    )


def _layer_section(layer: LoraLayer) -> Section:
    counted = counts_chart(layer)
    return Section(
        name="layer",
        title=f"One layer of {shape_text(layer.d, layer.k)}, rank {layer.r}, alpha {layer.alpha}",
        parts=(
            paragraph(*counts_words(layer)),
            _counts(layer),
            Beside(
                parts=(
                    Picture(
                        name="matrices",
                        caption="The full update, and B and A, to one scale.",
                        svg=matrices(layer),
                    ),
                    Picture(
                        name="flow",
                        caption="The two paths: h = W x + (alpha / r) B (A x).",
                        svg=flow(layer),
                    ),
                )
            ),
            Drawing(
                name="counts",
                caption=f"{counted.title}.",
                description=" ".join(counts_words(layer)),
                figure=charts.claim_chart(counted),
                numbers=numbers_table(counted),
            ),
        ),
    )


def _counts(layer: LoraLayer) -> Table:
    both = (("full", layer.full), (f"LoRA r{layer.r}", layer.lora))
    rows = [
        Row(
            cells=(
                name,
                count_text(n),
                bytes_text(gradient_bytes(n)),
                bytes_text(adam_bytes(n)),
                bytes_text(gradient_bytes(n) + adam_bytes(n)),
                percent_text(n / layer.full),
            )
        )
        for name, n in both
    ]
    columns = ("", "numbers that train", "gradients", "Adam's averages", "both", "of full")
    return Table(
        columns=columns, rows=tuple(rows), title="What trains, and what it holds in float32"
    )


def _group_section(number: int, heading: str, members: Sequence[Chart]) -> Section:
    drawn: list[Part] = [_drawing(chart) for chart in members]
    shown, rest = drawn[:_MOST_AT_ONCE], drawn[_MOST_AT_ONCE:]
    parts: list[Part] = [Beside(parts=tuple(shown))] if len(shown) > 1 else shown
    if rest:
        parts.append(Fold(title=f"{len(rest)} more", parts=tuple(rest)))
    return Section(name=f"found-{number}", title=heading, parts=tuple(parts))


def _drawing(chart: Chart) -> Drawing:
    words = (*caption(chart), *([chart.note] if chart.note else []))
    return Drawing(
        name="chart-" + "".join(c if c.isalnum() else "-" for c in chart.key),
        caption=f"{chart.title}.",
        description=" ".join((f"{chart.title}.", *words)),
        lines=words,
        figure=charts.claim_chart(chart),
        numbers=numbers_table(chart),
    )


def _claims_section(document: Mapping[str, Any]) -> Section:
    parts: list[Paragraph | Table] = [
        block for claim in document["claims"] for block in claim_blocks(claim)
    ]
    return Section(name="claims", title="Every claim, and what was found", parts=tuple(parts))
