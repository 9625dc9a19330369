"""Figures as SVG that needs no script: as wide as where they stand, in the colours of the reader's
theme, and the same on paper."""

from lora_profiler.report.svg.drawing import figure_html
from lora_profiler.report.svg.marks import figure_style

__all__ = ["figure_html", "figure_style"]
