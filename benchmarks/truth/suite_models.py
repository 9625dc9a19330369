"""Models of the suites: small ones of every family, and stand-ins that let a suite made for a GPU
run on a CPU."""

from collections.abc import Mapping
from typing import Any

from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.question.model_spec import ModelSpec

Config = dict[str, Any]


def _llama_like(model_type: str, vocab_size: int, **changes: Any) -> Config:
    """Hidden 256, 6 layers, 8 heads over 4 key/value heads: some ten million parameters, half of
    them in the embedding."""
    config: Config = {
        "model_type": model_type, "hidden_size": 256, "intermediate_size": 688,
        "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4,
        "vocab_size": vocab_size, "max_position_embeddings": 1024, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    return config | changes


MEDIUM: Mapping[str, Config] = {
    "llama": _llama_like("llama", 16_000),
    "qwen2": _llama_like("qwen2", 32_000, tie_word_embeddings=True, num_key_value_heads=2),
    "qwen3": _llama_like("qwen3", 24_000, head_dim=64, tie_word_embeddings=True),
    "gemma2": _llama_like(
        "gemma2",
        32_000,
        hidden_size=192,
        intermediate_size=768,
        head_dim=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=64,
        tie_word_embeddings=True,
    ),
    "mistral": _llama_like(
        "mistral", 8_000, hidden_size=320, intermediate_size=896, sliding_window=None
    ),
    "phi3": _llama_like("phi3", 12_000, intermediate_size=640, num_key_value_heads=8),
    "qwen3_moe": _llama_like(
        "qwen3_moe",
        8_000,
        hidden_size=192,
        num_hidden_layers=4,
        head_dim=24,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=128,
        norm_topk_prob=True,
    ),
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 256,
        "n_layer": 6,
        "n_head": 8,
        "n_positions": 512,
        "vocab_size": 16_000,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gpt_neox": {
        "model_type": "gpt_neox",
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "vocab_size": 16_000,
        "max_position_embeddings": 512,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
    },
    "opt": {
        "model_type": "opt",
        "hidden_size": 256,
        "word_embed_proj_dim": 256,
        "ffn_dim": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "vocab_size": 16_000,
        "max_position_embeddings": 512,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "layerdrop": 0.0,
    },
}
"""One model a family, 5 to 20 million parameters: a training step on one core takes a fraction of a
second."""

TINY: Config = _llama_like(
    "llama",
    512,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)

_STAND_IN_SIZES: Config = {
    "hidden_size": 64, "n_embd": 64, "word_embed_proj_dim": 64, "intermediate_size": 160,
    "ffn_dim": 160, "num_hidden_layers": 2, "n_layer": 2, "num_attention_heads": 4, "n_head": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512,
}  # fmt: skip


def medium(family: str) -> ModelSpec:
    """The model of `MEDIUM` by the name of its family."""
    return model_from_config(dict(MEDIUM[family]), id=f"medium-{family}", source="file")


def few_tokens(family: str) -> ModelSpec:
    """The same with a vocabulary of 512, so that the loss is small beside the layers."""
    return model_from_config(
        {**MEDIUM[family], "vocab_size": 512}, id=f"few-tokens-{family}", source="file"
    )


def tiny() -> ModelSpec:
    return model_from_config(dict(TINY), id="tiny-llama", source="file")


def whole(name: str) -> ModelSpec:
    """The bundled model called `name`, as it is."""
    return find_model(name, offline=True)


def bundled(name: str, device: str) -> ModelSpec:
    """That model on a GPU; on a CPU one of the same family in miniature, whose name says so."""
    spec = whole(name)
    if device != "cpu":
        return spec
    return model_from_config(
        _in_miniature(spec.published), id=f"stand-in-{spec.id.rpartition('/')[2]}", source="file"
    )


def _in_miniature(published: Mapping[str, Any]) -> Config:
    """Every size that the config names made small; everything else as it is, but for token ids
    beyond the vocabulary."""
    sizes = {
        name: size for name, size in _STAND_IN_SIZES.items() if published.get(name) is not None
    }
    tokens = {name: 0 for name in published if name.endswith("_token_id")}
    return {**published, **sizes, **tokens}
