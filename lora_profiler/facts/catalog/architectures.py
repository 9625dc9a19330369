"""The weights of the families that the ledger knows, worked out from their config: names, classes,
shapes, biases, ties.

Module order is that of `named_modules()`. Checked against the real models of transformers, module
by module, by `tests/memory/test_parameters.py`. A family is one function of the normalised config
(`facts.catalog.config.normalise`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from lora_profiler.question.model_spec import LayerStack, Module, Weight

Config = Mapping[str, Any]
Parts = tuple[Module | LayerStack, ...]


def linear(
    name: str, in_features: int, out_features: int, bias: bool = False, tied_to: str | None = None
) -> Module:
    weights = (Weight(name="weight", shape=(out_features, in_features), tied_to=tied_to),)
    return Module(
        name=name,
        kind="Linear",
        weights=(*weights, Weight(name="bias", shape=(out_features,))) if bias else weights,
    )


def conv1d(name: str, in_features: int, out_features: int) -> Module:
    """transformers' Conv1D: a linear layer that stores its weight transposed, always with a
    bias."""
    weights = (
        Weight(name="weight", shape=(in_features, out_features)),
        Weight(name="bias", shape=(out_features,)),
    )
    return Module(name=name, kind="Conv1D", weights=weights)


def embedding(name: str, rows: int, columns: int) -> Module:
    return Module(
        name=name, kind="Embedding", weights=(Weight(name="weight", shape=(rows, columns)),)
    )


def rms_norm(name: str, kind: str, size: int) -> Module:
    return Module(name=name, kind=kind, weights=(Weight(name="weight", shape=(size,)),))


def layer_norm(name: str, size: int) -> Module:
    return Module(
        name=name,
        kind="LayerNorm",
        weights=(Weight(name="weight", shape=(size,)), Weight(name="bias", shape=(size,))),
    )


def _model(c: Config, stack: LayerStack, norm: Module) -> Parts:
    """Embedding, layers, final norm, head: the frame of every llama-like model."""
    tied = "model.embed_tokens.weight" if c["tie_word_embeddings"] else None
    return (
        embedding("model.embed_tokens", c["vocab_size"], c["hidden_size"]),
        stack,
        norm,
        linear("lm_head", c["hidden_size"], c["vocab_size"], tied_to=tied),
    )


def _attention(c: Config, bias: bool = False, output_bias: bool = False) -> tuple[Module, ...]:
    hidden, size = c["hidden_size"], c["head_dim"]
    queries, keys = c["num_attention_heads"] * size, c["num_key_value_heads"] * size
    return (
        linear("self_attn.q_proj", hidden, queries, bias),
        linear("self_attn.k_proj", hidden, keys, bias),
        linear("self_attn.v_proj", hidden, keys, bias),
        linear("self_attn.o_proj", queries, hidden, output_bias),
    )


def _gated_mlp(c: Config, bias: bool = False) -> tuple[Module, ...]:
    hidden, width = c["hidden_size"], c["intermediate_size"]
    return (
        linear("mlp.gate_proj", hidden, width, bias),
        linear("mlp.up_proj", hidden, width, bias),
        linear("mlp.down_proj", width, hidden, bias),
    )


def _experts(c: Config, prefix: str, width: int) -> tuple[Module, Module]:
    """(router, experts): all experts of a layer in two packed 3-D parameters, gate and up fused in
    the first."""
    experts, hidden = c["num_experts"], c["hidden_size"]
    router = Module(
        name="mlp.gate",
        kind=f"{prefix}TopKRouter",
        weights=(Weight(name="weight", shape=(experts, hidden)),),
    )
    packed = Module(
        name="mlp.experts",
        kind=f"{prefix}Experts",
        weights=(
            Weight(name="gate_up_proj", shape=(experts, 2 * width, hidden)),
            Weight(name="down_proj", shape=(experts, hidden, width)),
        ),
    )
    return router, packed


def _layers(c: Config, *modules: Module, name: str = "model.layers") -> LayerStack:
    return LayerStack(name=name, kinds=(modules,), order=(0,) * c["num_hidden_layers"])


def _norms(c: Config, kind: str, *names: str) -> tuple[Module, ...]:
    return tuple(rms_norm(name, kind, c["hidden_size"]) for name in names)


_TWO_NORMS = ("input_layernorm", "post_attention_layernorm")
_FOUR_NORMS = (*_TWO_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")


def _head_norms(c: Config, kind: str) -> tuple[Module, ...]:
    """Norms of queries and keys over one head, one weight for all heads (Qwen 3, Gemma 3)."""
    return tuple(rms_norm(f"self_attn.{of}_norm", kind, c["head_dim"]) for of in "qk")


def _alike(
    c: Config,
    kind: str,
    *,
    bias: bool = False,
    output_bias: bool | None = None,
    mlp: tuple[Module, ...] = (),
    head_norms: tuple[Module, ...] = (),
    norms: tuple[str, ...] = _TWO_NORMS,
) -> Parts:
    """A llama-like model whose layers are all alike, with norms of the class `kind`; `output_bias`
    as the other biases of attention and `mlp` a gated one without, where nothing is given."""
    attention = _attention(c, bias, bias if output_bias is None else output_bias)
    layers = (*attention, *head_norms, *(mlp or _gated_mlp(c)), *_norms(c, kind, *norms))
    return _model(c, _layers(c, *layers), *_norms(c, kind, "model.norm"))


def llama(c: Config) -> Parts:
    mlp = _gated_mlp(c, c["mlp_bias"])
    return _alike(c, "LlamaRMSNorm", bias=c["attention_bias"], mlp=mlp)


def mistral(c: Config) -> Parts:
    return _alike(c, "MistralRMSNorm")


def qwen2(c: Config) -> Parts:
    return _alike(c, "Qwen2RMSNorm", bias=True, output_bias=False)


def qwen3(c: Config) -> Parts:
    kind = "Qwen3RMSNorm"
    return _alike(c, kind, bias=c["attention_bias"], head_norms=_head_norms(c, kind))


def phi3(c: Config) -> Parts:
    """Queries, keys and values come from one projection, gate and up from another."""
    hidden, width, size = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
    layers = _layers(
        c,
        linear("self_attn.o_proj", heads * size, hidden),
        linear("self_attn.qkv_proj", hidden, (heads + 2 * kv) * size),
        linear("mlp.gate_up_proj", hidden, 2 * width),
        linear("mlp.down_proj", width, hidden),
        *_norms(c, "Phi3RMSNorm", *_TWO_NORMS),
    )
    return _model(c, layers, *_norms(c, "Phi3RMSNorm", "model.norm"))


def gemma(c: Config) -> Parts:
    return _alike(c, "GemmaRMSNorm", bias=c["attention_bias"])


def gemma2(c: Config) -> Parts:
    return _alike(c, "Gemma2RMSNorm", bias=c["attention_bias"], norms=_FOUR_NORMS)


def gemma3_text(c: Config) -> Parts:
    bias, kind = c["attention_bias"], "Gemma3RMSNorm"
    return _alike(c, kind, bias=bias, head_norms=_head_norms(c, kind), norms=_FOUR_NORMS)


def olmo2(c: Config) -> Parts:
    """Norms after attention and MLP only; queries and keys are normed over all heads together."""
    kind, size = "Olmo2RMSNorm", c["head_dim"]
    head_norms = (
        rms_norm("self_attn.q_norm", kind, c["num_attention_heads"] * size),
        rms_norm("self_attn.k_norm", kind, c["num_key_value_heads"] * size),
    )
    norms = ("post_attention_layernorm", "post_feedforward_layernorm")
    return _alike(c, kind, bias=c["attention_bias"], head_norms=head_norms, norms=norms)


def mixtral(c: Config) -> Parts:
    return _alike(c, "MixtralRMSNorm", mlp=_experts(c, "Mixtral", c["intermediate_size"]))


def qwen3_moe(c: Config) -> Parts:
    """Expert layers, except those that `mlp_only_layers` and `decoder_sparse_step` leave dense."""
    bias, kind = c["attention_bias"], "Qwen3MoeRMSNorm"
    router, experts = _experts(c, "Qwen3Moe", c["moe_intermediate_size"])
    attention = (*_attention(c, bias, bias), *_head_norms(c, kind))
    norms = _norms(c, kind, *_TWO_NORMS)
    mlps = {True: (experts, router), False: _gated_mlp(c)}
    dense, step = set(c["mlp_only_layers"]), c["decoder_sparse_step"]
    sparse = [i not in dense and (i + 1) % step == 0 for i in range(c["num_hidden_layers"])]
    kinds = tuple(dict.fromkeys(sparse))
    stack = LayerStack(
        name="model.layers",
        kinds=tuple((*attention, *mlps[kind], *norms) for kind in kinds),
        order=tuple(kinds.index(kind) for kind in sparse),
    )
    return _model(c, stack, *_norms(c, kind, "model.norm"))


def gpt2(c: Config) -> Parts:
    hidden, width = c["hidden_size"], c["intermediate_size"]
    tied = "transformer.wte.weight" if c["tie_word_embeddings"] else None
    return (
        embedding("transformer.wte", c["vocab_size"], hidden),
        embedding("transformer.wpe", c["max_position_embeddings"], hidden),
        _layers(
            c,
            layer_norm("ln_1", hidden),
            conv1d("attn.c_attn", hidden, 3 * hidden),
            conv1d("attn.c_proj", hidden, hidden),
            layer_norm("ln_2", hidden),
            conv1d("mlp.c_fc", hidden, width),
            conv1d("mlp.c_proj", width, hidden),
            name="transformer.h",
        ),
        layer_norm("transformer.ln_f", hidden),
        linear("lm_head", hidden, c["vocab_size"], tied_to=tied),
    )


def gpt_neox(c: Config) -> Parts:
    hidden, width, bias = c["hidden_size"], c["intermediate_size"], c["attention_bias"]
    tied = "gpt_neox.embed_in.weight" if c["tie_word_embeddings"] else None
    return (
        embedding("gpt_neox.embed_in", c["vocab_size"], hidden),
        _layers(
            c,
            layer_norm("input_layernorm", hidden),
            layer_norm("post_attention_layernorm", hidden),
            linear("attention.query_key_value", hidden, 3 * hidden, bias),
            linear("attention.dense", hidden, hidden, bias),
            linear("mlp.dense_h_to_4h", hidden, width, True),
            linear("mlp.dense_4h_to_h", width, hidden, True),
            name="gpt_neox.layers",
        ),
        layer_norm("gpt_neox.final_layer_norm", hidden),
        linear("lm_head", hidden, c["vocab_size"], tied_to=tied),
    )


def opt(c: Config) -> Parts:
    """Learned positions with two spare rows; narrower embeddings behind projections and no final
    norm in OPT-350m."""
    hidden, width, bias = c["hidden_size"], c["intermediate_size"], c["enable_bias"]
    narrow = c["word_embed_proj_dim"]
    affine = c["layer_norm_elementwise_affine"]
    tied = "model.decoder.embed_tokens.weight" if c["tie_word_embeddings"] else None
    parts: list[Module | LayerStack] = [
        embedding("model.decoder.embed_tokens", c["vocab_size"], narrow),
        embedding("model.decoder.embed_positions", c["max_position_embeddings"] + 2, hidden),
    ]
    if narrow != hidden:
        parts.append(linear("model.decoder.project_out", hidden, narrow))
        parts.append(linear("model.decoder.project_in", narrow, hidden))
    if affine and c["do_layer_norm_before"] and not c["_remove_final_layer_norm"]:
        parts.append(layer_norm("model.decoder.final_layer_norm", hidden))
    layers = [
        linear(f"self_attn.{name}", hidden, hidden, bias)
        for name in ("k_proj", "v_proj", "q_proj", "out_proj")
    ]
    layers += [layer_norm("self_attn_layer_norm", hidden)] if affine else []
    layers += [linear("fc1", hidden, width, bias), linear("fc2", width, hidden, bias)]
    layers += [layer_norm("final_layer_norm", hidden)] if affine else []
    parts.append(_layers(c, *layers, name="model.decoder.layers"))
    parts.append(linear("lm_head", narrow, c["vocab_size"], tied_to=tied))
    return tuple(parts)


_ALL = (
    llama, mistral, qwen2, qwen3, phi3, gemma, gemma2, gemma3_text, olmo2, mixtral, qwen3_moe,
    gpt2, gpt_neox, opt,
)  # fmt: skip
FAMILIES: dict[str, Callable[[Config], Parts]] = {family.__name__: family for family in _ALL}
"""model_type -> the weights of its causal language model."""
