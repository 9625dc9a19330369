"""What is special of a model type, a row each: the one table that rules, real models and refusals
read."""

from collections.abc import Mapping
from typing import NamedTuple

from lora_profiler.question.model_spec import ModelSpec


class ModelType(NamedTuple):
    """What holds of every model of a type."""

    learned_positions: bool = False
    """Positions are rows of a table, which has none for a longer sequence."""
    packing_blind: bool = False
    """Its code makes no mask of position ids: packed sequences are one to it."""
    eager_only: bool = False
    """transformers runs it with eager attention, whatever is asked, since SDPA caps no scores."""
    lora_kernels: bool = False
    """axolotl's LoRA kernels find q, k and v, and o, where its attention has them (axolotl 067b021,
    `monkeypatch/lora_kernels.py`, QKV_PATCHES), and rules or traces know them there."""
    own_linears: bool = False
    """Its linear layers are a class of its own, derived from torch's: transformers 5 quantises
    torch's alone (`integrations/bitsandbytes.py`, `replace_with_bnb_linear`)."""
    tensor_parallel: bool = False
    """One linear layer for each of q, k, v, gate and up, and no norm over all heads."""


MODEL_TYPES: Mapping[str, ModelType] = {
    "apertus": ModelType(lora_kernels=True),
    "arcee": ModelType(lora_kernels=True),
    "bloom": ModelType(packing_blind=True),
    "codegen": ModelType(learned_positions=True),
    "cohere2": ModelType(lora_kernels=True),
    "falcon": ModelType(own_linears=True),
    "gemma": ModelType(lora_kernels=True, tensor_parallel=True),
    "gemma2": ModelType(eager_only=True, lora_kernels=True, tensor_parallel=True),
    "gemma3": ModelType(lora_kernels=True),
    "gemma3_text": ModelType(lora_kernels=True),
    "glm4": ModelType(lora_kernels=True),
    "gpt2": ModelType(learned_positions=True),
    "gpt_bigcode": ModelType(learned_positions=True),
    "gpt_neo": ModelType(learned_positions=True),
    "hunyuan_v1_dense": ModelType(lora_kernels=True),
    "llama": ModelType(lora_kernels=True, tensor_parallel=True),
    "mistral3": ModelType(lora_kernels=True),
    "mistral": ModelType(lora_kernels=True, tensor_parallel=True),
    "mixtral": ModelType(lora_kernels=True),
    "opt": ModelType(learned_positions=True, packing_blind=True),
    "qwen2": ModelType(lora_kernels=True, tensor_parallel=True),
    "qwen3": ModelType(lora_kernels=True, tensor_parallel=True),
    "qwen3_moe": ModelType(lora_kernels=True),
    "qwen3_vl": ModelType(lora_kernels=True),
    "seed_oss": ModelType(lora_kernels=True),
    "smollm3": ModelType(lora_kernels=True),
    "starcoder2": ModelType(lora_kernels=True),
}
LORA_KERNEL_TYPES = tuple(name for name, row in MODEL_TYPES.items() if row.lora_kernels)
TENSOR_PARALLEL_TYPES = tuple(name for name, row in MODEL_TYPES.items() if row.tensor_parallel)


def type_of(model: ModelSpec) -> ModelType:
    """The row of a model's type, that of a type without anything special where there is none."""
    return MODEL_TYPES.get(model.model_type, ModelType())
