"""The page of a run of `verify`: one layer in numbers and pictures, what each claim was found to
be, and every number of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from lora_profiler.report import blocks
from lora_profiler.report.charts.lines import claim_chart
from lora_profiler.report.claims.claim import Chart, numbers_table
from lora_profiler.report.claims.document import claim_blocks, grouped_charts, subject_lines
from lora_profiler.report.labels import CLAIM_VERDICT_LABELS
from lora_profiler.report.learn import (
    LoraLayer,
    adam_bytes,
    counts_chart,
    counts_words,
    flow,
    gradient_bytes,
    matrices,
)
from lora_profiler.report.page.content import Content
from lora_profiler.units import bytes_texts, change_text, count_text, shape_text

_MOST_AT_ONCE = 6
"""Figures of one heading; the others are in a fold."""


def mathematics_content(document: Mapping[str, Any]) -> Content:
    """The page of a document of `report.claims`; the same document makes the same page at any
    time."""
    notes = (document["model"]["note"], document.get("tolerances"))
    claims: list[blocks.Part] = [b for claim in document["claims"] for b in claim_blocks(claim)]
    return Content(
        title=f"The mathematics of LoRA, checked on {document['model']['id']}",
        lines=(*subject_lines(document), *filter(None, notes)),
        cards=tuple(
            blocks.Card(
                label=claim["title"],
                value=CLAIM_VERDICT_LABELS[claim["verdict"]],
                note=claim["finding"][0],
            )
            for claim in document["claims"]
        ),
        sections=(
            _layer_section(LoraLayer()),
            *(
                _group_section(number, heading, charts)
                for number, (heading, charts) in enumerate(grouped_charts(document).items())
            ),
            blocks.Section("claims", "Every claim, and what was found", tuple(claims)),
        ),
        data=dict(document),
    )


def _layer_section(layer: LoraLayer) -> blocks.Section:
    one_scale = "The full update, B and A to one scale."
    two_paths = "The two paths: h = W x + (alpha / r) B (A x)."
    return blocks.Section(
        "layer",
        f"One layer of {shape_text(layer.d, layer.k)}, rank {layer.r}, alpha {layer.alpha}",
        (
            blocks.paragraph(*counts_words(layer)),
            blocks.Cards(tuple(layer_cards(layer))),
            blocks.Beside(
                (
                    blocks.Picture(name="matrices", caption=one_scale, svg=matrices(layer)),
                    blocks.Picture(name="flow", caption=two_paths, svg=flow(layer)),
                )
            ),
            claim_drawing(counts_chart(layer)),
        ),
    )


def layer_cards(layer: LoraLayer) -> list[blocks.Card]:
    """What trains, and what it holds in float32."""
    both = layer.full, layer.lora
    gradients, adam = list(map(gradient_bytes, both)), list(map(adam_bytes, both))
    together = [gradient_bytes(n) + adam_bytes(n) for n in both]
    change = change_text(layer.share - 1)
    return [
        blocks.Card(
            label=label,
            rows=(("full", texts[0], ""), (f"LoRA r{layer.r}", texts[1], change)),
            note=note,
        )
        for label, texts, note in (
            ("Numbers that train", [count_text(n) for n in both], "d k against r (d + k)"),
            ("Gradients", bytes_texts(gradients), "in float32, 4 bytes a number"),
            ("Adam's state", bytes_texts(adam), "in float32, 8 bytes a number"),
            ("Gradients and Adam", bytes_texts(together), "12 bytes a number"),
        )
    ]


def _group_section(number: int, heading: str, charts: Sequence[Chart]) -> blocks.Section:
    drawn: list[blocks.Part] = [claim_drawing(chart) for chart in charts]
    shown, rest = drawn[:_MOST_AT_ONCE], drawn[_MOST_AT_ONCE:]
    parts: list[blocks.Part] = [blocks.Beside(tuple(shown))] if len(shown) > 1 else shown
    if rest:
        parts.append(blocks.Fold(f"{len(rest)} more", tuple(rest)))
    return blocks.Section(f"found-{number}", heading, tuple(parts))


def claim_drawing(chart: Chart) -> blocks.Drawing:
    name = "chart-" + "".join(c if c.isalnum() else "-" for c in chart.key)
    lines = (chart.note,) if chart.note else ()
    figure, numbers = claim_chart(chart), numbers_table(chart)
    return blocks.Drawing(name, f"{chart.title}.", chart.words, figure, numbers, lines)
