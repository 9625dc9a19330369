"""torchtune's own model (0.7), as far as it differs in attention and rotary tables."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

from lora_profiler.question.kernel_set import KernelSet
from lora_profiler.question.model_spec import LayerStack, ModelSpec, Module, Weight

FEATURE = KernelSet(
    title="torchtune's model",
    assumption=(
        "torchtune 0.7 copies keys and values for all heads, and keeps rotary tables of all"
        " positions."
    ),
    rules_alone=True,
    repeats_heads=True,  # modules/attention.py
    # of others it turns halves, as transformers (modules/position_embeddings.py, models/)
    pairs_of=("llama", "mistral", "gemma", "gemma2"),
    position_bytes=0,
    makes_leaf=False,
    own_offloading=True,
    own_dora=True,
    takes_fake_quantized=True,
)


def doubts(workload: Any) -> dict[str, object]:
    return {
        "torchtune's Gemma 2 needed 0.09 % more in a rehearsal; its attention is predicted as"
        " transformers' eager.": workload.model.model_type == "gemma2"
    }


def rotary_tables(model: Any) -> str:
    """They lie in a buffer, which Qwen's code casts at each call
    (models/qwen2/_positional_embeddings.py)."""
    return "each" if model.model_type.startswith("qwen") else "buffer"


def pass_scalar_bytes(setup: Any) -> int:
    """Labelled tokens of the micro-batch and of the step, and both of the loss; with adapters the
    loss that was logged last too, which full training makes a number
    (`recipes/*_finetune_single_device.py`, train)."""
    numbers = 2 * 8 + 2 * 4 + (0 if setup.lora is None else 4)
    return numbers - (4 if setup.accumulation > 1 else 0)


def as_made(model: ModelSpec) -> ModelSpec:
    """Phi-3 and Phi-4 have projections apart (models/phi3/_component_builders.py), and Gemma 2 caps
    the hidden state before the head, not the logits (models/gemma2/_component_builders.py,
    Gemma2FinalNorm)."""
    if model.model_type == "phi3":
        return _unfused(model)
    if model.model_type == "gemma2":
        config = {**model.config, "final_logit_softcapping": None}
        return replace(model, config=config, fingerprint=f"{model.fingerprint}-uncapped")
    return model


@lru_cache(maxsize=64)
def _unfused(model: ModelSpec) -> ModelSpec:
    """A Phi-3 whose q, k and v, and gate and up, are layers apart: a Llama of its sizes."""
    config = model.config
    width = config["hidden_size"] // config["num_attention_heads"]
    heads = (config["num_attention_heads"], *[config["num_key_value_heads"]] * 2)
    apart = {
        "self_attn.qkv_proj": dict(
            zip(("q_proj", "k_proj", "v_proj"), (n * width for n in heads), strict=True)
        ),
        "mlp.gate_up_proj": dict.fromkeys(("gate_proj", "up_proj"), config["intermediate_size"]),
    }

    def split(kind: tuple[Module, ...]) -> tuple[Module, ...]:
        found = list[Module]()
        for module in kind:
            if module.name not in apart:
                found.append(module)
                continue
            parent = module.name.rpartition(".")[0]
            for name, rows in apart[module.name].items():
                weight = Weight(name="weight", shape=(rows, config["hidden_size"]))
                found.append(Module(name=f"{parent}.{name}", kind=module.kind, weights=(weight,)))
        return tuple(found)

    parts = tuple(
        replace(part, kinds=tuple(map(split, part.kinds))) if isinstance(part, LayerStack) else part
        for part in model.parts
    )
    return replace(
        model, model_type="llama", parts=parts, fingerprint=f"{model.fingerprint}-unfused"
    )
