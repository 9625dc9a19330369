"""Ticks whose numbers are written as everywhere else: plotly's own write 100k, and another minus
than the text does."""

import math
from collections.abc import Callable
from typing import Any

from lora_profiler.units import short_count_text

_MOST = 8


def ticks(low: float, high: float, text: Callable[[float], str]) -> dict[str, Any]:
    """At round numbers from `low` to `high`, which is more."""
    rough = (high - low) / _MOST
    power = 10 ** math.floor(math.log10(rough))
    step = next(nice * power for nice in (1, 2, 5, 10) if nice * power >= rough * (1 - 1e-9))
    places = [
        number * step
        for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]
    return {"tickmode": "array", "tickvals": places, "ticktext": [text(place) for place in places]}


def powers_of_ten(smallest: float, largest: float, text: Callable[[int], str]) -> dict[str, Any]:
    """At every power of ten of a log axis between two numbers above 0."""
    places = [
        10**power
        for power in range(math.ceil(math.log10(smallest)), math.floor(math.log10(largest)) + 1)
        if power >= 0
    ]
    return {"tickmode": "array", "tickvals": places, "ticktext": [text(place) for place in places]}


def short_count(count: float) -> str:
    """'10 M', '100 K' of a whole number."""
    return without_zeros(short_count_text(round(count)))


def without_zeros(text: str) -> str:
    return text.replace(".00 ", " ").replace(".0 ", " ")
