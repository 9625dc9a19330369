"""HQQ 0.2.8 (`core/{quantize,bitpack}.py`)."""

from typing import Any

from lora_profiler.features.bases._packed import unknown_shards
from lora_profiler.question.base import HALF, STOCK, Base, LayerBytes
from lora_profiler.question.model_spec import Module, StoredBase


def _hqq(inputs: int, outputs: int, stored: StoredBase) -> LayerBytes:
    """W_q packs two rows of a group each into uint8; a zero and a scale of each group in 16 bit,
    which are no buffers."""
    numel = inputs * outputs
    return LayerBytes(numel // 2, 2 * HALF * (numel // stored.group_size))


FEATURE = Base(
    "HQQ",
    _hqq,
    ("two 4-bit weights a byte", "4 B per 64 weights, in each 4-bit layer"),
    keeps="input",
    sums="wide",
    in_torch=True,
    group_size=64,
    defaults=STOCK,
)


def refusals(workload: Any) -> dict[str, object]:
    return {
        "what DoRA's layers keep over it is not known; leave --use-dora out.": (
            workload.setup.lora.use_dora
        ),
        **unknown_shards(workload),
    }


def leaves(part: Any, model: Any) -> bool:
    """It knows heads by the name lm_head, and does not look for Conv1D."""
    if isinstance(part, Module):
        is_known = part.name == model.output_embedding == "lm_head"
        return part.is_linear and not is_known
    return any(m.kind == "Conv1D" for layer in part.kinds for m in layer)


def words(setup: Any) -> list[str]:
    return [
        "transformers 5 loads no HQQ (get_quantize_ops: not available yet): hqq's own"
        " AutoHQQHFModel.quantize_model makes it, in groups of 64, with its backend PYTORCH."
    ]
