"""Linear layers of quantisation-aware training on the ledger: input and weight rounded to int8 and
int4, which are brought back at once.

A scale and a zero point are worked out of the largest and smallest numbers that share them, and
outlive the step, since the layer has names for them. What is clamped is kept for the gradient,
which passes through the rounding. Source: torchao 0.18, `quantization/qat/fake_quantizer.py`
(IntxFakeQuantizer) and `quantization/quant_primitives.py` (_choose_qparams_affine,
_do_fake_quantize_affine).
"""

from collections.abc import Sequence

from lora_profiler.algebra.polynomial import ZERO, Polynomial, total
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.tensors import ITEMSIZE, Node, Storage, Tensor
from lora_profiler.support.fake_quantizing import RULED

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
