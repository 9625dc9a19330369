"""The figures of one answered question, each out of the same answers as its tables and
downloads."""

from collections.abc import Sequence

from lora_profiler.planning.answers import Answer
from lora_profiler.planning.sizes import size_fits
from lora_profiler.report import charts
from lora_profiler.report.charts import CategoryBar, Figure, FitCell, LayerQuantity, Limit
from lora_profiler.report.method_label import method_label


def composition(answers: Sequence[Answer]) -> Figure:
    """What each method's peak is made of."""
    bars = [
        CategoryBar(
            label=method_label(a.prediction),
            bytes=a.prediction.peak.bytes,
            at_least=a.prediction.saved_activation_bytes is None,
        )
        for a in answers
    ]
    return charts.category_bars(bars, limit=_limit(answers[0]))


def times(answers: Sequence[Answer]) -> Figure | None:
    """Where the time of each method's step goes; None where no time is known."""
    bars = charts.time_bars_of(answers)
    return charts.time_bars(bars) if bars else None


def curve(answer: Answer) -> Figure:
    """Memory over one steady step."""
    return charts.memory_curve(answer.prediction.curve, limit=_limit(answer))


def fit_map(answer: Answer, engine: str) -> Figure | None:
    """Which batches and lengths fit the card that was named; None where none was, or nobody can
    tell."""
    if answer.gpu is None:
        return None
    setup = answer.prediction.workload.setup
    asked = setup.batch_size, setup.seq_len
    cells = [
        FitCell(
            batch_size=s.batch_size,
            seq_len=s.seq_len,
            peak_bytes=s.peak_bytes,
            verdict=s.verdict,
            is_asked=(s.batch_size, s.seq_len) == asked,
        )
        for s in size_fits(answer.prediction, answer.gpu, engine)
    ]
    return charts.fit_map(cells) if cells else None


def levers(answer: Answer) -> Figure | None:
    """What lowers the peak; None where nothing does."""
    return charts.lever_bars(answer.levers) if answer.levers else None


def layers(answers: Sequence[Answer], quantity: LayerQuantity) -> Figure | None:
    """One quantity of every kind of layer under each method; None where no layer holds any."""
    rows = charts.layer_rows([a.prediction for a in answers], quantity)
    return charts.layer_bars(rows, quantity) if rows else None


def _limit(answer: Answer) -> Limit | None:
    gpu = answer.gpu
    return (
        None
        if gpu is None or gpu.usable_bytes is None
        else Limit(label=gpu.name, bytes=gpu.usable_bytes)
    )
