"""GPTQ by GPTQModel 7.7 (`nn_modules/qlinear/{__init__,torch,tritonv2}.py`)."""

from collections.abc import Mapping
from typing import Any

from lora_profiler.features.bases._packed import grouped, loaded, no_dora, not_sharded
from lora_profiler.question.base import HALF, INT32, STOCK, Base, LayerBytes, groups
from lora_profiler.question.model_spec import Module, StoredBase


def _gptq(inputs: int, outputs: int, stored: StoredBase) -> LayerBytes:
    """qweight packs each output's inputs into int32, qzeros a group's outputs; scales in 16 bit;
    the group of each input (g_idx, int32), in order or not; and two rows of shifts that unpacking
    makes (wf_unsqueeze_*), int32: one for each value of a word, 36 in 3 bit."""
    parts, bits = groups(inputs, stored), stored.bits
    shifts = 36 if bits == 3 else 32 // bits
    words = -(-inputs * bits // 32) * outputs
    zeros = parts * -(-outputs * bits // 32)
    return LayerBytes(INT32 * words, INT32 * (zeros + inputs + 2 * shifts) + HALF * parts * outputs)


FEATURE = Base(
    "GPTQ",
    _gptq,
    (
        "weights packed into int32",
        "zeros and 16-bit scales of each group, and 4 B an input, in each packed layer",
    ),
    keeps="weight",
    scale_dtype="float16",
    sums="linear",
    defaults=STOCK,
)


def stored(config: Mapping[str, Any]) -> StoredBase | None:
    """None for what is not packed into int32 alike in every layer of the blocks."""
    layout = config.get("checkpoint_format") or config.get("format") or "gptq"
    differs = ("dynamic", "lm_head", "modules_in_block_to_quantize", "modules_to_not_convert")
    if layout not in ("gptq", "gptq_v2") or any(config.get(key) for key in differs):
        return None
    return grouped("gptq", config.get("bits"), config.get("group_size"), (2, 3, 4, 8))


def refusals(workload: Any) -> dict[str, object]:
    return no_dora(workload) | not_sharded(workload)


def leaves(part: Any, model: Any) -> bool:
    """optimum's GPTQ leaves linear layers beside the blocks as they are."""
    return isinstance(part, Module) and part.is_linear and part.name != model.output_embedding


def words(setup: Any) -> list[str]:
    return [
        *loaded(FEATURE.title),
        "Unpacking is compiled, as in the package, and needs no extra memory.",
    ]
