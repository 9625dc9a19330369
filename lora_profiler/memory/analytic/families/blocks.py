"""Pieces that several families share: norms, rotary embedding, attention, gated MLP, each of which
mirrors transformers' own code; and what a family has to say: how it embeds, what one layer does,
and how it gets from the last layer to logits."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lora_profiler._common.polynomial import S8, S32, TOKENS, ZERO, B, Polynomial, S, constant
from lora_profiler.memory.analytic import matmuls
from lora_profiler.memory.analytic.cut_layers import ring_attention
from lora_profiler.memory.analytic.ledger import Ledger, Tensor
from lora_profiler.memory.analytic.matmuls import linear, matmul

Config = Mapping[str, Any]

_KEEP_OUTPUT = frozenset({"relu", "tanh", "sigmoid"})
FLASH_ALIGNMENT = 8
"""Flash attention pads heads of a width that is no multiple of it, and keeps them padded
(`attention.cpp`, pad_last_dim)."""
_KEEP_INPUT = frozenset({"gelu", "gelu_pytorch_tanh", "silu", "swish"})
KNOWN_ACTIVATIONS = _KEEP_OUTPUT | _KEEP_INPUT | {"gelu_new", "gelu_fast", "quick_gelu", "relu2"}


class Heads(NamedTuple):
    """Attention shape: query heads, key/value heads, features a head."""

    query: int
    key_value: int
    dim: int

    @property
    def groups(self) -> int:
        return self.query // self.key_value


def heads_of(c: Config) -> Heads:
    """Families without grouped heads state neither `num_key_value_heads` nor `head_dim`."""
    query = c["num_attention_heads"]
    return Heads(
        query=query,
        key_value=c.get("num_key_value_heads", query),
        dim=c.get("head_dim", c["hidden_size"] // query),
    )


def rotary_dim(c: Config) -> int:
    """Features of a head that a partial rotation turns."""
    return int(heads_of(c).dim * c.get("partial_rotary_factor", 1.0))


def rms_norm(
    op: Ledger, x: Tensor, name: str, rows: Polynomial = TOKENS, *, style: str = "llama"
) -> Tensor:
    """w * x / rms(x), computed in float32.

    style "llama" converts back before multiplying by w, "olmo" after, "gemma" multiplies by (1 + w)
    in float32.
    """
    op.scope = name
    weight = op.weight(name)
    if norm := op.rules.replaced("norm"):
        return norm(op, x, weight, rows)  # type: ignore[no-any-return]
    wide = op.cast(x, "float32")
    inverse = op.activation(
        op.shift(op.reduce(op.square(wide), rows, "mean")), "rsqrt", keeps_output=True
    )
    normed = op.multiply(wide, inverse)
    if style == "gemma":
        return op.cast(op.multiply(normed, op.shift(op.cast(weight, "float32"))), x.dtype)
    if style == "olmo":
        return op.cast(op.multiply(normed, weight), x.dtype)
    return op.multiply(op.cast(normed, x.dtype), weight)


def rotary(
    op: Ledger,
    x: Tensor,
    head_dim: int,
    rotary_dim: int,
    tables: str = "rotary",
    *,
    dtype: str | None = None,
    always_concatenates: bool = False,
) -> Tensor:
    """x cos + rotate_half(x) sin over the first `rotary_dim` of each head's features; cos and sin
    are (1, s, rotary_dim), of packed rows (b, s, rotary_dim).

    The tables have the residual stream's dtype; a family that makes them in another `dtype`
    converts the result back. Families that allow a partial rotation concatenate the rest even where
    there is none (`always_concatenates`).
    """
    x = op.turn(x)
    made, size = op.rules.rotary_tables, op.rules.positions * rotary_dim
    if made == "each":
        cos, sin = (op.fresh(size, x.dtype, False) for _ in range(2))
    else:
        size = size if made == "once" else ZERO
        of = dtype or op.rules.rest_dtype
        cos, sin = (op.shared(f"{tables}.{t}", size, of) for t in ("cos", "sin"))
    if op.rules.rotates_pairs:
        out = op.fresh(x.elements, x.dtype, x.requires_grad, x.merged)
        op.record("rotate_pairs", (x,), (out,), (cos, sin), side_inputs=(cos, sin))
        return out
    rotated_elements = x.elements // head_dim * rotary_dim
    rest = x.elements - rotated_elements
    part = x if rotary_dim == head_dim else op.slices(x, (rotated_elements, rest))[0]
    half = op.halves(part)
    turned = op.concatenate(op.negate(half), half, elements=rotated_elements)
    out = op.add(op.multiply(part, cos), op.multiply(turned, sin))
    if rotary_dim < head_dim or always_concatenates:
        out = op.concatenate(out, part, elements=x.elements)  # `part` stands for the rest
    return op.cast(out, x.dtype) if dtype else out


def repeat(op: Ledger, x: Tensor, heads: Heads) -> Tensor:
    """`repeat_kv`: each key/value head copied for its query heads; a single head is only expanded,
    which copies nothing."""
    if heads.groups == 1:
        return x
    return op.expand(x, heads.groups) if heads.key_value == 1 else op.copy(x, heads.groups)


def attention(
    op: Ledger,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: Heads,
    scope: str,
    *,
    dropout: float = 0.0,
    masked: bool = False,
    upcast: bool = True,
    softcap: bool = False,
) -> Tensor:
    """softmax(q k^T) v by the kernel that the rules name for calls with a mask (`masked`) or
    without.

    eager: `eager_attention_forward` of the family (`upcast`: float32 softmax). SDPA: PyTorch's
    fused kernels keep q, k, v, their output and the row-wise log-sum-exp. Grouped heads are
    repeated where there is a mask, as transformers does, and before an efficient kernel that does
    not take them; by older versions of transformers always.
    """
    op.scope = scope
    dropout = dropout if op.rules.trains else 0.0
    kernel = op.rules.masked_kernel if masked else op.rules.kernel
    if kernel == "eager":
        return eager(op, q, k, v, heads, dropout, upcast, softcap)
    if kernel == "math" or (kernel == "cpu" and dropout > 0.0):
        return _math(op, q, k, v, heads, dropout)
    if masked or op.rules.repeats_always or (kernel == "efficient" and op.rules.repeats_heads):
        k, v = repeat(op, k, heads), repeat(op, v, heads)
    q, k, v = (op.lowered(t) for t in (q, k, v))
    given, width = q.elements, heads.dim
    if kernel == "flash" and width % FLASH_ALIGNMENT:
        width += -width % FLASH_ALIGNMENT
        q, k, v = (op.pad(t, heads.dim, width) for t in (q, k, v))
    if op.rules.ring > 1:
        return ring_attention(op, kernel, q, k, v, heads.query, heads.groups)
    out = op.fresh(q.elements, q.dtype, q.requires_grad or k.requires_grad or v.requires_grad)
    rows = B * S32 if kernel == "efficient" else TOKENS
    beside = [op.fresh(rows * heads.query, "float32", False)]
    if kernel == "flash":
        beside.append(op.fresh(constant(24), "uint8", False))
    elif kernel == "cudnn" or (kernel == "efficient" and op.rules.keeps_seeds and not dropout):
        beside.append(op.fresh(constant(16), "uint8", False))
    if masked:
        # rows of the efficient kernel's begin at multiples of 8 (sdp_utils, preprocess_mask)
        width_of_mask = S8 if kernel == "efficient" else S
        beside.append(op.fresh(B * S * width_of_mask, q.dtype, False))
    flops = B * op.rules.attended * (heads.query * width * 4)
    named = (
        f"{kernel}_masked"
        if masked
        else "flash_varlen"
        if kernel == "flash" and op.rules.packed
        else kernel
    )
    op.record(
        named,
        (q, k, v),
        (out,),
        (q, k, v, out, *beside),
        flops,
        flops // 2 * 5,
        saves_output=True,
        side_inputs=tuple(beside),
        sizes=(B * heads.query, S, S, constant(width)),
    )
    if width != heads.dim:
        return op.copy(op.slices(out, (given,))[0])
    # the output is laid out as q is, the efficient kernel's always as (b, s, heads, d);
    # `transpose(1, 2).contiguous()` copies one that is (b, heads, s, d) in memory
    as_q = kernel != "efficient" and q.merged and not op.rules.seq_is_one
    return op.copy(out) if as_q or op.rules.copies_attention else op.view(out)


def flex_with_sinks(op: Ledger, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
    """torch's FlexAttention, which keeps what a flash kernel does; its output is then scaled by
    sigmoid(log-sum-exp - sink) of each row (unsloth-zoo 2026.10.9, `flex_attention/
    attention_sink.py`, flex_attention_with_sink). Its block masks, 16 bytes for each 128 x 128
    tokens, are left out."""
    q, k, v = (op.lowered(t) for t in (q, k, v))
    out = op.fresh(q.elements, q.dtype, q.requires_grad or k.requires_grad or v.requires_grad)
    sums = op.fresh(TOKENS * heads.query, "float32", out.requires_grad)
    flops = B * op.rules.attended * (heads.query * heads.dim * 4)
    op.record(
        "flash",
        (q, k, v),
        (out,),
        (q, k, v, out, sums),
        flops,
        flops // 2 * 5,
        saves_output=True,
        side_inputs=(sums,),
        sizes=(B * heads.query, S, S, constant(heads.dim)),
    )
    shares = op.cast(op.activation(sums, "sigmoid", keeps_output=True), out.dtype)
    return op.copy(op.multiply(out, shares))


def eager(
    op: Ledger,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: Heads,
    dropout: float,
    upcast: bool,
    softcap: bool,
) -> Tensor:
    """Attention written out in Python: scores (b, heads, s, s), softmax, product with v."""
    k, v = repeat(op, k, heads), repeat(op, v, heads)
    batches, dim = B * heads.query, constant(heads.dim)
    scores = op.scale(
        matmul(op, op.lowered(q), op.lowered(k), (batches, S, S, dim), transposes=True)
    )
    if softcap:
        scores = op.scale(op.activation(op.scale(scores), "tanh", keeps_output=True))
    scores = op.mask(scores, op.fresh(B * S * S, op.rules.rest_dtype, False))
    weights = op.softmax(scores, "float32" if upcast else scores.dtype)
    weights = op.dropout(op.cast(weights, q.dtype), dropout)
    op.returned = (weights,)
    return _joined(op, matmul(op, op.lowered(weights), op.lowered(v), (batches, S, dim, S)))


def _math(op: Ledger, q: Tensor, k: Tensor, v: Tensor, heads: Heads, dropout: float) -> Tensor:
    """SDPA without a fused kernel (`_scaled_dot_product_attention_math`): in float32, scale split
    over q and k."""
    dtype = op.lowered(q).dtype
    wide = [op.cast(op.lowered(t), "float32") for t in (q, k, v)]
    wide[1:] = [op.copy(t, heads.groups) if heads.groups > 1 else t for t in wide[1:]]
    batches, dim = B * heads.query, constant(heads.dim)
    scores = matmul(op, op.scale(wide[0]), op.scale(wide[1]), (batches, S, S, dim), transposes=True)
    weights = op.dropout(op.safe_softmax(scores, dtype), dropout)
    return _joined(op, op.cast(matmul(op, weights, wide[2], (batches, S, dim, S)), dtype))


def _joined(op: Ledger, x: Tensor) -> Tensor:
    """(b, heads, s, d) to (b, s, heads * d): a copy, unless s is 1."""
    return op.view(x) if op.rules.seq_is_one else op.copy(x)


def gated_mlp(op: Ledger, x: Tensor, c: Config, name: str = "mlp") -> Tensor:
    """down(act(gate(x)) * up(x))."""
    made = matmuls.mlp(op, x, name)
    if made is not None:
        return made
    gate = linear(op, x, f"{name}.gate_proj")
    if gated := op.rules.replaced("gated"):
        product = gated(op, gate, linear(op, x, f"{name}.up_proj"), name)
        out = linear(op, product, f"{name}.down_proj")
        op.keep(x)
        return out
    op.scope = name
    acted = activate(op, gate, c["hidden_act"])
    up = linear(op, x, f"{name}.up_proj")
    op.scope = name
    out = linear(op, op.multiply(acted, up), f"{name}.down_proj")
    op.keep(x)
    return out


def activate(op: Ledger, x: Tensor, kind: str) -> Tensor:
    """The activation function by its transformers name (`activations.py`). Those written out in
    Python keep several tensors; one that is not in KNOWN_ACTIVATIONS is taken to be a single kernel
    that keeps its input."""
    if kind == "gelu_new":  # 0.5 * x * (1 + tanh(c * (x + 0.044715 * x^3)))
        inner = op.scale(op.add(x, op.scale(op.square(x))))
        return op.multiply(op.scale(x), op.shift(op.activation(inner, "tanh", keeps_output=True)))
    if kind == "gelu_fast":  # 0.5 * x * (1 + tanh(x * c * (1 + 0.044715 * x * x)))
        inner = op.multiply(op.scale(x), op.shift(op.multiply(op.scale(x), x)))
        return op.multiply(op.scale(x), op.shift(op.activation(inner, "tanh", keeps_output=True)))
    if kind == "relu2":
        return op.square(op.activation(x, "relu", keeps_output=True))
    if kind == "quick_gelu":  # x * sigmoid(1.702 * x)
        return op.multiply(x, op.activation(op.scale(x), "sigmoid", keeps_output=True))
    return op.activation(x, kind, keeps_output=kind in _KEEP_OUTPUT)


# --- what a family says ---------------------------------------------------------------------------


def plain_head(op: Ledger, x: Tensor, c: Config) -> Tensor:
    return linear(op, x, "lm_head")


def window_by_layer_type(c: Config, layer: int) -> int | None:
    """`layer_types` where the config has them, else its `sliding_window` for every layer."""
    types = c.get("layer_types")
    if types:
        return c.get("sliding_window") if types[layer] == "sliding_attention" else None
    return c.get("sliding_window")


def one_rotary_set(c: Config) -> tuple[tuple[str, int], ...]:
    return (("rotary", heads_of(c).dim),)


class Family(NamedTuple):
    """`stack` is the ModuleList of decoder layers. `embed` turns ids into the residual stream,
    `layer` runs layer i, `head` makes logits of the last hidden state, `norm` that state of the
    last layer's output.

    `window(config, i)` is the sliding window of layer i in tokens, None for full attention;
    `rotary_sets(config)` are the (name, features) of its rotary tables, in `rotary_dtype` or the
    residual stream's dtype; `buffer_bytes(dtype)` what the model registers beside them.
    `mask_is_positional`: layers take the attention mask as a positional argument, which
    checkpointing saves. `masks(config)`: windows that get a mask whether a layer uses it or not.
    `positions_per_sample`: position ids are (b, s) instead of (1, s). `has_sinks`: attention has
    weights of its own beside its projections.
    """

    stack: str
    embed: Callable[[Ledger, Tensor, Config], Tensor]
    layer: Callable[[Ledger, Tensor, Config, int], Tensor]
    norm: Callable[[Ledger, Tensor, Config], Tensor]
    head: Callable[[Ledger, Tensor, Config], Tensor] = plain_head
    window: Callable[[Config, int], int | None] = lambda c, layer: None
    rotary_sets: Callable[[Config], tuple[tuple[str, int], ...]] = one_rotary_set
    rotary_dtype: str | None = None
    buffer_bytes: Callable[[str], int] = lambda dtype: 0
    mask_is_positional: bool = False
    masks: Callable[[Config], tuple[int | None, ...]] = lambda c: ()
    positions_per_sample: bool = False
    has_sinks: bool = False
