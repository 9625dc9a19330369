"""Figures of predictions and measurements, as plain dicts that `report.svg` draws; see `figure`."""

from lora_profiler.report.charts.bars import (
    CategoryBar,
    ThroughputBar,
    TimeBar,
    category_bars,
    lever_bars,
    throughput_bars,
    time_bars,
    time_bars_of,
)
from lora_profiler.report.charts.curves import measured_curve, memory_curve, phase_samples
from lora_profiler.report.charts.dots import (
    ErrorDot,
    FrontPoint,
    ScatterPoint,
    error_strip,
    identity_scatter,
    plan_front,
)
from lora_profiler.report.charts.figure import Figure, Limit
from lora_profiler.report.charts.fit_map import FitCell, fit_map
from lora_profiler.report.charts.layer_bars import (
    LayerQuantity,
    LayerRow,
    layer_bars,
    layer_rows,
    layer_text,
)
from lora_profiler.report.charts.lines import MethodLine, claim_chart, crossover_lines, step_times

__all__ = [
    "CategoryBar",
    "ErrorDot",
    "Figure",
    "FitCell",
    "FrontPoint",
    "LayerQuantity",
    "LayerRow",
    "Limit",
    "MethodLine",
    "ScatterPoint",
    "ThroughputBar",
    "TimeBar",
    "category_bars",
    "claim_chart",
    "crossover_lines",
    "error_strip",
    "fit_map",
    "identity_scatter",
    "layer_bars",
    "layer_rows",
    "layer_text",
    "lever_bars",
    "measured_curve",
    "memory_curve",
    "phase_samples",
    "plan_front",
    "step_times",
    "throughput_bars",
    "time_bars",
    "time_bars_of",
]
