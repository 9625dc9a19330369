"""PEFT 0.21.2's own tables of target modules, kept as data; `tests/test_adapters.py` compares them
with PEFT's."""

from collections.abc import Mapping

from lora_profiler.option_values import PeftType

DEFAULT_TARGETS: dict[str, str | tuple[str, ...]] = {
    **dict.fromkeys(("bert", "electra", "layoutlm", "roberta", "xlm-roberta"), ("query", "value")),
    **dict.fromkeys(
        ("bloom", "chatglm", "falcon", "gpt_neox", "RefinedWeb", "RefinedWebModel"),
        ("query_key_value",),
    ),
    **dict.fromkeys(
        (
            *("bart", "gemma", "gemma2", "gemma3_text", "gpt_neo", "gptj", "llama", "llama4"),
            *("mistral", "mixtral", "opt", "qwen2", "qwen3", "stablelm"),
        ),
        ("q_proj", "v_proj"),
    ),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("c_attn",)),
    **dict.fromkeys(("mt5", "t5"), ("q", "v")),
    "blip-2": ("q", "v", "q_proj", "v_proj"),
    "btlm": ("c_proj", "c_attn"),
    "codegen": ("qkv_proj",),
    "deberta": ("in_proj",),
    "deberta-v2": ("query_proj", "value_proj"),
    "gemma4": r".*language_model\..*\.(q_proj|v_proj)",
    "mpt": ("Wqkv",),
    "nemotron_h": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "rwkv": ("key", "value", "receptance", "output"),
    "rwkv7": ("r_proj", "k_proj", "v_proj", "o_proj", "key", "value"),
}
"""peft/utils/constants.py, TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING: model type ->
suffixes, or a pattern."""

MAMBA_TYPES = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
NOT_OF_MAMBA = ("out_proj", "conv1d")
"""tuners_utils.py, _check_lora_target_modules_mamba."""

_IA3_TARGETS: dict[str, str | tuple[str, ...]] = {
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
"""The same, TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING."""
IA3_FEEDFORWARD: dict[str, tuple[str, ...]] = {
    model_type: () if model_type == "mt5" else (targets[-1],)
    for model_type, targets in _IA3_TARGETS.items()
}
"""The same, TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING: which of them IA3 takes as
feedforward."""
TARGETS_OF: Mapping[PeftType, Mapping[str, str | tuple[str, ...]]] = {
    "lora": DEFAULT_TARGETS,
    "vera": DEFAULT_TARGETS | {"phi": ("q_proj", "v_proj")},
    "ia3": _IA3_TARGETS,
    "oft": DEFAULT_TARGETS,
}
"""The default targets of each of PEFT's methods."""

_MIXTRAL = {"gate": "gate.weight", "w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"}
_QWEN = {
    "gate": "gate.weight",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
    "down_proj": "down_proj",
}
PACKED_EXPERTS: dict[str, dict[str, str]] = {
    **dict.fromkeys(("minimax", "minimax_m2", "mixtral"), _MIXTRAL),
    **dict.fromkeys(
        (
            *("Dots3NoteTextModel", "UnlimitedOcrTextModel", "afmoe", "beam", "cohere2_moe"),
            *("deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe", "exaone_moe"),
            *("flex_olmo", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa"),
            *("hunyuan_v1_moe", "longcat_flash", "mellum", "olmoe", "qwen3_moe", "qwen3_next"),
            *("qwen3_omni_moe", "qwen3_omni_moe_text", "qwen3_omni_moe_thinker", "sarvam_mla"),
            *("solar_open",),
        ),
        _QWEN,
    ),
}
"""Model type -> old name of a projection -> the packed parameter that holds it now (transformers'
conversion_mapping)."""

TRANSPOSED_EXPERTS = frozenset({"aria", "aria_text", "gpt_oss", "openai_privacy_filter"})
"""Model types whose packed experts are (experts, in, out), as transformers 5.24 marks them
(use_experts_implementation, is_transposed), which PEFT asks."""

FUSED_PARAMETER = "gate_up_proj"
"""The packed parameter that two old names share; PEFT takes both of them or neither, and gives it
twice the rank."""
