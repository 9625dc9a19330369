"""The layer of the page Learn in a link: only sizes that its sliders have."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lora_profiler.errors import did_you_mean
from lora_profiler.report.learn.layer import LoraLayer

_POWERS = tuple(2**n for n in range(15))
_WIDTHS = tuple(sorted({2**n for n in range(6, 15)} | {3 * 2**n for n in range(5, 13)}))
STEPS: Mapping[str, tuple[int, ...]] = {"d": _WIDTHS, "k": _WIDTHS, "r": _POWERS, "alpha": _POWERS}
"""What each slider can be set to: powers of two up to 16,384, widths one more between two of them,
as models have."""


def to_params(layer: LoraLayer) -> dict[str, list[str]]:
    """Whatever is not the default."""
    default = LoraLayer()
    return {
        name: [str(getattr(layer, name))]
        for name in STEPS
        if getattr(layer, name) != getattr(default, name)
    }


def from_params(params: Mapping[str, Sequence[str]]) -> tuple[LoraLayer, tuple[str, ...]]:
    """The layer that a link shows, and a sentence for everything in the link that is passed
    over."""
    layer, complaints = LoraLayer(), []
    for name, values in params.items():
        if name not in STEPS:
            complaints.append(
                f"The page Learn has no option {name[:60]!r}.{did_you_mean(name[:60], STEPS)}"
            )
            continue
        steps = {str(step): step for step in STEPS[name]}
        if values[-1] in steps:
            layer = replace(layer, **{name: steps[values[-1]]})
        else:
            complaints.append(f"{name} is {values[-1][:60]!r}; accepted: {', '.join(steps)}.")
    return layer, tuple(complaints)
