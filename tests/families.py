"""Small configs of every family that the analytic predictor knows, as config.json spells them.

`TINY` has the toy dimensions of the reference tables: 3 layers, hidden 48, 4 heads over 2 key/value
heads of width 12 (16 in Qwen 3 and Gemma), MLP 112, vocabulary 101, no dropout, windows longer than
any test sequence. `VARIED` turns what real models of the family turn: head counts, biases, ties,
windows shorter than a sequence of 24, unlike layers.
"""

from typing import Any

Config = dict[str, Any]


def _llama_like(model_type: str, **changes: Any) -> Config:
    config: Config = {
        "model_type": model_type, "hidden_size": 48, "intermediate_size": 112,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
        "vocab_size": 101, "max_position_embeddings": 256, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    return config | changes


def _without(config: Config, *names: str) -> Config:
    return {name: value for name, value in config.items() if name not in names}


def _gpt2(**changes: Any) -> Config:
    config: Config = {
        "model_type": "gpt2", "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 256,
        "vocab_size": 101, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return config | changes


def _gpt_neox(**changes: Any) -> Config:
    config: Config = {
        "model_type": "gpt_neox", "hidden_size": 48, "intermediate_size": 192,
        "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 101,
        "max_position_embeddings": 256, "rotary_pct": 0.5, "attention_dropout": 0.0,
        "hidden_dropout": 0.0, "tie_word_embeddings": False,
    }  # fmt: skip
    return config | changes


def _opt(**changes: Any) -> Config:
    config: Config = {
        "model_type": "opt", "hidden_size": 48, "word_embed_proj_dim": 48, "ffn_dim": 112,
        "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 101,
        "max_position_embeddings": 256, "dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0,
    }  # fmt: skip
    return config | changes


def _mixtral(**changes: Any) -> Config:
    return _llama_like("mixtral", num_local_experts=4, num_experts_per_tok=2) | changes


def _qwen3_moe(**changes: Any) -> Config:
    experts = {
        "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
        "norm_topk_prob": False,
    }  # fmt: skip
    return _llama_like("qwen3_moe", head_dim=16, **experts) | changes


TINY: dict[str, Config] = {
    "llama": _llama_like("llama"),
    "mistral": _llama_like("mistral", sliding_window=4096),
    "qwen2": _without(_llama_like("qwen2", tie_word_embeddings=True), "head_dim"),
    "qwen3": _llama_like("qwen3", head_dim=16),
    "phi3": _without(_llama_like("phi3"), "head_dim"),
    "gemma": _llama_like("gemma", head_dim=16, tie_word_embeddings=True),
    "gemma2": _llama_like("gemma2", head_dim=16, tie_word_embeddings=True),
    "gemma3_text": _llama_like("gemma3_text", head_dim=16, tie_word_embeddings=True),
    "olmo2": _without(_llama_like("olmo2"), "head_dim"),
    "gpt2": _gpt2(),
    "gpt_neox": _gpt_neox(),
    "opt": _opt(),
    "mixtral": _mixtral(),
    "qwen3_moe": _qwen3_moe(),
}

VARIED: dict[str, Config] = {
    "llama": _llama_like("llama", num_hidden_layers=5, num_key_value_heads=4, attention_bias=True,
        mlp_bias=True, vocab_size=64),
    "llama_tied": _llama_like("llama", hidden_size=40, head_dim=20, num_key_value_heads=1,
        tie_word_embeddings=True),
    "mistral": _llama_like("mistral", num_hidden_layers=4, num_key_value_heads=1,
        sliding_window=16),
    "qwen2": _without(_llama_like("qwen2", num_hidden_layers=4, use_sliding_window=True,
        sliding_window=16, max_window_layers=2), "head_dim"),
    "qwen3": _llama_like("qwen3", num_key_value_heads=4, attention_bias=True,
        tie_word_embeddings=True),
    "phi3": _without(_llama_like("phi3", hidden_size=64, num_key_value_heads=4,
        partial_rotary_factor=0.5, sliding_window=16), "head_dim"),
    "gemma": _llama_like("gemma", num_hidden_layers=2, num_key_value_heads=1, head_dim=20,
        tie_word_embeddings=True),
    "gemma2": _llama_like("gemma2", num_hidden_layers=5, num_key_value_heads=4, sliding_window=16,
        tie_word_embeddings=True, query_pre_attn_scalar=9),
    "gemma2_no_softcap": _llama_like("gemma2", head_dim=16, tie_word_embeddings=True,
        attn_logit_softcapping=None, final_logit_softcapping=None),
    "gemma3_text": _llama_like("gemma3_text", num_hidden_layers=5, num_key_value_heads=4,
        sliding_window=16, layer_types=["sliding_attention", "sliding_attention", "full_attention",
        "sliding_attention", "full_attention"], tie_word_embeddings=True),
    "olmo2": _without(_llama_like("olmo2", num_key_value_heads=4, attention_bias=True,
        tie_word_embeddings=True), "head_dim"),
    "gpt2": _gpt2(n_layer=4, n_inner=100, attn_pdrop=0.1, embd_pdrop=0.1, resid_pdrop=0.1),
    "gpt_neox": _gpt_neox(num_hidden_layers=4, use_parallel_residual=False, attention_bias=False,
        rotary_pct=1.0, tie_word_embeddings=True),
    "opt": _opt(do_layer_norm_before=False, word_embed_proj_dim=32, ffn_dim=80,
        num_hidden_layers=4),
    "opt_no_bias": _opt(enable_bias=False, dropout=0.1, tie_word_embeddings=False),
    "mixtral": _mixtral(num_hidden_layers=4, num_key_value_heads=4, num_local_experts=6,
        num_experts_per_tok=3, sliding_window=16, tie_word_embeddings=True),
    "qwen3_moe": _qwen3_moe(num_hidden_layers=4, num_experts=6, num_experts_per_tok=3,
        mlp_only_layers=[0], norm_topk_prob=True),
    "qwen3_moe_every_second": _qwen3_moe(num_hidden_layers=4, decoder_sparse_step=2,
        moe_intermediate_size=24),
}  # fmt: skip

TINY_BLOOM = {
    "model_type": "bloom", "architectures": ["BloomForCausalLM"], "hidden_size": 32, "n_layer": 6,
    "n_head": 4, "vocab_size": 500,
}  # fmt: skip
"""A type that the rules do not know."""
