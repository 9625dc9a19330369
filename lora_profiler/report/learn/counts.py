"""How many numbers train in one layer at every rank, beside its full update, and what that says."""

from dataclasses import replace

from lora_profiler.report.claims.chart import Chart, Series
from lora_profiler.report.learn.layer import LoraLayer
from lora_profiler.units import count_text, percent_text

_HIGHEST = 2**14


def counts_chart(layer: LoraLayer) -> Chart:
    """Numbers in A and B by rank, up to where they are well beyond those of the full update."""
    ranks = [1]
    while ranks[-1] < _HIGHEST and ranks[-1] < max(2 * layer.largest_smaller_rank, layer.r):
        ranks.append(2 * ranks[-1])
    x = tuple(map(float, ranks))
    return Chart(
        key="layer_counts",
        claim_id=1,
        title="Numbers that train, by rank",
        x_label="rank",
        y_label="numbers that train",
        y_scale="log",
        series=(
            Series(label="full update", x=x, y=tuple(float(layer.full) for _ in ranks)),
            Series(label="A and B", x=x, y=tuple(float(replace(layer, r=r).lora) for r in ranks)),
            Series(
                label=f"rank {count_text(layer.r)}", x=(float(layer.r),), y=(float(layer.lora),)
            ),
        ),
    )


def counts_words(layer: LoraLayer) -> tuple[str, ...]:
    """What the numbers of the layer say."""
    fewer = 1 - layer.share
    instead = f"{count_text(layer.lora)} numbers train instead of {count_text(layer.full)}"
    how = (
        f"{percent_text(fewer)} fewer"
        if fewer > 0
        else f"{layer.share:.3g} times as many"
        if fewer < 0
        else "as many"
    )
    last = layer.largest_smaller_rank
    where = f"up to rank {count_text(last)}" if last else "at no rank"
    return (
        f"{instead}: {how}.",
        (
            f"A and B have r (d + k) numbers, the full update d k: fewer {where}, since d k / (d +"
            f" k) is {layer.full / (layer.d + layer.k):,.6g}."
        ),
    )
