"""Figures of predictions and measurements, as plain dicts that `report.svg` draws; see `figure`."""

from lora_profiler.report.charts.category_bars import CategoryBar, category_bars
from lora_profiler.report.charts.claim_chart import claim_chart
from lora_profiler.report.charts.crossover_lines import MethodLine, crossover_lines
from lora_profiler.report.charts.error_strip import ErrorDot, error_strip
from lora_profiler.report.charts.figure import Figure, Limit
from lora_profiler.report.charts.fit_map import FitCell, fit_map
from lora_profiler.report.charts.identity_scatter import ScatterPoint, identity_scatter
from lora_profiler.report.charts.layer_bars import LayerQuantity, LayerRow, layer_bars, layer_rows
from lora_profiler.report.charts.lever_bars import lever_bars
from lora_profiler.report.charts.measured_curve import measured_curve
from lora_profiler.report.charts.memory_curve import memory_curve
from lora_profiler.report.charts.phase_samples import phase_samples
from lora_profiler.report.charts.plan_front import FrontPoint, plan_front
from lora_profiler.report.charts.step_times import step_times
from lora_profiler.report.charts.throughput_bars import ThroughputBar, throughput_bars
from lora_profiler.report.charts.time_bars import TimeBar, time_bars, time_bars_of

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
