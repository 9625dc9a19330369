"""PEFT's IA3 (`tuners/ia3/{layer,bnb}.py`): a vector scales a layer's output, or its input."""

from typing import Any

from lora_profiler._common.polynomial import constant
from lora_profiler.memory.analytic.persistent import TrainableTensor
from lora_profiler.question.adapters.targets import refuse

_TARGETS: dict[str, str | tuple[str, ...]] = {
    **dict.fromkeys(("llama", "mistral"), ("k_proj", "v_proj", "down_proj")),
    **dict.fromkeys(
        ("gemma", "gemma2", "gemma3_text", "llama4", "qwen2", "qwen3"),
        ("q_proj", "v_proj", "down_proj"),
    ),
    **dict.fromkeys(
        ("RefinedWeb", "RefinedWebModel", "falcon", "gpt_neox"),
        ("query_key_value", "dense_4h_to_h"),
    ),
    **dict.fromkeys(("bert", "roberta"), ("key", "value", "output.dense")),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("c_attn", "mlp.c_proj")),
    "bart": ("q_proj", "v_proj", "fc2"),
    "bloom": ("query_key_value", "mlp.dense_4h_to_h"),
    "deberta": ("in_proj", "output.dense"),
    "deberta-v2": ("key_proj", "value_proj", "output.dense"),
    "gpt_neo": ("q_proj", "v_proj", "c_proj"),
    "gptj": ("q_proj", "v_proj", "fc_out"),
    "mixtral": ("k_proj", "v_proj", "w2"),
    "mt5": ("k", "v", "wi_1"),
    "opt": ("q_proj", "k_proj", "fc2"),
    "phi": ("q_proj", "v_proj", "fc2"),
    "t5": ("k", "v", "wo"),
}
"""peft/utils/constants.py, TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING."""
FEEDFORWARD: dict[str, tuple[str, ...]] = {
    model_type: () if model_type == "mt5" else (targets[-1],)
    for model_type, targets in _TARGETS.items()
}
"""The same, TRANSFORMERS_MODELS_TO_FEEDFORWARD_MODULES_MAPPING: which of them IA3 takes as
feedforward."""
FEATURE = {
    "title": "IA3",
    "adapts": frozenset({"Linear", "Conv1D", "Conv2d", "Conv3d"}),
    "targets": _TARGETS,
    "formula": "out of every adapted layer, in of a feedforward one",
    "matrices": True,
}


def feedforward_names(spec: Any, lora: Any) -> tuple[str, ...]:
    """The ends of names of modules whose input it scales. Raises RefusedTargetsError where PEFT has
    no default."""
    if lora.feedforward_modules:
        return tuple(lora.feedforward_modules)
    names = FEEDFORWARD.get(spec.model_type)
    if names is None:
        refuse(
            f"PEFT has no default IA3 feedforward modules for {spec.model_type}. Name them:"
            " --feedforward-modules.",
            "ValueError",
        )
    return names


def tensors(adapter: Any, dtype: str, lora: Any) -> tuple[TrainableTensor, ...]:
    """A vector as long as the output, or the input (`layer.py`, update_layer)."""
    shape = (1, adapter.in_features) if adapter.scales_input else (adapter.out_features, 1)
    return (TrainableTensor(tuple(map(constant, shape)), dtype),)


def refusals(setup: Any) -> dict[str, object]:
    """Over a quantised base its layers multiply in float32 and hand that on but under autocast
    (`bnb.py`, forward)."""
    base = setup.quantization
    is_narrow = setup.precision == "pure" and setup.dtype != "float32"
    return {
        f"PEFT's IA3 over a quantised base returns float32, which {setup.dtype} layers refuse; use"
        " --precision amp, --recipe kbit or --dtype float32.": (
            base is not None and is_narrow and base.recipe in ("stock", "trl")
        )
    }
