"""FP8 by blocks (transformers 5.24 `integrations/finegrained_fp8.py`)."""

from collections.abc import Mapping
from typing import Any

from lora_profiler.features.bases._packed import grouped, unknown_shards
from lora_profiler.features.bases._packed import leaves_conv1d as leaves
from lora_profiler.question.base import FLOAT32, STOCK, Base, LayerBytes, groups
from lora_profiler.question.model_spec import StoredBase

__all__ = ["FEATURE", "leaves", "refusals", "stored"]


def _fp8(inputs: int, outputs: int, stored: StoredBase) -> LayerBytes:
    """A byte a weight, and a float32 scale for each block, or for all."""
    return LayerBytes(inputs * outputs, FLOAT32 * groups(inputs, stored) * groups(outputs, stored))


FEATURE = Base(
    "FP8",
    _fp8,
    ("a byte a weight", "4 B a block of weights, in each 8-bit layer"),
    sums="linear",
    defaults=STOCK,
)


def stored(config: Mapping[str, Any]) -> StoredBase | None:
    """None but for square blocks or one scale a weight in float32, and inputs quantised as they
    come."""
    sides = config.get("weight_block_size") or [-1, -1]
    plain = (
        config.get("activation_scheme", "dynamic") == "dynamic"
        and config.get("scale_fmt") in (None, "float")
        and not config.get("modules_to_convert")
    )
    if not plain or not isinstance(sides, list) or sides[1:] != sides[:1]:
        return None
    return grouped("fp8", 8, sides[0], (8,))


def refusals(workload: Any) -> dict[str, object]:
    capability = workload.platform.capability
    return {
        "torch multiplies no weights in float8, which PEFT's DoRA scales as they are; leave"
        " --use-dora out.": workload.setup.lora.use_dora,
        **unknown_shards(workload),
        "below sm_89 transformers brings its weights back to bfloat16"
        " (quantizers/quantizer_finegrained_fp8.py); take --method lora.": (
            capability is not None and capability < 89
        ),
    }
