"""What a way to train is called where ways stand side by side."""

from lora_profiler.prediction import Prediction
from lora_profiler.report import labels
from lora_profiler.workload import TrainSetup


def method_label(prediction: Prediction) -> str:
    """'full', 'LoRA r16': the column label of a prediction."""
    return way_label(prediction.workload.setup)


def way_label(setup: TrainSetup) -> str:
    """The same for a setup that nothing is predicted of."""
    label = labels.METHOD_LABELS[setup.method]
    return f"{label} r{setup.lora.r}" if setup.lora else label
