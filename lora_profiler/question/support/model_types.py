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
    own_linears: bool = False
    """Its linear layers are a class of its own, derived from torch's: transformers 5 quantises
    torch's alone (`integrations/bitsandbytes.py`, `replace_with_bnb_linear`)."""
    tuple_router: str | None = None
    """The name of its routers, linear layers that return two tensors: PEFT attaches adapters to
    them, and the first step raises AttributeError."""
    tensor_parallel: bool = False
    """One linear layer for each of q, k, v, gate and up, and no norm over all heads."""


MODEL_TYPES: Mapping[str, ModelType] = {
    "bloom": ModelType(packing_blind=True),
    "codegen": ModelType(learned_positions=True),
    "falcon": ModelType(own_linears=True),
    "gemma": ModelType(tensor_parallel=True),
    "gemma2": ModelType(eager_only=True, tensor_parallel=True),
    "gpt2": ModelType(learned_positions=True),
    "gpt_bigcode": ModelType(learned_positions=True),
    "gpt_neo": ModelType(learned_positions=True),
    "llama4": ModelType(tuple_router="router"),
    "llama4_text": ModelType(tuple_router="router"),
    "llama": ModelType(tensor_parallel=True),
    "mistral": ModelType(tensor_parallel=True),
    "opt": ModelType(learned_positions=True, packing_blind=True),
    "qwen2": ModelType(tensor_parallel=True),
    "qwen3": ModelType(tensor_parallel=True),
}
TENSOR_PARALLEL_TYPES = tuple(name for name, row in MODEL_TYPES.items() if row.tensor_parallel)


def type_of(model: ModelSpec) -> ModelType:
    """The row of a model's type, that of a type without anything special where there is none."""
    return MODEL_TYPES.get(model.model_type, ModelType())
