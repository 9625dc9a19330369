"""How long a training step takes on a GPU: a roofline over the kernels of the traced step, with
two fitted constants."""

from lora_profiler.steptime.constants import Constants, Fixed, Rates, constants_for, rates_of
from lora_profiler.steptime.predict import (
    PARTS,
    Basis,
    StepTime,
    predict_step_time,
    step_time_at,
    time_of,
)
from lora_profiler.steptime.roofline import Part

__all__ = [
    "PARTS",
    "Basis",
    "Constants",
    "Fixed",
    "Part",
    "Rates",
    "StepTime",
    "constants_for",
    "predict_step_time",
    "rates_of",
    "step_time_at",
    "time_of",
]
