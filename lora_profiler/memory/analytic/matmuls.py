"""Matrix products on the ledger: linear layers with their LoRA adapters, those of
quantisation-aware training, and batches of products of activations."""

from collections.abc import Sequence
from typing import Any

from lora_profiler._common.polynomial import TOKENS, ZERO, Polynomial, R, constant, total
from lora_profiler.memory.analytic.cut_layers import gathered, replicated, summed
from lora_profiler.memory.analytic.ledger import ITEMSIZE, Ledger, Node, Storage, Tensor
from lora_profiler.question.adapters import Adapter
from lora_profiler.question.base import Base
from lora_profiler.question.feature import part
from lora_profiler.question.lora_kernel_set import lora_kernel_set
from lora_profiler.question.support.bases import RULED

# --- matrix products ------------------------------------------------------------------------------

_SCALES = "scales"
_EXTREMES = (*("amin", "amax"), *("zeros_like", "minimum", "zeros_like", "maximum"))
_SYMMETRIC = ("neg", "maximum", "div", "full_like", "clamp_scale")
_ASYMMETRIC = ("sub", "div", "clamp_scale", "div", "round", "rsub", "clamp_scale")


def is_fake_quantized(op: Ledger, module: str) -> bool:
    rules = op.rules
    if rules.qat not in RULED or op.modules[module].kind != "Linear":
        return False
    if rules.qat_adapted_alone:
        return module in op.adapters
    return module != rules.head or rules.qat_rounds_head


def fake_quantized(op: Ledger, x: Tensor, weight: Tensor, inputs: int) -> tuple[Tensor, Tensor]:
    """The input and the weight of a linear layer, both as its product takes them."""
    given = _rounded(op, x, x.elements // inputs, _ASYMMETRIC)
    own = _rounded(op, weight, weight.elements // op.rules.qat_group_size, _SYMMETRIC)
    return given, op.lowered(own)


def _rounded(op: Ledger, x: Tensor, scales: Polynomial, steps: tuple[str, ...]) -> Tensor:
    """x as so many scales can say it: x / scale, rounded, with the zero point and within bounds;
    then the same back. 8da4w has its scales in float32, and so what is made of them."""
    made = "float32" if op.rules.qat == "8da4w" else x.dtype
    size = scales * (ITEMSIZE[made] + ITEMSIZE["int32"])
    scale = Tensor(scales, made, False, Storage(size, "parameter", _SCALES))
    for name in (*_EXTREMES, *steps, *("_to_copy",) * (1 + (made != x.dtype))):
        source = x if name in ("amin", "amax") else scale
        op.record(name, (source,), (Tensor(scales, x.dtype, False, scale.storage),))
    widens = op.rules.autocast and op.rules.device != "cpu"  # CUDA's autocast inverts in float32
    divided_in = "float32" if widens else made
    inverse = op.fresh(scales, divided_in, False)
    op.record("reciprocal", (scale,), (inverse,))
    op.record("scale", (inverse,), (inverse,))
    divided = _times(op, x, inverse, divided_in)
    rounded = _passing(op, "round", divided)
    shifted = _passing(op, "shift", rounded)
    within = op.fresh(x.elements, divided_in, x.requires_grad)
    op.record("clamp", (shifted,), (within,), (shifted,), workspace=x.elements * 2)
    copied = op.fresh(x.elements, x.dtype, x.requires_grad)
    op.record("_to_copy", (within,), (copied,), aliases=divided_in == x.dtype)
    op.record("_to_copy", (scale,), (scale,))
    out = op.cast(_times(op, _passing(op, "shift", copied), scale, made), x.dtype)
    op.keep(within)
    return out


def _times(op: Ledger, x: Tensor, scale: Tensor, dtype: str) -> Tensor:
    """x times its scales, which get no gradient."""
    out = op.fresh(x.elements, dtype, x.requires_grad)
    trains = x.requires_grad and x.storage.role == "parameter"
    op.record(
        "mul",
        (x, scale),
        (out,),
        (scale,),
        gradients=x.bytes if trains else ZERO,
        workspace=out.bytes if dtype != x.dtype else ZERO,
    )
    return out


def _passing(op: Ledger, name: str, x: Tensor) -> Tensor:
    """A tensor of its own whose gradient is x's."""
    out = op.fresh(x.elements, x.dtype, x.requires_grad)
    op.record(name, (x,), (out,), aliases=True)
    return out


def scale_bytes(nodes: Sequence[Node]) -> Polynomial:
    """Bytes of the scales and zero points that layers have names for: of each weight's groups, and
    of each token of the layer's input."""
    named = {t.storage for node in nodes for t in node.outputs if t.storage.name == _SCALES}
    return total(storage.bytes for storage in named)


def linear(op: Ledger, x: Tensor, name: str) -> Tensor:
    """The named linear layer with its LoRA adapter, if it has one, as PEFT's
    `lora.Linear.forward` runs it."""
    op.scope = name
    module = op.modules[name]
    assert module.in_features is not None and module.out_features is not None
    adapters = op.adapters.get(name, ())
    if adapters and op.rules.fast_lora:
        return _fused(op, x, module.out_features, adapters)
    given, weight = x, op.weight(name)
    if is_fake_quantized(op, name):
        given, weight = fake_quantized(op, x, weight, module.in_features)
    y = product(op, replicated(op, given), weight, module.in_features, module.out_features)
    y = summed(op, y)
    op.keep(x)
    for adapter in adapters:
        y = (
            _weighed(op, x, y, weight, adapter)
            if op.rules.torchtune_dora
            else _low_rank(op, x, y, adapter)
        )
    return gathered(op, y)


def product(op: Ledger, x: Tensor, weight: Tensor, in_features: int, out_features: int) -> Tensor:
    """x W^T (+ bias): keeps x if W trains; W itself, where it is a parameter, is no activation.

    A packed product keeps nothing by autograd's means (bitsandbytes `MatMul4Bit`, and what
    `support/bases.py` names beside it). Its weight is unpacked for each of its gradients: 2 or 4
    bytes an element for the time of the product, and 2 more where it comes by another dtype. Where
    the base hands the weight to torch's own product, autograd keeps it as an activation.
    """
    made = x.elements * out_features // in_features
    module = op.modules.get(op.scope)
    base = op.base(op.scope) if module is not None else None
    if base is not None and base.keeps == "weight":
        weight, base = _brought_back(op, x, weight, base), None
    packed = base is not None
    behind: tuple[Node, ...] = ()
    if base is not None and base.in_torch:
        weight, behind = _in_torch(op, weight), _behind(op, x, weight)
    gradients = ZERO
    if weight.requires_grad and module is not None:
        biases = (w for w in module.weights if w.name != "weight")
        gradients = constant(sum(w.numel for w in biases) * ITEMSIZE[weight.dtype])
    given = weight
    if packed:
        dtype, unpacked = x.dtype, ZERO if behind else unpacked_bytes(weight, x, base)
    else:
        x, (weight, own) = op.lowered(x), _lowered_weight(op, weight)
        dtype, unpacked, gradients = x.dtype, ZERO, gradients + own
    out = op.fresh(made, dtype, x.requires_grad or weight.requires_grad)
    saved = [t for t, other in ((x, weight), (weight, x)) if other.requires_grad and not packed]
    if (base is not None and base.keeps == "input") or (
        op.rules.keeps_inputs and out.requires_grad and not packed
    ):
        saved = [x]
    flops = x.elements * (2 * out_features)
    is_turned = module is not None and module.kind == "Conv1D"  # the weight is (in, out)
    op.record(
        "packed" if packed else "Conv1D" if is_turned else "linear",
        (x, weight),
        (out,),
        saved,
        forward_flops=flops,
        backward_flops=flops * (x.requires_grad + weight.requires_grad),
        gradients=gradients,
        workspace=unpacked,
        sizes=(constant(1), *_shape(made, out_features), constant(in_features)),
        side_inputs=_biases(op),
        lowers=() if packed or weight is given or weight.requires_grad else (given,),
        behind=behind,
    )
    return out


def unpacked_bytes(weight: Tensor, x: Tensor, base: Base | None) -> Polynomial:
    """Of a packed weight in its own dtype, beside it in that which it is brought back to first."""
    if base is None or base.scale_dtype in ("", x.dtype):
        return weight.bytes if base else ZERO
    return weight.bytes + weight.elements * ITEMSIZE[base.scale_dtype]


def _in_torch(op: Ledger, weight: Tensor) -> Tensor:
    """hqq 0.2.8 `core/quantize.py` (Quantizer.dequantize): unpacked, less its zeros, times its
    scales; what was unpacked has a name until then."""
    unpacked = op.fresh(weight.elements, weight.dtype, False)
    op.record("dequantize", (weight,), (unpacked,))
    shifted = op.fresh(weight.elements, weight.dtype, False)
    op.record("dequantize", (unpacked,), (shifted,))
    scaled = op.fresh(weight.elements, weight.dtype, False)
    op.record("dequantize", (unpacked, shifted), (scaled,))
    return scaled


def _behind(op: Ledger, x: Tensor, weight: Tensor) -> tuple[Node, ...]:
    """The same again for the gradient of x: `HQQMatmulNoCacheMul.backward`."""
    back = Ledger(op.rules, {}, {}, frozenset())
    again = _in_torch(back, weight)
    back.record("linear", (again,), (back.fresh(x.elements, x.dtype, False),))
    return tuple(back.nodes)


def _brought_back(op: Ledger, x: Tensor, weight: Tensor, base: Base) -> Tensor:
    """The weight in the dtype of its scales, and then of x: GPTQModel 7.7 `qlinear/torch.py`
    (_forward_eager), whose unpacking torch.compile makes one kernel of."""
    made = op.fresh(weight.elements, base.scale_dtype, False)
    op.record("dequantize", (), (made,))
    return op.cast(made, x.dtype)


def _biases(op: Ledger) -> tuple[Tensor, ...]:
    """The parameters beside its weight that a product of this scope adds. Autocast caches its
    copies of those that train."""
    module = op.modules.get(op.scope)
    if module is None or not module.is_linear:
        return ()
    biases = tuple(op.weight(op.scope, w.name) for w in module.weights if w.name != "weight")
    if op.rules.autocast:
        copied = (t for t in biases if t.requires_grad and t.dtype == "float32")
        op.cached |= {t.storage: op.fresh(t.elements, op.rules.autocast, True) for t in copied}
    return biases


def _lowered_weight(op: Ledger, weight: Tensor) -> tuple[Tensor, Polynomial]:
    """A weight as autocast hands it to a product, and the gradient bytes that the product
    leaves for it.

    The copy of one in float32 that trains is made once and cached (torch
    `autocast_mode.cpp`, cached_cast); its gradient is converted back by the copy's own node.
    """
    own = weight.bytes if weight.requires_grad and weight.storage.role == "parameter" else ZERO
    if op.rules.autocast in (None, weight.dtype):
        return weight, own
    if op.rules.gathers_low and own != ZERO:
        return weight, own // 2
    copy = op.fresh(weight.elements, op.rules.autocast, weight.requires_grad)
    if own != ZERO:
        if weight.dtype == "float32":
            op.cached[weight.storage] = copy
        op.record("_to_copy", (weight,), (copy,), gradients=own)
    return copy, ZERO


def _low_rank(op: Ledger, x: Tensor, y: Tensor, adapter: Adapter) -> Tensor:
    """y + scaling * B A dropout(x), with A and B in the adapter's dtype: PEFT `lora/layer.py`
    (`Linear.forward`; `lora/{gptq,hqq}.py` alike) adds and casts the sum back, `lora/bnb.py`
    (`Linear4bit.forward`) clones y and casts before it adds, and casts nothing itself under CUDA's
    autocast, the only one that it asks about; `lora/awq.py` clones nothing and casts before it
    scales."""
    rules, base = op.rules, op.base(op.scope)
    sums = base.sums if base else "linear"
    packed, casts_sum = sums != "linear", sums in ("linear", "wide")
    rows, rank = x.elements.ceil_div(adapter.in_features), R
    if sums == "clone":
        y = op.copy(y)
    leaves = packed and rules.autocast and rules.device != "cpu"
    cast = x if leaves else op.cast(x, rules.adapter_dtype)
    dropped = op.dropout(cast, rules.lora_dropout)
    inner = trained(
        op, dropped, rows, constant(adapter.in_features), rank, trains=not rules.freezes_a
    )
    inner = replicated(op, summed(op, inner))
    out_size = constant(adapter.out_features)
    delta = trained(op, inner, rows, rank, out_size, y.elements)
    if sums == "scaled":
        delta = op.scale(op.cast(delta, y.dtype))
    else:
        delta = op.scale(delta)
        if not (casts_sum or leaves):
            delta = op.cast(delta, y.dtype)
    result = op.add(y, delta)
    if casts_sum and not leaves:
        result = op.cast(result, y.dtype)
    op.keep(x, cast)
    return result


def _weighed(op: Ledger, x: Tensor, y: Tensor, weight: Tensor, adapter: Adapter) -> Tensor:
    """torchtune's DoRA, 0.7 `modules/peft/dora.py` (DoRALinear.forward): (m - 1) y + m B A x, plus
    y, where m is the magnitude of each output by the norm of its row of W + B A. That sum is made
    of a product with an identity matrix, and no gradient passes it; what has a name lives until the
    layer returns."""
    wide, out = adapter.in_features, constant(adapter.out_features)
    rows, made = x.elements // wide, weight.elements
    inner = trained(op, x, rows, constant(wide), R)
    delta = trained(op, inner, rows, R, out, y.elements)

    def made_of(
        name: str, *inputs: Tensor, size: Polynomial = made, flops: Polynomial = ZERO
    ) -> Tensor:
        result = op.fresh(size, x.dtype, False)
        op.record(name, inputs, (result,), forward_flops=flops)
        return result

    eye = made_of("eye", size=constant(wide * wide))
    narrow = made_of("linear", eye, size=R * wide, flops=R * (2 * wide * wide))
    both = made_of("linear", narrow, flops=made * R * 2)
    if op.base(op.scope):
        weight = made_of("dequantize")
    whole = made_of("add", weight, made_of("scale", both))
    norm = made_of("norm", whole, size=out)

    own = out * ITEMSIZE[op.rules.adapter_dtype]
    magnitude = Tensor(out, op.rules.adapter_dtype, True, Storage(ZERO, "parameter"))
    share = op.fresh(out, x.dtype, True)
    op.record("div", (magnitude, norm), (share,), (norm,), gradients=own)
    first = op.multiply(y, op.shift(share))
    second = op.scale(op.multiply(delta, share))
    result = op.add(op.add(first, second), y)
    op.keep(x, delta, eye, narrow, both, weight)
    return result


def _fused(op: Ledger, x: Tensor, out_features: int, adapters: Sequence[Adapter]) -> Tensor:
    """Base and adapter in one function: fms-acceleration `fused_ops/unsloth_lora/bnb/
    fast_lora.py` (6db5b26). It keeps x and what dropout left of it, no mask, casts A and B in
    each call, and adds in place. Backward multiplies by the weight, then by B and A, beside
    which the dropped places are."""
    weight, kept = op.weight(op.scope), [x]
    rows = x.elements // adapters[0].in_features
    out = op.fresh(rows * out_features, x.dtype, True)
    if op.rules.lora_dropout > 0.0 and op.rules.trains:
        kept.append(op.fresh(x.elements, x.dtype, True))
    size = total(
        R * adapter.rank_factor * (adapter.in_features + adapter.out_features)
        for adapter in adapters
    )
    unpacked = weight.bytes if op.base(op.scope) else ZERO
    beside = x.bytes + (x.elements if len(kept) > 1 else ZERO)
    base, own = rows * (2 * weight.elements), rows * size * 2
    op.record(
        "fast_lora",
        (x, weight),
        (out,),
        kept,
        base + own,
        base + own * 3,
        size * ITEMSIZE[op.rules.adapter_dtype],
        beside if x.requires_grad else unpacked,
        sizes=(constant(1), rows, constant(out_features), constant(adapters[0].in_features)),
    )
    return out


def trained(
    op: Ledger,
    x: Tensor,
    rows: Polynomial,
    in_size: Polynomial,
    out_size: Polynomial,
    elements: Polynomial | None = None,
    *,
    trains: bool = True,
) -> Tensor:
    """x times a trained matrix of (out_size, in_size), which is how A and B act: keeps x. The
    outcome has `elements`, as a rule those of its rows. `trains`: else it is frozen, as A is under
    LoRA-FA."""
    size = in_size * out_size
    weight, own = _lowered_weight(
        op, Tensor(size, op.rules.adapter_dtype, trains, Storage(ZERO, "parameter"))
    )
    x = op.lowered(x)
    out = op.fresh(elements or rows * out_size, x.dtype, trains or x.requires_grad)
    flops = rows * size * 2
    saved = (*((x,) if trains else ()), *((weight,) if x.requires_grad else ()))
    op.record(
        "linear",
        (x, weight),
        (out,),
        saved,
        flops,
        flops * (trains + x.requires_grad),
        own,
        sizes=(constant(1), rows, out_size, in_size),
    )
    return out


def matmul(
    op: Ledger,
    x: Tensor,
    y: Tensor,
    sizes: tuple[Polynomial, Polynomial, Polynomial, Polynomial],
    *,
    transposes: bool = False,
) -> Tensor:
    """Batched x @ y of two activations; `sizes` are (batches, m, n, k). Keeps each for the
    other's gradient.

    `transposes`: y is (..., n, k), and its transpose multiplied.

    torch views (batch, head) as one dimension and copies an operand where it cannot.
    """
    x, y = (t if t.merged or op.rules.one_row else op.copy(t) for t in (x, y))
    batches, m, n, k = sizes
    out = op.fresh(batches * m * n, x.dtype, x.requires_grad or y.requires_grad)
    saved = [a for a, b in ((x, y), (y, x)) if b.requires_grad]
    flops = out.elements * k * 2
    op.record(
        "bmm_transposed" if transposes else "bmm",
        (x, y),
        (out,),
        saved,
        flops,
        flops * (x.requires_grad + y.requires_grad),
        sizes=sizes,
    )
    return out


def _shape(made: Polynomial, out_features: int) -> tuple[Polynomial, Polynomial]:
    """Rows and columns of a product with so many elements. Where an expert takes a part of the
    tokens that no polynomial counts, all of them and as many fewer columns."""
    if made.is_divisible(out_features):
        return made // out_features, constant(out_features)
    return TOKENS, constant(made.evaluate(1, 1, 1))


# --- several adapters as one function -------------------------------------------------------------

# Linear layers with adapters that may be one function together: q, k and v, the attention's output,
# and a gated MLP.

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def projections(op: Ledger, x: Tensor, *names: str) -> tuple[Tensor, ...]:
    """The named linear layers of one input: one function where each has an adapter, else each by
    itself."""
    own = _function(op, names, "projections")
    return own(op, x, names) if own else tuple(linear(op, x, name) for name in names)


def mlp(op: Ledger, x: Tensor, name: str) -> Tensor | None:
    """down(act(gate(x)) * up(x)) as one function, None where it is not one."""
    own = _function(op, [f"{name}.{part}_proj" for part in ("gate", "up", "down")], "mlp")
    return own(op, x, name) if own else None


def _function(op: Ledger, names: Sequence[str], needed: str) -> Any:
    kernels = op.rules.lora_kernels
    if kernels == "peft" or not all(op.adapters.get(name) for name in names):
        return None
    if lora_kernel_set(kernels).leaves_biases and any(op.has(name, "bias") for name in names):
        return None
    return part("lora_kernels", kernels, "law", needed)
