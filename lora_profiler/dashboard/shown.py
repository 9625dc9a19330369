"""What the first screen shows of a question's answer, beside the question: the method it is about,
and the training whose time is told. Pure; a link holds it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from lora_profiler.dashboard.question import METHODS
from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.report.first_screen import Run
from lora_profiler.workload import Method


class Number(NamedTuple):
    """A field of `Run`: above 0, or from 0 on, and up to `most`; at least 1 where it is whole."""

    most: float
    may_be_zero: bool = False
    is_whole: bool = False


NUMBERS: Mapping[str, Number] = {
    "tokens": Number(1e15, is_whole=True),
    "epochs": Number(1e6),
    "price": Number(1e6, may_be_zero=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """`about` is None where nobody chose a method: `about_of` does then."""

    about: Method | None = None
    run: Run = field(default_factory=Run)


def about_of(methods: Sequence[Method]) -> Method:
    """The method that a page is about where nobody chose one: LoRA, else the last asked."""
    return "lora" if "lora" in methods else methods[-1]


def to_params(shown: Shown, methods: Sequence[Method]) -> dict[str, list[str]]:
    """The query parameters, of whatever is not the default."""
    params: dict[str, list[str]] = {}
    if shown.about is not None and shown.about != about_of(methods):
        params["about"] = [shown.about]
    default = Run()
    for name in NUMBERS:
        value = getattr(shown.run, name)
        if value != getattr(default, name):
            params[name] = [f"{value:.15g}"]
    return params


def from_params(params: dict[str, list[str]]) -> tuple[Shown, tuple[str, ...]]:
    """What a link shows, and a sentence for whatever of it is passed over. What was understood, or
    not, leaves `params`."""
    complaints: list[str] = []
    shown = Shown()
    values = params.pop("about", None)
    if values:
        found = next((method for method in METHODS if method == values[-1]), None)
        if found is None:
            text = values[-1][:60]
            complaints.append(
                f"about is {text!r}; accepted: {', '.join(METHODS)}.{did_you_mean(text, METHODS)}"
            )
        shown = replace(shown, about=found)
    numbers: dict[str, Any] = {}
    for name in NUMBERS:
        if values := params.pop(name, None):
            try:
                numbers[name] = _number(name, values[-1])
            except UsageError as e:
                complaints.append(str(e))
    return replace(shown, run=Run(**numbers)), tuple(complaints)


def _number(name: str, text: str) -> float:
    bounds = NUMBERS[name]
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    too_small = number < 1 if bounds.is_whole else number == 0 and not bounds.may_be_zero
    if not 0 <= number <= bounds.most or too_small:
        least = "from 1 on" if bounds.is_whole else "from 0 on" if bounds.may_be_zero else "above 0"
        raise UsageError(
            f"{name} is {text[:60]!r}; it must be a number {least} and up to {bounds.most:.15g}."
        )
    return float(round(number)) if bounds.is_whole else number
