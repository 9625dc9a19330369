"""Types, ranges and relations of a config's fields: what came, and what is accepted."""

from collections.abc import Mapping
from typing import Any, NoReturn

from lora_profiler.errors import ModelNotFoundError, did_you_mean

_SIZES = {
    "hidden_size": 2**20, "intermediate_size": 2**24, "moe_intermediate_size": 2**24,
    "word_embed_proj_dim": 2**20, "num_hidden_layers": 10_000, "num_attention_heads": 2**16,
    "num_key_value_heads": 2**16, "head_dim": 2**16, "vocab_size": 2**26,
    "max_position_embeddings": 2**31, "num_experts": 2**16, "num_experts_per_tok": 2**16,
    "decoder_sparse_step": 10_000, "sliding_window": 2**31, "sliding_window_pattern": 10_000,
}  # fmt: skip
"""Whole numbers from 1 to the bound: some 50 times the largest model published, so that a slip of a
digit is noticed."""
_COUNTS = {"max_window_layers": 2**31}
_FLAGS = frozenset({
    "tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window", "norm_topk_prob",
    "use_parallel_residual", "do_layer_norm_before", "_remove_final_layer_norm", "enable_bias",
    "layer_norm_elementwise_affine", "scale_attn_weights", "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn", "add_cross_attention", "output_router_logits",
    "use_bidirectional_attention",
})  # fmt: skip
_RATES = frozenset(
    {"attention_dropout", "resid_pdrop", "embd_pdrop", "hidden_dropout", "dropout", "layerdrop"}
)
_POSITIVE = frozenset({
    "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "attn_logit_softcapping",
    "final_logit_softcapping", "query_pre_attn_scalar", "partial_rotary_factor",
})  # fmt: skip
ACTIVATIONS = frozenset({
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python",
    "gelu_pytorch_tanh", "gelu_python_tanh", "laplace", "leaky_relu", "linear", "mish",
    "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu", "swish", "tanh",
})  # fmt: skip
"""`transformers.activations.ACT2FN` without the two that own weights (prelu, xielu)."""
_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})


def check_fields(config: Mapping[str, Any], source: str) -> None:
    """Types and ranges of every field that was given or is a class default."""
    for name, value in config.items():
        if value is None:
            continue
        if name in _SIZES or name in _COUNTS:
            low, high = (1, _SIZES[name]) if name in _SIZES else (0, _COUNTS[name])
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                refuse(source, name, value, f"a whole number from {low} to {high}")
        elif name in _FLAGS and not isinstance(value, bool):
            refuse(source, name, value, "true or false")
        elif name in _RATES and not (_is_number(value) and 0 <= value < 1):
            refuse(source, name, value, "a number of at least 0 and below 1")
        elif name in _POSITIVE and not (_is_number(value) and 0 < value < 1e30):
            refuse(source, name, value, "a number above 0")
    act = config.get("hidden_act")
    if not isinstance(act, str):
        refuse(source, "hidden_act", act, "the name of an activation such as silu")
    if act not in ACTIVATIONS:
        raise ModelNotFoundError(
            f"{source}: hidden_act is {act!r}, which is not known"
            f" here.{did_you_mean(act, ACTIVATIONS)}"
        )
    layers = config.get("layer_types")
    if layers is not None:
        if not isinstance(layers, list) or not all(
            isinstance(x, str) and x in _LAYER_TYPES for x in layers
        ):
            refuse(source, "layer_types", layers, "a list of full_attention and sliding_attention")
        if len(layers) != config["num_hidden_layers"]:
            refuse(
                source,
                "layer_types",
                layers,
                f"as long as num_hidden_layers ({config['num_hidden_layers']})",
            )
    dense = config.get("mlp_only_layers")
    if dense is not None and not (
        isinstance(dense, list) and all(isinstance(x, int) for x in dense)
    ):
        refuse(source, "mlp_only_layers", dense, "a list of layer numbers")


def check_rope(rope: Mapping[str, Any], source: str) -> None:
    if not (_is_number(rope["rope_theta"]) and 0 < rope["rope_theta"] < 1e30):
        refuse(source, "rope_theta", rope["rope_theta"], "a number above 0")
    if not isinstance(rope["rope_type"], str):
        refuse(source, "rope_type", rope["rope_type"], "text")
    part = rope.get("partial_rotary_factor", 1.0)
    if not (_is_number(part) and 0 < part <= 1):
        refuse(source, "partial_rotary_factor", part, "a number above 0 and at most 1")


def check_relations(config: Mapping[str, Any], source: str) -> None:
    """Relations between fields without which the attention cannot be computed."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    kv = config.get("num_key_value_heads")
    if hidden % heads and config["head_dim"] == hidden // heads:
        raise ModelNotFoundError(
            f"{source}: hidden_size {hidden} does not divide into num_attention_heads {heads};"
            " correct one, or give head_dim."
        )
    if kv is not None and (kv > heads or heads % kv):
        raise ModelNotFoundError(
            f"{source}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv}; key"
            " and value heads are shared by equally many query heads."
        )
    experts, chosen = config.get("num_experts"), config.get("num_experts_per_tok")
    if experts is not None and chosen is not None and chosen > experts:
        raise ModelNotFoundError(
            f"{source}: num_experts_per_tok {chosen} is more than the {experts} experts there are."
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def refuse(source: str, name: str, value: object, accepted: str) -> NoReturn:
    raise ModelNotFoundError(f"{source}: {name} is {shown(value)}; it must be {accepted}.")
