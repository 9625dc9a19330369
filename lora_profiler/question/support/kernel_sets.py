"""Kernels in place of transformers' and PEFT's own (Liger's, axolotl's, Unsloth's): which models
and setups they go with. No torch."""

from dataclasses import replace
from functools import lru_cache

from lora_profiler.errors import UsageError
from lora_profiler.question.adapters import adapters
from lora_profiler.question.kernel_set import unsupported_reason
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.optimizer import optimizer_facts
from lora_profiler.question.support.model_types import LORA_KERNEL_TYPES, type_of
from lora_profiler.question.workload import FULLY_SHARDED, LoraConfig, TrainSetup, Workload


def scores_at_once(setup: TrainSetup) -> bool:
    """Whether GRPO's reference scores all completions of a step in one pass, as it does while they
    leave a fifth of the card free (2026.10.9 `models/rl_replacements.py`,
    _get_per_token_logps_and_entropies)."""
    return setup.loop_state == "unsloth-grpo" and setup.beta > 0


def returns_all_hidden_states(setup: TrainSetup) -> bool:
    """Whether the model tells all layers' outputs until its pass is over: GRPO asks for them and
    takes the last (2026.10.9 `models/rl.py`, _install_grpo_hidden_states_forward_wrapper)."""
    return setup.loop_state == "unsloth-grpo" and setup.kernels == "unsloth"


NEAREST_TRACED = (
    "Unsloth is not known for this type of model: priced as TRL's SFTTrainer, checkpoints on the"
    " GPU. Rehearsed, Unsloth's own code mostly took more."
)
"""What is said of a question that `nearest_traced` changes."""


def nearest_traced(setup: TrainSetup) -> TrainSetup:
    """`setup` with what a trace makes in place of Unsloth's own loss, checkpoints and LoRA
    functions, where its SFT loop is asked about; as it is otherwise."""
    lora = setup.lora
    if setup.loop_state != "unsloth":
        return setup
    if lora is not None and lora.lora_kernels == "unsloth":
        lora = replace(lora, lora_kernels="peft")
    loss = "trl" if setup.loss == "unsloth" else setup.loss
    return replace(setup, loss=loss, lora=lora, kernels="transformers", offload_checkpoints=False)


QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj", "down_proj"))
"""Layers that are one function where each has an adapter."""
_STOPPED = """
bart bert bloom cohere deepseek_v2 deepseek_v3 deepseek_v32 falcon falcon_h1 glm46v glm4_moe glm4v
glm4v_moe glm_moe_dsa gpt2 gpt_bigcode gpt_neox gptj idefics3 internvl lfm2 llama4 llava minimax_m2
mistral4 mllama mpt olmo olmo2 olmo3 olmoe opt phi phi3 qwen2_5_vl qwen2_vl qwen3_vl_moe roberta
smolvlm stablelm t5
"""
STOPPED = frozenset(_STOPPED.split())
"""Types of which axolotl finds no attention to put its LoRA kernels into and raises an error: what
patch_self_attn_lora (`monkeypatch/lora_kernels.py`) of 067b021 and 0.19 said, run over transformers
5.16; of GLM-V and InternVL by its search for their classes alone."""
SHARDED_APART = frozenset({*FULLY_SHARDED, "zero3", "tp"})
"""Shardings under which no rule says what the functions gather."""


def check_lora_kernels(workload: Workload) -> None:
    """Raises UsageError where axolotl refuses its kernels, or nothing here says what they hold."""
    setup = workload.setup
    if setup.lora is None or setup.lora.lora_kernels == "peft":
        return
    why = lora_kernels_unsupported_reason(workload.model, setup)
    if why is not None:
        raise UsageError(f"{_OWNERS[setup.lora.lora_kernels]} {why}; leave --lora-kernels out.")


_OWNERS = {"axolotl": "axolotl's LoRA kernels", "unsloth": "Unsloth's LoRA kernels"}


def lora_kernels_unsupported_reason(model: ModelSpec, setup: TrainSetup) -> str | None:
    """The end of 'axolotl's LoRA kernels ...', None where they can be asked for."""
    lora, base = setup.lora, setup.quantization
    if lora is not None and lora.lora_kernels == "unsloth":
        if why := unsupported_reason(model, replace(setup, kernels="unsloth")):
            return why
        if setup.dtype == "float32":
            return "leave a base in float32 to PEFT"
    if not takes_lora_kernels(model):
        return f"are known of {', '.join(LORA_KERNEL_TYPES)}, not of {model.model_type}"
    if setup.device != "cuda":
        return "are Triton's and run on CUDA alone"
    if base is not None and base.quant_type != "nf4":
        return f"take no base in {base.quant_type}, but NF4 alone"
    if optimizer_facts(setup.optimizer).b_alone:
        return "make a gradient of A, which LoRA-FA has none of"
    if setup.qat != "none":
        return "multiply by weights as they are, not fake-quantised"
    if lora is not None and (lora.use_dora or lora.fast_lora):
        return f"are not known with {'DoRA' if lora.use_dora else 'fast_lora'}"
    if setup.sharding in SHARDED_APART:
        return f"are not known under sharding {setup.sharding}"
    if setup.transformers != "5":
        return f"are not known with transformers {setup.transformers}"
    widened = base is not None and base.recipe in ("kbit", "kbit-norms")
    if widened or setup.autocast_dtype not in (None, setup.dtype):
        return "add to a product what is in another dtype under this autocast: torch refuses it"
    return None


def takes_lora_kernels(model: ModelSpec) -> bool:
    """Whether rules or traces know them of the model."""
    if not type_of(model).lora_kernels:
        return False
    kind = model.config.get("hidden_act") or model.config.get("hidden_activation") or ""
    is_known = kind == "silu" or "gelu" in kind or not _has_gates(model)
    return is_known and (model.stored is None or model.stored.quant_type == "nf4")


def _has_gates(model: ModelSpec) -> bool:
    """Whether an MLP has the layers that its function is of; others keep what PEFT makes."""
    return any(name.endswith("mlp.gate_proj") for name, _ in model.modules())


def buffer_elements(model: ModelSpec, setup: TrainSetup) -> int:
    """Elements of the buffer into which Unsloth's kernels unpack 4-bit weights, which is kept: as
    many as the largest weight of a function has (Unsloth 2026.10.9, `kernels/utils.py`, _scratch).
    0 with dropout and in compiled layers, where each is unpacked into a tensor of its own."""
    lora, base = setup.lora, setup.quantization
    if lora is None or base is None or lora.lora_kernels != "unsloth" or lora.lora_dropout:
        return 0
    if setup.compiles_layers:
        return 0
    return _largest_fused(model, lora)


@lru_cache(maxsize=64)
def _largest_fused(model: ModelSpec, lora: LoraConfig) -> int:
    biased = {
        name for name, module in model.modules() if any(w.name == "bias" for w in module.weights)
    }
    sizes: dict[str, dict[str, int]] = {}
    for adapter in adapters(model, lora):
        if adapter.module not in biased:
            place, _, name = adapter.module.rpartition(".")
            sizes.setdefault(place, {})[name] = adapter.in_features * adapter.out_features
    return max(
        (
            own[name]
            for own in sizes.values()
            for group in _GROUPS
            if all(name in own for name in group)
            for name in group
        ),
        default=0,
    )


_PATCHED = """
cohere_compass deepseek_v2 deepseek_v4 exaone4 falcon_h1 gemma gemma2 gemma3 gemma3_text gemma4
gemma4_text gemma4_unified gemma4_unified_text glm4 glm4v glm4v_moe gpt_oss granite granitemoe
hunyuan_v1_dense hunyuan_v1_moe internvl jamba llama llama4 llama4_text llava ministral ministral3
mistral mistral3 mixtral mllama mllama_text_model muse_glimmer nemotron olmo2 olmo3 paligemma phi3
pixtral qwen2 qwen2_5_vl qwen2_5_vl_text qwen2_vl qwen2_vl_text qwen3 qwen3_5 qwen3_5_moe
qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen3_vl qwen3_vl_moe qwen3_vl_moe_text
qwen3_vl_text smollm3 smolvlm
"""
PATCHED_BY_AXOLOTL = frozenset(_PATCHED.split())
"""Types into which axolotl's plugin puts any of Liger's kernels but a loss: those of Liger-Kernel
0.8.1 (`transformers/monkey_patch.py`, MODEL_TYPE_TO_APPLY_LIGER_FN) and those that axolotl 067b021
or 0.19 has branches for (`integrations/liger/plugin.py`); it warns that others stay as they are."""
