"""AWQ by GPTQModel 7.7 (`nn_modules/qlinear/gemm_awq.py`)."""

from collections.abc import Mapping
from typing import Any

from lora_profiler.features.bases._packed import grouped, loaded, no_dora, not_sharded
from lora_profiler.features.bases._packed import leaves_conv1d as leaves
from lora_profiler.question.base import HALF, INT32, STOCK, Base, LayerBytes, groups
from lora_profiler.question.model_spec import StoredBase

__all__ = ["FEATURE", "leaves", "refusals", "stored", "words"]


def _awq(inputs: int, outputs: int, stored: StoredBase) -> LayerBytes:
    """qweight packs each input's outputs into int32, qzeros a group's; scales in 16 bit."""
    parts, words = groups(inputs, stored), -(-outputs * stored.bits // 32)
    return LayerBytes(INT32 * inputs * words, INT32 * parts * words + HALF * parts * outputs)


FEATURE = Base(
    "AWQ",
    _awq,
    ("weights packed into int32", "zeros and 16-bit scales of each group, in each packed layer"),
    sums="scaled",
    defaults={**STOCK, "dtype": "float16"},
    split_tokens=1024,  # AwqGemmFn
)


def stored(config: Mapping[str, Any]) -> StoredBase | None:
    """None for what GPTQModel's GEMM layers do not hold; keys of AutoAWQ or of transformers."""
    if str(config.get("version") or config.get("format") or "gemm").lower() != "gemm":
        return None
    bits, group = config.get("bits", config.get("w_bit")), config.get("group_size")
    return grouped("awq", bits, config.get("q_group_size", group), (4,))


def refusals(workload: Any) -> dict[str, object]:
    return {
        "transformers makes the rest of the model float16 (quantizers/quantizer_awq.py,"
        " update_dtype); take --dtype float16.": workload.setup.dtype != "float16",
        **no_dora(workload),
        **not_sharded(workload),
    }


def words(setup: Any) -> list[str]:
    return loaded(FEATURE.title)
