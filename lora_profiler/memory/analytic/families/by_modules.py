"""A program for a type of model that has none of its own, read off the names and shapes of its
modules: what transformers' decoders have in common. What it keeps is an estimate.

A layer is mixers of tokens (attention, else convolutions and states) and MLPs (dense, gated, or of
experts), each between the norms that the layer has, in the order in which they are registered.
`benchmarks/results/estimates.md` holds it against laws and programs of types that have them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Literal, NamedTuple

from lora_profiler._common.polynomial import TOKENS, Polynomial
from lora_profiler.memory.analytic.cut_layers import embedding
from lora_profiler.memory.analytic.families import moe
from lora_profiler.memory.analytic.families.blocks import (
    Config,
    Family,
    Heads,
    activate,
    attention,
    eager,
    gated_mlp,
    heads_of,
    rms_norm,
    rotary,
    window_by_layer_type,
)
from lora_profiler.memory.analytic.families.llama import residual
from lora_profiler.memory.analytic.ledger import Ledger, Tensor
from lora_profiler.memory.analytic.matmuls import QKV, linear, projections
from lora_profiler.question.model_spec import LayerStack, ModelSpec, Module
from lora_profiler.question.support.model_types import type_of
from lora_profiler.question.workload import Workload

_DECODERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_OTHER_SIDES = ("vision", "visual", "audio", "image", "resampler")
_QUERY = ("q_proj", "q_b_proj", "q_lin", "query", "wq")
_KEY = ("k_proj", "k_lin", "key", "wk")
_VALUE = ("v_proj", "v_lin", "value", "wv")
_FUSED = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "qkv", "in_proj_qkv")
_LATENT = ("kv_b_proj",)
"""Keys and values of all heads, made of a narrow vector a token (DeepSeek)."""


Group = Literal["attention", "experts", "packed experts", "states", "states, checkpointed"]

ERRORS: Mapping[Group, float] = {
    "attention": 0.05,
    "experts": 0.05,
    "packed experts": 0.40,
    "states": 0.50,
    "states, checkpointed": 0.20,
}
"""How far off an estimate of a peak is taken to be: what 95 of 100 were within, where there are few
the worst, rounded up. `benchmarks/results/estimates.md` has them all."""


def family_by_modules(model: ModelSpec) -> Family | None:
    """None for a model without a head, with an encoder or with linear layers of its own class, and
    where no stack of layers is found."""
    return None if model.is_embedding or type_of(model).own_linears else _family(model)


def error_of(workload: Workload) -> float:
    """Of the peak of a workload whose layers are read off their modules."""
    return ERRORS[group_of(workload)]


def group_of(workload: Workload) -> Group:
    """What decides how far off an estimate may be."""
    base = workload.setup.quantization
    if has_states(workload.model):
        return "states, checkpointed" if workload.setup.checkpointing else "states"
    if not any(_holds_experts(module) for module in _in_layers(workload.model)):
        return "attention"
    return "packed experts" if base is not None and base.quantize_experts else "experts"


def has_states(model: ModelSpec) -> bool:
    """Whether tokens are mixed by anything else than attention in some layer."""
    stack, hidden = _text_stack(model), model.config["hidden_size"]
    assert stack is not None
    layers = [{module.name: module for module in kind} for kind in stack.kinds]
    return any(
        not _attends(layer, block) for layer in layers for block in _parts(layer, hidden).mixers
    )


def _in_layers(model: ModelSpec) -> Iterator[Module]:
    stack = _text_stack(model)
    return chain.from_iterable(stack.kinds) if stack else iter(())


def states_words(model: ModelSpec) -> str:
    """What an answer says of states; empty for a model without."""
    if not has_states(model):
        return ""
    return (
        " Their states are those of CUDA kernels (mamba-ssm, flash-linear-attention). Without"
        " these packages transformers needs more."
    )


@lru_cache(maxsize=64)
def _family(model: ModelSpec) -> Family | None:
    stack, outside = _text_stack(model), _outside(model)
    head = next((m for m in outside if m.name == model.output_embedding and m.is_linear), None)
    if stack is None or head is None or not model.architecture.endswith(_DECODERS):
        return None
    if not {"num_attention_heads", "hidden_size"} <= model.config.keys():
        return None
    tables = [m for m in outside if m.kind == "Embedding"]
    words = next((m for m in tables if m.weights[0].shape[0] >= _rows(head)), None)
    if words is None or _width(words) != model.config["hidden_size"]:
        return None
    positions = next(
        (m for m in tables if _rows(m) < _rows(words) and _width(m) == _width(words)), None
    )
    by_layer = next((m for m in tables if m is not words and _rows(m) >= _rows(words)), None)
    norms = [m for m in outside if _is_norm(m) and m.weights[0].shape == (_width(words),)]
    last = norms[-1].name if norms else ""

    def embed(op: Ledger, ids: Tensor, c: Config) -> Tensor:
        x = op.inputs(embedding(op, words.name, ids, _width(words)))
        if by_layer is not None:
            embedding(op, by_layer.name, ids, _width(by_layer))
        if positions is None:
            return x
        return op.add(x, embedding(op, positions.name, op.positions(), _width(positions)))

    each = _width(by_layer) // len(stack.order) if by_layer else 0
    return Family(
        stack=stack.name,
        embed=embed,
        layer=lambda op, x, c, index: _layer(
            op, x, c, index, each * len(stack.order), positions is not None or _rotates(c)
        ),
        norm=lambda op, x, c: _normed(op, x, last),
        head=lambda op, x, c: _capped(op, linear(op, x, head.name), c),
        window=window_by_layer_type,
        rotary_sets=lambda c: (("rotary", _rotated(c, heads_of(c).dim)),) if _rotates(c) else (),
    )


def _text_stack(model: ModelSpec) -> LayerStack | None:
    """None too for an encoder and a decoder."""
    stacks = [
        part
        for part in model.parts
        if isinstance(part, LayerStack) and not any(word in part.name for word in _OTHER_SIDES)
    ]
    if any("encoder" in stack.name for stack in stacks):
        return None
    stacks = [stack for stack in stacks if len(stack.order) == model.num_layers]
    return stacks[0] if len(stacks) == 1 else None


def _outside(model: ModelSpec) -> list[Module]:
    return [
        part
        for part in model.parts
        if isinstance(part, Module) and not any(word in part.name for word in _OTHER_SIDES)
    ]


def _rows(module: Module) -> int:
    return module.weights[0].shape[0]


def _width(module: Module) -> int:
    return module.weights[0].shape[-1]


def _is_norm(module: Module) -> bool:
    return "norm" in module.kind.lower()


def _rotates(c: Config) -> bool:
    return bool(c.get("rope_parameters") or c.get("rotary_dim") or c.get("rope_theta"))


def _rotated(c: Config, dim: int) -> int:
    """Features of a head that turn."""
    return int(c.get("rotary_dim") or dim * (c.get("partial_rotary_factor") or 1.0))


def _capped(op: Ledger, logits: Tensor, c: Config) -> Tensor:
    if not c.get("final_logit_softcapping"):
        return logits
    return op.scale(op.activation(op.scale(logits), "tanh", keeps_output=True))


def _normed(op: Ledger, x: Tensor, name: str, rows: Polynomial = TOKENS) -> Tensor:
    """By the norm of this name; one without weights is torch's layer norm, as OLMo's is."""
    module = op.modules.get(name)
    if module is None:
        return op.cast(op.layer_norm(op.cast(x, "float32"), name, rows), x.dtype)
    if module.kind == "LayerNorm":
        return op.layer_norm(x, name, rows)
    return rms_norm(op, x, name, rows, style="gemma" if "Gemma" in module.kind else "llama")


# --- a layer --------------------------------------------------------------------------------------


class _Parts(NamedTuple):
    """Names of the modules of a layer: `mixers` and `mlps` are those that hold linear layers; an
    `mlps` of "" are linear layers of the layer itself."""

    mixers: tuple[str, ...]
    mlps: tuple[str, ...]
    norms: tuple[str, ...]


def _parts(modules: Mapping[str, Module], hidden: int) -> _Parts:
    blocks: dict[str, list[str]] = {}
    norms = []
    for name, module in modules.items():
        block, dot, rest = name.partition(".")
        if not dot and _is_norm(module):
            norms.append(name)
        elif dot:
            blocks.setdefault(block, []).append(rest)
        elif module.is_linear and not name.startswith("per_layer"):
            blocks.setdefault("", []).append(name)
    mixers = [block for block, names in blocks.items() if block and _mixes(block, names)]
    inside = [
        name
        for name, module in modules.items()
        if _is_norm(module)
        and "." in name
        and module.weights[0].shape == (hidden,)
        and name.partition(".")[0] not in mixers
    ]
    mlps = [block for block in blocks if block not in mixers]
    return _Parts(tuple(mixers), tuple(mlps), (*norms, *inside))


def _mixes(block: str, names: Sequence[str]) -> bool:
    words = ("attn", "attention", "mamba", "conv", "mixer", "temporal", "linear_attn")
    return any(word in block for word in words) or any(name.endswith("q_proj") for name in names)


def _layer(
    op: Ledger, x: Tensor, c: Config, index: int, by_layer: int, knows_places: bool
) -> Tensor:
    """`by_layer`: see `_of_own_embedding`; `knows_places`: positions are learned, or turn queries
    and keys."""
    parts, hidden = _parts(op.modules, c["hidden_size"]), c["hidden_size"]
    steps = [step for step in (parts.mixers, parts.mlps) if step]
    around = len(parts.norms) >= 2 * len(steps)
    before = [*parts.norms[:: 2 if around else 1]] or [""] * len(steps)
    is_parallel = 0 < len(parts.norms) < len(steps)
    normed = None
    for number, blocks in enumerate(steps):
        if normed is None or not is_parallel:
            normed = _normed(op, x, before[min(number, len(before) - 1)])
        for block in blocks:
            if blocks is parts.mixers:
                update = _mixed(op, normed, c, index, block, hidden, knows_places)
            else:
                update = _mlp(op, normed, c, block, hidden)
            if around:
                update = _normed(op, update, parts.norms[2 * number + 1])
            op.keep(normed)
            x = residual(op, x, update)
    if by_layer and "per_layer_input_gate" in op.modules:
        x = residual(op, x, _of_own_embedding(op, x, c, by_layer))
    return x


def _of_own_embedding(op: Ledger, x: Tensor, c: Config, by_layer: int) -> Tensor:
    """A small embedding of each token for each layer, `by_layer` features of all together, gates
    the residual stream (Gemma 3n and 4)."""
    gate = activate(op, linear(op, x, "per_layer_input_gate"), _activation(c))
    own = op.shared("per_layer_inputs", TOKENS * by_layer, op.rules.rest_dtype)
    gated = op.multiply(gate, Tensor(gate.elements, own.dtype, True, own.storage))
    out = linear(op, gated, "per_layer_projection")
    return _normed(op, out, "post_per_layer_input_norm")


def _activation(c: Config) -> str:
    found = c.get("hidden_act") or c.get("activation_function") or c.get("hidden_activation")
    return str(found or "silu")


# --- mixers of tokens -----------------------------------------------------------------------------


def _named(modules: Iterable[str], block: str, endings: Iterable[str]) -> str | None:
    """The linear layer in `block` with one of these names."""
    return next(
        (
            name
            for name in modules
            if name.startswith(f"{block}.") and name.endswith(tuple(f".{e}" for e in endings))
        ),
        None,
    )


def _attends(modules: Mapping[str, Module], block: str) -> bool:
    own = [name for name in modules if name.startswith(f"{block}.")]
    has_queries = _named(own, block, (*_QUERY, *_FUSED)) is not None
    return has_queries and not any("conv" in name for name in own)


def _linears(op: Ledger, block: str) -> list[tuple[str, Module]]:
    return [
        (name, module)
        for name, module in op.modules.items()
        if module.is_linear and (name.rpartition(".")[0] == block)
    ]


def _out(op: Ledger, name: str) -> int:
    return op.modules[name].out_features or 0


def _mixed(
    op: Ledger, x: Tensor, c: Config, index: int, block: str, hidden: int, knows_places: bool
) -> Tensor:
    made = [name for name, module in _linears(op, block) if module.out_features == hidden]
    query, fused = _named(op.modules, block, _QUERY), _named(op.modules, block, _FUSED)
    if not made or not _attends(op.modules, block):
        return _by_states(op, x, c, block, hidden)
    out_name = next(
        (n for n in made if n.endswith(("o_proj", "out_proj", "dense", "c_proj", "out_lin", "wo"))),
        made[-1],
    )
    given = op.modules[out_name].in_features or hidden
    masked = index in op.rules.masked_layers
    count = c["num_attention_heads"]
    dim = given // count if given % count == 0 else heads_of(c).dim
    if query is not None:
        q, k, v, gate, heads = _queries(op, x, block, query, given, count, dim)
    else:
        assert fused is not None
        q, k, v, heads = _split(op, linear(op, x, fused), c, given, count, dim)
        gate = None
    op.scope = block
    q, k = _normed_heads(op, q, k, block, heads)
    if _rotates(c):
        turned = min(_rotated(c, dim), dim)
        q, k = (rotary(op, t, dim, turned) for t in (q, k))
    else:
        q, k = op.turn(q), op.turn(k)
    dropout = c.get("attention_dropout") or 0.0
    op.scope = block
    if block in op.modules or not knows_places:  # scores get sinks, or a bias by distance
        out = eager(op, q, k, op.turn(v), heads, dropout, upcast=True, softcap=False)
    else:
        out = attention(op, q, k, op.turn(v), heads, block, dropout=dropout, masked=masked)
    if gate is not None:
        out = op.multiply(out, op.activation(gate, "sigmoid", keeps_output=True))
    (out,) = projections(op, out, out_name)
    op.keep(x, q, k, v)
    return out


def _queries(
    op: Ledger, x: Tensor, block: str, query: str, given: int, count: int, dim: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Heads]:
    """Queries, keys, values, what gates the output, and the heads."""
    key, value = _named(op.modules, block, _KEY), _named(op.modules, block, _VALUE)
    gate = None
    if (query, key, value) == QKV and _out(op, query) == given:
        q, k, v = projections(op, x, *QKV)
    else:
        before = _named(op.modules, block, ("q_a_proj",))
        q = linear(op, _narrowed(op, x, before) if before else x, query)
        if _out(op, query) == 2 * given:
            q, gate = op.split(q, [q.elements // 2] * 2)
        if latent := _named(op.modules, block, _LATENT):
            narrow = _named(op.modules, block, ("kv_a_proj_with_mqa",))
            both = linear(op, _narrowed(op, x, narrow, of=latent) if narrow else x, latent)
            v = op.split(both, [TOKENS * given, both.elements - TOKENS * given])[0]
            k = op.concatenate(both, elements=q.elements)
            return (
                op.view(q, count),
                op.view(k, count),
                op.view(v, count),
                gate,
                Heads(count, count, dim),
            )
        if key is None:  # keys and values of an earlier layer
            few = max(1, count // 8)
            k, v = (
                op.shared(f"{n}.{dim}", TOKENS * (few * dim), q.dtype) for n in ("keys", "values")
            )
            k, v = (Tensor(t.elements, t.dtype, q.requires_grad, t.storage) for t in (k, v))
        else:
            k = linear(op, x, key)
            v = linear(op, x, value) if value else op.view(k)
    few = max(1, k.elements.evaluate(1, 1, 1) // dim)
    return op.view(q, count), op.view(k, few), op.view(v, few), gate, Heads(count, few, dim)


def _narrowed(op: Ledger, x: Tensor, name: str, of: str | None = None) -> Tensor:
    """The narrow vector that queries, or keys and values, are made of, and its norm."""
    out = linear(op, x, name)
    if of is not None and (width := op.modules[of].in_features) and width < _out(op, name):
        out = op.slices(out, (TOKENS * width, out.elements - TOKENS * width))[0]
    norm = name.replace("_proj_with_mqa", "_layernorm").replace("_proj", "_layernorm")
    return _normed(op, out, norm) if norm in op.modules else out


def _split(
    op: Ledger, fused: Tensor, c: Config, given: int, count: int, dim: int
) -> tuple[Tensor, Tensor, Tensor, Heads]:
    rest = fused.elements - TOKENS * given
    few = max(1, rest.evaluate(1, 1, 1) // (2 * dim))
    q, k, v = op.split(fused, [TOKENS * given, rest // 2, rest // 2])
    return op.view(q, count), op.view(k, few), op.view(v, few), Heads(count, few, dim)


def _normed_heads(
    op: Ledger, q: Tensor, k: Tensor, block: str, heads: Heads
) -> tuple[Tensor, Tensor]:
    made = []
    for tensor, letter, number in ((q, "q", heads.query), (k, "k", heads.key_value)):
        names = [f"{block}.{letter}_{norm}" for norm in ("norm", "layernorm")]
        name = next((n for n in names if n in op.modules), None)
        if name is not None and tensor.storage.role != "shared":
            is_of_head = _width(op.modules[name]) == heads.dim
            tensor = _normed(op, tensor, name, TOKENS * (number if is_of_head else 1))
        made.append(tensor)
    return made[0], made[1]


def _by_states(op: Ledger, x: Tensor, c: Config, block: str, hidden: int) -> Tensor:
    """A mixer of states or convolutions: everything made of its input goes through a convolution
    where it has one, the states' output is gated by a part of it. The states themselves are kept
    in chunks, whose bytes are taken to be those of their inputs in float32."""
    linears = _linears(op, block)
    ahead = [name for name, module in linears if module.in_features == hidden]
    back = next(
        (
            name
            for name, module in linears
            if module.out_features == hidden and module.in_features != hidden
        ),
        None,
    )
    back = back or (linears[-1][0] if linears else None)
    made = [linear(op, x, name) for name in ahead if name != back]
    if back is None or not made:
        return x
    width = op.modules[back].in_features or hidden
    whole = max(made, key=lambda t: t.elements.evaluate(1, 1, 1))
    op.scope = block
    mixed = op.fresh(whole.elements, whole.dtype, whole.requires_grad)
    op.record("mul", (whole, whole), (mixed,), (whole,))
    acted = activate(op, mixed, "silu")
    wide = op.cast(acted, "float32")
    out = op.fresh(TOKENS * width, "float32", whole.requires_grad)
    op.record("mul", (wide, wide), (out,), (wide,))
    gate = activate(op, op.fresh(TOKENS * width, x.dtype, whole.requires_grad), "silu")
    gated = op.multiply(op.cast(out, x.dtype), gate)
    op.keep(x)
    return linear(op, gated, back)


# --- MLPs -----------------------------------------------------------------------------------------


def _mlp(op: Ledger, x: Tensor, c: Config, block: str, hidden: int) -> Tensor:
    """Of `block`: experts, those that every token takes, or a dense one."""
    of = f"{block}." if block else ""
    experts = next(
        (n for n, m in op.modules.items() if n.startswith(of) and _holds_experts(m)), None
    )
    shared = [n for n in _blocks_in(op, of) if "shared" in n]
    if experts is None:
        return _dense(op, x, c, block, hidden)
    out = _experts(op, x, c, experts, of, hidden)
    for name in shared:
        out = op.add(out, _dense(op, x, c, name, hidden))
    return out


def _blocks_in(op: Ledger, of: str) -> list[str]:
    """Modules in a block that hold linear layers themselves."""
    names = (
        n.rpartition(".")[0] for n, m in op.modules.items() if m.is_linear and n.startswith(of)
    )
    return [name for name in dict.fromkeys(names) if name != of.rstrip(".")]


def _holds_experts(module: Module) -> bool:
    return (
        any(len(weight.shape) == 3 for weight in module.weights)
        and "conv" not in module.kind.lower()
    )


def _experts(op: Ledger, x: Tensor, c: Config, experts: str, of: str, hidden: int) -> Tensor:
    shapes = [weight.shape for weight in op.modules[experts].weights if len(weight.shape) == 3]
    number = shapes[0][0]
    chosen = TOKENS * int(c.get("num_experts_per_tok") or c.get("top_k_experts") or 1)
    router = next(
        (
            n
            for n, m in op.modules.items()
            if n.startswith(of)
            and len(m.weights[0].shape) == 2
            and _rows(m) == number
            and n != experts
        ),
        None,
    )
    if router is None:
        weights, indices = (
            op.fresh(chosen, x.dtype, x.requires_grad),
            op.fresh(chosen, "int64", False),
        )
    else:
        weights, indices = moe.route(
            op, x, number, chosen, renormalises=True, narrows=True, router=router
        )
    return moe.run_experts(op, x, weights, indices, c, chosen, number, block=experts)


def _dense(op: Ledger, x: Tensor, c: Config, block: str, hidden: int) -> Tensor:
    names = [name for name, _ in _linears(op, block)]
    of = f"{block}." if block else ""
    if {f"{of}{part}_proj" for part in ("gate", "up", "down")} <= set(names) and c.get(
        "hidden_act"
    ):
        return gated_mlp(op, x, c, block)
    back = next(
        (
            n
            for n in names
            if op.modules[n].out_features == hidden and op.modules[n].in_features != hidden
        ),
        None,
    )
    ahead = [
        n for n in names if n != back and op.modules[n].in_features == hidden and _out(op, n) > 1
    ]
    if back is None or not ahead:
        for name in names:
            x = linear(op, x, name)
        return x
    width = op.modules[back].in_features
    first = linear(op, x, ahead[0])
    op.scope = block
    if len(ahead) > 1:
        acted = activate(op, first, _activation(c))
        second = linear(op, x, ahead[1])
        op.scope = block
        inner = op.multiply(acted, second)
    elif _out(op, ahead[0]) == 2 * (width or 0):
        gate, up = op.split(first, [first.elements // 2] * 2)
        inner = op.multiply(activate(op, gate, _activation(c)), up)
    else:
        inner = activate(op, first, _activation(c))
    out = linear(op, inner, back)
    op.keep(x)
    return out


__all__ = ["family_by_modules"]
