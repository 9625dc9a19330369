"""What a user is told on stderr beside an answer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_profiler.cli.click_support import warn

if TYPE_CHECKING:
    from lora_profiler.catalog import Gpu
    from lora_profiler.prediction import Prediction


def warn_of(predictions: Sequence["Prediction"], gpu: "Gpu | None" = None) -> None:
    """Everything worth a warning about the ways to train one model on `gpu`, each once."""
    from lora_profiler.report.cautions import caution_lines

    for line in caution_lines(predictions, gpu):
        warn(line)
