"""A program for a type of model that has none of its own, read off the names and shapes of its
modules: what transformers' decoders have in common. What it keeps is an estimate.

A layer is mixers of tokens (attention, else convolutions and states), then MLPs (dense, gated, or
of experts), each between the norms that the layer has, in the order in which they are registered.
`benchmarks/results/estimates.md` holds it against laws and programs of types that have them.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
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
    flex_with_sinks,
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

# --- how far off ----------------------------------------------------------------------------------

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


@cache
def worse_types() -> Mapping[str, Mapping[str, float]]:
    """Types of which some estimate was farther off than `ERRORS`: the worst, rounded up, as "plain"
    and "checkpointed". Written by `python -m benchmarks.truth.estimates`."""
    text = Path(__file__).with_name("estimate_errors.json").read_text("utf-8")
    worse: Mapping[str, Mapping[str, float]] = json.loads(text)
    return worse


def error_of(workload: Workload) -> float:
    """Of the peak of a workload whose layers are read off their modules."""
    of_type = worse_types().get(workload.model.model_type, {})
    kind = "checkpointed" if workload.setup.checkpointing else "plain"
    return max(ERRORS[group_of(workload)], of_type.get(kind, 0.0))


def group_of(workload: Workload) -> Group:
    """What decides how far off an estimate may be."""
    model, base = workload.model, workload.setup.quantization
    if has_states(model):
        return "states, checkpointed" if workload.setup.checkpointing else "states"
    stack = _text_stack(model)
    if stack is None or not any(map(_holds_experts, chain.from_iterable(stack.kinds))):
        return "attention"
    return "packed experts" if base is not None and base.quantize_experts else "experts"


def has_states(model: ModelSpec) -> bool:
    """Whether tokens are mixed by anything else than attention in some layer."""
    stack = _text_stack(model)
    assert stack is not None
    layers = [{module.name: module for module in kind} for kind in stack.kinds]
    hidden = model.config["hidden_size"]
    return not all(
        _attends(layer, mixer) for layer in layers for mixer in _parts(layer, hidden).mixers
    )


def states_words(model: ModelSpec) -> str:
    """What an answer says of states; empty for a model without."""
    if not has_states(model):
        return ""
    return (
        " Of states their inputs are counted. Without mamba-ssm or flash-linear-attention"
        " transformers' own code for them keeps more."
    )


# --- the model ------------------------------------------------------------------------------------

_DECODERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_OTHER_SIDES = ("vision", "visual", "audio", "image", "resampler")


class _Ends(NamedTuple):
    """What is outside the layers: `words` is the embedding, `positions` a learned one, `by_layer`
    one that has a part for each layer; `norm` is the name of the last norm, empty where it has no
    weights."""

    words: Module
    positions: Module | None
    by_layer: Module | None
    norm: str
    head: Module


def family_by_modules(model: ModelSpec) -> Family | None:
    """None for a model without a head, with an encoder or with linear layers of its own class, and
    where no stack of layers is found."""
    return None if model.is_embedding or type_of(model).own_linears else _family(model)


@lru_cache(maxsize=64)
def _family(model: ModelSpec) -> Family | None:
    stack, ends = _text_stack(model), _ends(model)
    is_decoder = model.architecture.endswith(_DECODERS) and "num_attention_heads" in model.config
    if stack is None or ends is None or not is_decoder:
        return None

    def embed(op: Ledger, ids: Tensor, c: Config) -> Tensor:
        x = op.inputs(embedding(op, ends.words.name, ids, _width(ends.words)))
        if ends.by_layer is not None:
            embedding(op, ends.by_layer.name, ids, _width(ends.by_layer))
        if ends.positions is None:
            return x
        places = embedding(op, ends.positions.name, op.positions(), _width(ends.positions))
        return op.add(x, places)

    def head(op: Ledger, x: Tensor, c: Config) -> Tensor:
        logits = linear(op, x, ends.head.name)
        if not c.get("final_logit_softcapping"):
            return logits
        return op.scale(op.activation(op.scale(logits), "tanh", keeps_output=True))

    return Family(
        stack=stack.name,
        embed=embed,
        layer=lambda op, x, c, index: _Layer(op, c, index, ends).run(x),
        norm=lambda op, x, c: _normed(op, x, ends.norm),
        head=head,
        window=window_by_layer_type,
        rotary_sets=lambda c: (("rotary", _rotated(c, heads_of(c).dim)),) if _rotates(c) else (),
        has_sinks=any(
            _has_sinks(names, block)
            for names in ({m.name for m in kind} for kind in stack.kinds)
            for block in {name.partition(".")[0] for name in names}
        ),
    )


def _text_stack(model: ModelSpec) -> LayerStack | None:
    """None too for an encoder and a decoder."""
    stacks = [part for part in model.parts if isinstance(part, LayerStack) and _is_text(part.name)]
    if any("encoder" in stack.name for stack in stacks):
        return None
    stacks = [stack for stack in stacks if len(stack.order) == model.num_layers]
    return stacks[0] if len(stacks) == 1 else None


def _ends(model: ModelSpec) -> _Ends | None:
    """None where the head or an embedding of the layers' width is missing."""
    outside = [part for part in model.parts if isinstance(part, Module) and _is_text(part.name)]
    head = next((m for m in outside if m.name == model.output_embedding and m.is_linear), None)
    if head is None:
        return None
    tables = [m for m in outside if m.kind == "Embedding"]
    whole = [m for m in tables if _rows(m) >= _rows(head)]
    hidden = model.config.get("hidden_size")
    if not whole or _width(whole[0]) != hidden:
        return None
    norms = [m.name for m in outside if _is_norm(m) and m.weights[0].shape == (hidden,)]
    return _Ends(
        words=whole[0],
        positions=next((m for m in tables if m not in whole and _width(m) == hidden), None),
        by_layer=whole[1] if len(whole) > 1 else None,
        norm=norms[-1] if norms else "",
        head=head,
    )


def _is_text(name: str) -> bool:
    return not any(word in name for word in _OTHER_SIDES)


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
    return min(dim, int(c.get("rotary_dim") or dim * (c.get("partial_rotary_factor") or 1.0)))


def _normed(op: Ledger, x: Tensor, name: str, rows: Polynomial = TOKENS) -> Tensor:
    """By the norm of this name; one without weights is torch's layer norm, as OLMo's is."""
    module = op.modules.get(name)
    if module is None:
        return op.cast(op.layer_norm(op.cast(x, "float32"), name, rows), x.dtype)
    if module.kind == "LayerNorm":
        return op.layer_norm(x, name, rows)
    return rms_norm(op, x, name, rows, style="gemma" if "Gemma" in module.kind else "llama")


# --- the modules of a layer -----------------------------------------------------------------------

_QUERY = ("q_proj", "q_b_proj", "q_lin", "query", "wq")
_KEY = ("k_proj", "k_lin", "key", "wk")
_VALUE = ("v_proj", "v_lin", "value", "wv")
_FUSED = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "qkv", "in_proj_qkv")
_OUT = ("o_proj", "out_proj", "dense", "c_proj", "out_lin", "wo")
_LATENT = "kv_b_proj"
"""Keys and values of all heads, made of a narrow vector a token (DeepSeek)."""
_MIXERS = ("attn", "attention", "mamba", "conv", "mixer", "temporal")


class _Parts(NamedTuple):
    """Names of what a layer has: `mixers` and `mlps` hold linear layers, an MLP of no name those of
    the layer itself."""

    mixers: tuple[str, ...]
    mlps: tuple[str, ...]
    norms: tuple[str, ...]


def _parts(modules: Mapping[str, Module], hidden: int) -> _Parts:
    blocks: dict[str, list[str]] = {}
    norms = [name for name, module in modules.items() if "." not in name and _is_norm(module)]
    for name, module in modules.items():
        block, dot, rest = name.partition(".")
        if dot:
            blocks.setdefault(block, []).append(rest)
        elif module.is_linear and not name.startswith("per_layer"):
            blocks.setdefault("", []).append(name)
    mixers = [block for block, names in blocks.items() if block and _mixes(block, names)]
    norms += [
        name
        for name, module in modules.items()
        if _is_norm(module)
        and "." in name
        and module.weights[0].shape == (hidden,)
        and name.partition(".")[0] not in mixers
    ]
    mlps = [block for block in blocks if block not in mixers]
    return _Parts(tuple(mixers), tuple(mlps), tuple(norms))


def _mixes(block: str, names: Sequence[str]) -> bool:
    return any(word in block for word in _MIXERS) or any(n.endswith("q_proj") for n in names)


def _attends(modules: Iterable[str], block: str) -> bool:
    own = [name for name in modules if name.startswith(f"{block}.")]
    has_queries = _named(own, block, *_QUERY, *_FUSED) is not None
    return has_queries and not any("conv" in name for name in own)


def _has_sinks(modules: Collection[str], block: str) -> bool:
    """Whether attention has weights beside those of its projections, which go into the scores."""
    return block in modules and _attends(modules, block)


def _named(modules: Iterable[str], block: str, *endings: str) -> str | None:
    """The first module in `block` with one of these names."""
    ends = tuple(f".{ending}" for ending in endings)
    return _first(modules, lambda name: name.startswith(f"{block}.") and name.endswith(ends))


def _first(names: Iterable[str], is_it: Callable[[str], bool]) -> str | None:
    return next(filter(is_it, names), None)


def _holds_experts(module: Module) -> bool:
    is_cube = any(len(weight.shape) == 3 for weight in module.weights)
    return is_cube and "conv" not in module.kind.lower()


# --- a layer on the ledger ------------------------------------------------------------------------


class _Projected(NamedTuple):
    """What attention is made of; `gate` is multiplied with its output."""

    q: Tensor
    k: Tensor
    v: Tensor
    heads: Heads
    gate: Tensor | None = None


class _Layer:
    """Layer `index` of a model between `ends`."""

    def __init__(self, op: Ledger, config: Config, index: int, ends: _Ends) -> None:
        self.op, self.config, self.index, self.ends = op, config, index, ends
        self.modules, self.hidden = op.modules, int(config["hidden_size"])
        acted = (config.get(key) for key in ("hidden_act", "activation_function"))
        self.activation = next(filter(None, acted), None) or "silu"

    def run(self, x: Tensor) -> Tensor:
        op, parts = self.op, _parts(self.modules, self.hidden)
        steps = [
            (step, blocks)
            for step, blocks in ((self.mixed, parts.mixers), (self.mlp, parts.mlps))
            if blocks
        ]
        has_both = len(parts.norms) >= 2 * len(steps)  # before and behind each step
        before = parts.norms[:: 2 if has_both else 1] or ("",) * len(steps)
        is_parallel = 0 < len(parts.norms) < len(steps)
        normed = x
        for number, (step, blocks) in enumerate(steps):
            if number == 0 or not is_parallel:
                normed = _normed(op, x, before[min(number, len(before) - 1)])
            for block in blocks:
                update = step(normed, block)
                if has_both:
                    update = _normed(op, update, parts.norms[2 * number + 1])
                op.keep(normed)
                x = residual(op, x, update)
        if self.ends.by_layer is not None and "per_layer_input_gate" in self.modules:
            x = residual(op, x, self.of_own_embedding(x, self.ends.by_layer))
        return x

    def of_own_embedding(self, x: Tensor, by_layer: Module) -> Tensor:
        """A small embedding of each token for each layer gates the residual stream (Gemma 4)."""
        op = self.op
        gate = activate(op, linear(op, x, "per_layer_input_gate"), self.activation)
        own = op.shared("per_layer_inputs", TOKENS * _width(by_layer), op.rules.rest_dtype)
        gated = op.multiply(gate, Tensor(gate.elements, own.dtype, True, own.storage))
        out = linear(op, gated, "per_layer_projection")
        return _normed(op, out, "post_per_layer_input_norm")

    def linears(self, block: str) -> list[str]:
        """Those that `block` itself holds."""
        return [
            name
            for name, module in self.modules.items()
            if module.is_linear and name.rpartition(".")[0] == block
        ]

    def reads(self, name: str) -> int:
        return self.modules[name].in_features or 0

    def makes(self, name: str) -> int:
        return self.modules[name].out_features or 0

    def back(self, names: Iterable[str]) -> str | None:
        """The linear layer that leads from another width back to the layer's."""
        return _first(names, lambda n: self.makes(n) == self.hidden != self.reads(n))

    # --- mixers of tokens -------------------------------------------------------------------------

    def mixed(self, x: Tensor, block: str) -> Tensor:
        made = [name for name in self.linears(block) if self.makes(name) == self.hidden]
        if not made or not _attends(self.modules, block):
            return self.by_states(x, block)
        out = _named(made, block, *_OUT) or made[-1]
        op, c = self.op, self.config
        q, k, v, heads, gate = self.projected(x, block, self.reads(out) or self.hidden)
        op.scope = block
        q, k = (self.head_norm(t, block, letter, heads) for t, letter in ((q, "q"), (k, "k")))
        q, k = self.turned(q, k, heads.dim)
        op.scope = block
        dropout = c.get("attention_dropout") or 0.0
        has_places = _rotates(c) or self.ends.positions is not None
        has_sinks = _has_sinks(self.modules, block)
        if has_sinks and op.rules.flexes_sinks:
            mixed = flex_with_sinks(op, q, k, op.turn(v), heads)
        elif has_sinks or not has_places:  # sinks or distances are added to the scores
            mixed = eager(op, q, k, op.turn(v), heads, dropout, upcast=True, softcap=False)
        else:
            masked = self.index in op.rules.masked_layers
            mixed = attention(op, q, k, op.turn(v), heads, block, dropout=dropout, masked=masked)
        if gate is not None:
            mixed = op.multiply(mixed, op.activation(gate, "sigmoid", keeps_output=True))
        (update,) = projections(op, mixed, out)
        op.keep(x, q, k, v)
        return update

    def turned(self, q: Tensor, k: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        op, width = self.op, _rotated(self.config, dim)
        if not _rotates(self.config):
            return op.turn(q), op.turn(k)
        is_gemma = any("Gemma" in module.kind for module in self.modules.values())
        if width == dim and not is_gemma and (own := op.rules.replaced("rotary")):
            turned: tuple[Tensor, Tensor] = own(op, q, k, dim)
            return turned
        return rotary(op, q, dim, width), rotary(op, k, dim, width)

    def projected(self, x: Tensor, block: str, width: int) -> _Projected:
        """Of attention whose output is `width` wide."""
        op, count = self.op, int(self.config["num_attention_heads"])
        dim = heads_of(self.config).dim if width % count else width // count
        query = _named(self.modules, block, *_QUERY)
        gate = None
        if query is None:
            fused = linear(op, x, _named(self.modules, block, *_FUSED) or "")
            rest = fused.elements - TOKENS * width
            q, k, v = op.split(fused, [TOKENS * width, rest // 2, rest // 2])
        elif self.is_plain(block, query, width):
            q, k, v = projections(op, x, *QKV)
        else:
            narrow = _named(self.modules, block, "q_a_proj")
            q = linear(op, self.narrowed(x, narrow) if narrow else x, query)
            if self.makes(query) == 2 * width:
                q, gate = op.split(q, [q.elements // 2] * 2)
            k, v = self.keys_and_values(x, block, q, width, dim)
        few = max(1, k.elements.evaluate(1, 1, 1) // dim)
        if _named(self.modules, block, _LATENT):
            few = count  # of keys, whose heads are wider than those of values
        heads = Heads(count, few, dim)
        return _Projected(op.view(q, count), op.view(k, few), op.view(v, few), heads, gate)

    def is_plain(self, block: str, query: str, width: int) -> bool:
        names = (query, *(_named(self.modules, block, *of) for of in (_KEY, _VALUE)))
        return names == QKV and self.makes(query) == width

    def keys_and_values(
        self, x: Tensor, block: str, q: Tensor, width: int, dim: int
    ) -> tuple[Tensor, Tensor]:
        op = self.op
        key, value = (_named(self.modules, block, *of) for of in (_KEY, _VALUE))
        if latent := _named(self.modules, block, _LATENT):
            narrow = _named(self.modules, block, "kv_a_proj_with_mqa")
            of = self.narrowed(x, narrow, self.reads(latent)) if narrow else x
            both = linear(op, of, latent)
            v, _ = op.split(both, [TOKENS * width, both.elements - TOKENS * width])
            return op.concatenate(both, elements=q.elements), v
        if key is not None:
            k = linear(op, x, key)
            return k, linear(op, x, value) if value else op.view(k)
        # those of an earlier layer
        size = TOKENS * (max(1, int(self.config["num_attention_heads"]) // 8) * dim)
        shared = (op.shared(f"{name}.{dim}", size, q.dtype) for name in ("keys", "values"))
        k, v = (Tensor(t.elements, t.dtype, q.requires_grad, t.storage) for t in shared)
        return k, v

    def narrowed(self, x: Tensor, name: str, width: int | None = None) -> Tensor:
        """The narrow vector that queries, or keys and values, are made of, and its norm; of its
        features the first `width`."""
        op, out = self.op, linear(self.op, x, name)
        if width is not None and width < self.makes(name):
            out, _ = op.slices(out, (TOKENS * width, out.elements - TOKENS * width))
        norm = name.replace("_proj_with_mqa", "_layernorm").replace("_proj", "_layernorm")
        return _normed(op, out, norm) if norm in self.modules else out

    def head_norm(self, x: Tensor, block: str, letter: str, heads: Heads) -> Tensor:
        """Of queries or keys, a head or all together."""
        names = (f"{block}.{letter}_{norm}" for norm in ("norm", "layernorm"))
        name = _first(names, self.modules.__contains__)
        if name is None or x.storage.role == "shared":
            return x
        number = heads.query if letter == "q" else heads.key_value
        is_of_head = _width(self.modules[name]) == heads.dim
        return _normed(self.op, x, name, TOKENS * (number if is_of_head else 1))

    def by_states(self, x: Tensor, block: str) -> Tensor:
        """States or convolutions: what is made of the input goes through a convolution, and the
        states' output is gated by a part of it. The kernels of states keep their inputs, in
        float32."""
        op, names = self.op, self.linears(block)
        back = self.back(names) or (names[-1] if names else None)
        ahead = [n for n in names if n != back and self.reads(n) == self.hidden]
        if back is None or not ahead:
            return x
        width = self.reads(back) or self.hidden
        made = [linear(op, x, name) for name in ahead]
        whole = max(made, key=lambda t: t.elements.evaluate(1, 1, 1))
        op.scope = block
        convolved = self.kept(whole, whole.elements, whole.dtype)
        given = op.cast(activate(op, convolved, "silu"), "float32")
        out = op.cast(self.kept(given, TOKENS * width, "float32"), x.dtype)
        gate = op.fresh(TOKENS * width, x.dtype, whole.requires_grad)
        gated = op.multiply(out, activate(op, gate, "silu"))
        op.keep(x)
        return linear(op, gated, back)

    def kept(self, x: Tensor, elements: Polynomial, dtype: str) -> Tensor:
        """Of a kernel that keeps its input."""
        out = self.op.fresh(elements, dtype, x.requires_grad)
        self.op.record("mul", (x, x), (out,), (x,))
        return out

    # --- MLPs -------------------------------------------------------------------------------------

    def mlp(self, x: Tensor, block: str) -> Tensor:
        """Of `block`: experts and those that every token takes, or a dense one."""
        within = f"{block}." if block else ""
        own = [name for name in self.modules if name.startswith(within)]
        experts = _first(own, lambda name: _holds_experts(self.modules[name]))
        if experts is None:
            return self.dense(x, block)
        out = self.experts(x, experts, own)
        inside = dict.fromkeys(n.rpartition(".")[0] for n in own if self.modules[n].is_linear)
        for name in inside:
            if "shared" in name.removeprefix(within):
                out = self.op.add(out, self.dense(x, name))
        return out

    def experts(self, x: Tensor, name: str, block: Iterable[str]) -> Tensor:
        op, c = self.op, self.config
        number = next(w.shape[0] for w in self.modules[name].weights if len(w.shape) == 3)
        chosen = TOKENS * int(c.get("num_experts_per_tok") or c.get("top_k_experts") or 1)

        def routes(other: str) -> bool:
            shape = self.modules[other].weights[0].shape
            return other != name and len(shape) == 2 and shape[0] == number

        router = _first(block, routes)
        if router is None:
            weights = op.fresh(chosen, x.dtype, x.requires_grad)
            indices = op.fresh(chosen, "int64", False)
        else:
            weights, indices = moe.route(
                op, x, number, chosen, renormalises=True, narrows=True, router=router
            )
        return moe.run_experts(op, x, weights, indices, c, chosen, number, block=name)

    def dense(self, x: Tensor, block: str) -> Tensor:
        op, names = self.op, self.linears(block)
        gated = {f"{block}.{part}_proj" for part in ("gate", "up", "down")}
        if gated <= set(names) and self.config.get("hidden_act"):
            return gated_mlp(op, x, self.config, block)
        back = self.back(names)
        ahead = [
            n for n in names if n != back and self.reads(n) == self.hidden and self.makes(n) > 1
        ]
        if back is None or not ahead:
            for name in names:
                x = linear(op, x, name)
            return x
        first = linear(op, x, ahead[0])
        op.scope = block
        if self.makes(ahead[0]) == 2 * self.reads(back):
            gate, up = op.split(first, [first.elements // 2] * 2)
            inner = op.multiply(activate(op, gate, self.activation), up)
        else:
            inner = activate(op, first, self.activation)
        if len(ahead) > 1:
            second = linear(op, x, ahead[1])
            op.scope = block
            inner = op.multiply(inner, second)
        out = linear(op, inner, back)
        op.keep(x)
        return out
