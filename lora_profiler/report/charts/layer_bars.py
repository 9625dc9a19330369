"""What each kind of layer costs under every method, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_profiler.prediction import Prediction
from lora_profiler.report.charts.figure import Figure
from lora_profiler.report.palette import Theme
from lora_profiler.workload import Method

LayerQuantity = Literal[
    "num_trainable_parameters", "num_parameters", "parameter_bytes", "gradient_bytes", "optimizer_state_bytes",
    "saved_activation_bytes", "flops",
]  # fmt: skip
"""The columns of `LayerCost` that can be drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """Layers that cost the same: their name with numbers as ranges, how many they are, and the value of all together by method."""

    name: str
    count: int
    values: Mapping[str, int]
    """By the label of a method, as 'LoRA r16'."""
    methods: Mapping[str, Method]
    """What each label is."""


def layer_rows(predictions: Sequence[Prediction], quantity: LayerQuantity = "num_trainable_parameters") -> list[LayerRow]:
    """The rows of one model's predictions, one a method, in the order of the model; layers that hold nothing of it left out."""
    raise NotImplementedError


def layer_bars(
    rows: Sequence[LayerRow], quantity: LayerQuantity = "num_trainable_parameters", *, theme: Theme = "light"
) -> Figure:
    """A row for each of `rows`, in it a mark for every method; on a log scale where values lie far apart."""
    raise NotImplementedError
