"""What a bar of the answer is made of: the parts of a peak, and where a GPU's memory ends."""

from typing import TYPE_CHECKING, Final

from lora_profiler.prediction import Category, Prediction
from lora_profiler.report.answer.verdicts import gpu_name, size_text

if TYPE_CHECKING:
    from lora_profiler.catalog import Gpu

PARTS: Final[dict[str, tuple[Category, ...]]] = {
    "weights": ("parameters", "quantization_state"),
    "gradients": ("gradients",),
    "optimizer": ("optimizer_states",),
    "activations": ("activations",),
    "logits": ("logits_and_loss",),
    "temporary": ("temporaries", "workspace"),
    "rest": ("adapters", "buffers", "inputs", "communication"),
}
"""A part of a bar: what it stands for."""
_SMALL = 0.02
"""Parts of less than this of the peak are drawn with the rest."""


def bar_parts(prediction: Prediction) -> dict[str, int]:
    """Bytes at the peak by part, in the order of `PARTS`; small ones are in the rest."""
    held = prediction.peak.bytes
    sizes = {name: sum(held.get(c, 0) for c in of) for name, of in PARTS.items()}
    least = _SMALL * sum(sizes.values())
    parts = {name: size for name, size in sizes.items() if name != "rest" and size >= least}
    rest = sum(sizes.values()) - sum(parts.values())
    return {**parts, **({"rest": rest} if rest else {})}


def limit_of(gpu: "Gpu") -> tuple[int, str]:
    """Usable bytes and their label: 'RTX 4090, 23.5 GiB'."""
    usable = gpu.usable_bytes or 0
    return usable, f"{gpu_name(gpu)}, {size_text(usable)}"
