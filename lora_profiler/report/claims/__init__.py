"""The claims that LoRA rests on, a file each: what it says, the type of its evidence, and how that
is judged, put into words and drawn. No torch: `mathematics` measures, under the same file names."""

from collections.abc import Sequence
from typing import Final

from lora_profiler.report.claims import (
    cost,
    forward_path,
    initialisation,
    intrinsic_dimension,
    merging,
    scaling,
    update_size,
)
from lora_profiler.report.claims.claim import Chart, Claim

CLAIMS: Final[tuple[Claim, ...]] = (
    update_size.CLAIM,
    merging.CLAIM,
    forward_path.CLAIM,
    initialisation.CLAIM,
    scaling.CLAIM,
    intrinsic_dimension.CLAIM,
    cost.CLAIM,
)


def caption(chart: Chart) -> tuple[str, ...]:
    """What is to be seen in `chart`, in sentences. Raises KeyError for one of no claim."""
    for claim in CLAIMS:
        for captions in claim.figures.values():
            for beginning, sentences in captions.items():
                if chart.key.startswith(beginning):
                    return sentences(chart)
    raise KeyError(chart.key)


def grouped(charts: Sequence[Chart]) -> list[tuple[str, list[Chart]]]:
    """(heading, its charts), of headings that have any."""
    groups = [
        (heading, [chart for chart in charts if chart.key.startswith(tuple(captions))])
        for claim in CLAIMS
        for heading, captions in claim.figures.items()
    ]
    return [(heading, members) for heading, members in groups if members]
