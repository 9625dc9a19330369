"""Stand-ins for axolotl's LoRA kernels: the same graph of autograd, the same tensors kept, written
over and let go, with PEFT's numbers.

Gated activations, which are Triton's there, are operators of their own, so that a trace sees what
they are given and return. Source: axolotl 067b021, `kernels/{lora,swiglu,geglu}.py`; which layers
are taken: `monkeypatch/lora_kernels.py` (apply_lora_kernel_patches).
"""

from collections.abc import Callable, Sequence
from math import pi, sqrt
from types import MethodType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.library import custom_op

from lora_profiler.question.support.images import part_of
from lora_profiler.trace.modeling.foak import base_weight


@custom_op("lora_profiler::glu", mutates_args=())
def glu(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    """silu(gate) * up, or gelu."""
    act = F.silu if kind == "silu" else F.gelu
    return act(gate.float()).to(up.dtype) * up


@glu.register_fake
def _(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    return torch.empty_like(gate)


@custom_op("lora_profiler::glu_backward", mutates_args={"grad", "gate", "up"})
def glu_backward(grad: Tensor, gate: Tensor, up: Tensor, kind: str) -> None:
    """Writes the product over `grad`, and the gradients of gate and up over them."""
    wide = gate.float()
    if kind == "silu":
        sigmoid = torch.sigmoid(wide)
        acted = wide * sigmoid
        slope = sigmoid * (1 + wide * (1 - sigmoid))
    else:
        below = 0.5 * (1 + torch.erf(wide / sqrt(2)))
        acted = wide * below
        slope = below + wide * torch.exp(-wide * wide / 2) / sqrt(2 * pi)
    of_gate, of_up = grad.float() * up.float() * slope, grad.float() * acted
    grad.copy_(acted * up.float())
    gate.copy_(of_gate)
    up.copy_(of_up)


class _Layer(NamedTuple):
    weight: Callable[[], Tensor]
    bias: Tensor | None
    scale: float


class _Projections(torch.autograd.Function):
    """Layers of one input. After it and its dropped copy come A and B of each."""

    @staticmethod
    def forward(
        ctx: Any, layers: Sequence[_Layer], x: Tensor, dropped: Tensor | None, *factors: Tensor
    ) -> tuple[Tensor, ...]:
        given = x if dropped is None else dropped
        outs = tuple(
            _projected(layer, x, given, a, b)
            for layer, a, b in zip(layers, factors[::2], factors[1::2], strict=True)
        )
        ctx.save_for_backward(x, given, *(t.to(x.dtype) for t in factors))
        ctx.layers, ctx.is_dropped = layers, dropped is not None
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, given, *factors = ctx.saved_tensors
        shape, x, given = x.shape, _rows(x), _rows(given)
        grads = tuple(_rows(g) for g in grads)
        made, narrow = [], []
        for layer, grad, a, b in zip(ctx.layers, grads, factors[::2], factors[1::2], strict=True):
            thin, *pair = _factor_gradients(layer, given, grad, a, b)
            narrow.append(thin)
            made += pair
        of_x = _base_gradient(ctx.layers, grads)
        of_given = _low_rank_gradient(
            ctx.layers, narrow, factors[::2], of_x, given if ctx.is_dropped else None
        )
        return None, of_x.view(shape), None if of_given is None else of_given.view(shape), *made


class _Mlp(torch.autograd.Function):
    """Gate, up and down of one input, and what is between."""

    @staticmethod
    def forward(
        ctx: Any,
        layers: Sequence[_Layer],
        kind: str,
        x: Tensor,
        dropped: Tensor | None,
        *factors: Tensor,
    ) -> Tensor:
        given = x if dropped is None else dropped
        gate, up = (
            _projected(layers[i], x, given, factors[2 * i], factors[2 * i + 1]) for i in (0, 1)
        )
        hidden = glu(gate, up, kind)
        out = _projected(layers[2], hidden, hidden, *factors[4:])
        ctx.save_for_backward(x, given, gate, up, *(t.to(x.dtype) for t in factors))
        ctx.layers, ctx.kind, ctx.is_dropped = layers, kind, dropped is not None
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, given, gate, up, *factors = ctx.saved_tensors
        shape, given, gate, up = x.shape, _rows(given), _rows(gate), _rows(up)
        arriving, down = _rows(grads[0]), ctx.layers[2]
        inner = _base_gradient([down], [arriving])
        inner.addmm_(arriving @ factors[5], factors[4], alpha=down.scale)
        glu_backward(inner, gate, up, ctx.kind)
        _, *of_down = _factor_gradients(down, inner, arriving, *factors[4:])
        of_up, of_gate = (
            _factor_gradients(
                ctx.layers[i], given, (gate, up)[i], factors[2 * i], factors[2 * i + 1]
            )
            for i in (1, 0)
        )
        of_x = of_given = None
        if ctx.needs_input_grad[2]:
            both = [ctx.layers[1], ctx.layers[0]]
            of_x = _base_gradient(both, [up, gate])
            of_given = _low_rank_gradient(
                both,
                [of_up[0], of_gate[0]],
                [factors[2], factors[0]],
                of_x,
                given if ctx.is_dropped else None,
            )
            of_x = of_x.view(shape)
            of_given = None if of_given is None else of_given.view(shape)
        return None, None, of_x, of_given, *of_gate[1:], *of_up[1:], *of_down


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _projected(layer: _Layer, x: Tensor, given: Tensor, a: Tensor, b: Tensor) -> Tensor:
    weight = layer.weight()
    out = _rows(x) @ weight.t()
    del weight
    a, b = a.t().to(x.dtype), b.t().to(x.dtype)
    out.addmm_(_rows(given) @ a, b, alpha=layer.scale)
    if layer.bias is not None:
        out += layer.bias
    return out.view(*x.shape[:-1], -1)


def _factor_gradients(
    layer: _Layer, x: Tensor, grad: Tensor, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient times B, and the gradients of A and B."""
    narrow = grad @ b
    of_a, of_b = torch.empty_like(a.t()), torch.empty_like(b.t())
    of_a.addmm_(x.t(), narrow, alpha=layer.scale, beta=0)
    of_b.addmm_(a @ x.t(), grad, alpha=layer.scale, beta=0)
    return narrow, of_a.t(), of_b.t()


def _base_gradient(layers: Sequence[_Layer], grads: Sequence[Tensor]) -> Tensor:
    made: Tensor | None = None
    for layer, grad in zip(layers, grads, strict=True):
        weight = layer.weight()
        made = grad @ weight if made is None else made.addmm_(grad, weight)
        del weight
    assert made is not None
    return made


def _low_rank_gradient(
    layers: Sequence[_Layer],
    narrow: Sequence[Tensor],
    factors: Sequence[Tensor],
    of_x: Tensor,
    dropped: Tensor | None,
) -> Tensor | None:
    """Added to the gradient of the input, or where dropout stands between, the gradient of what it
    left."""
    if dropped is not None and len(layers) == 1:
        return narrow[0] @ factors[0] * layers[0].scale
    made = of_x if dropped is None else torch.zeros_like(dropped)
    for layer, thin, a in zip(layers, narrow, factors, strict=True):
        made.addmm_(thin, a, alpha=layer.scale)
    return None if dropped is None else made


def patched(model: Any) -> None:
    """q, k and v, o, and gate, up and down of each layer run as one function each where all of them
    have an adapter.

    Of Mistral 3 axolotl changes Mistral's attention (067b021, get_attention_cls_from_config),
    which its language models of other types do not run."""
    text = model.config.get_text_config()
    activation = getattr(text, "hidden_act", None) or getattr(text, "hidden_activation", "")
    is_left = model.config.model_type == "mistral3" and text.model_type != "mistral"
    for name, module in model.named_modules():
        if part_of(name) != "language_model":
            continue
        if not is_left and hasattr(module, "q_proj") and hasattr(module, "o_proj"):
            _join(module.q_proj, module.k_proj, module.v_proj)
            _join(module.o_proj)
        elif name.endswith("mlp") and hasattr(module, "gate_proj"):
            parts = [module.gate_proj, module.up_proj, module.down_proj]
            if all(hasattr(part, "lora_A") for part in parts):
                kind = "silu" if activation in ("silu", "swish") else "gelu"
                module.forward = MethodType(_mlp(parts, kind), module)


def _mlp(parts: Sequence[Any], kind: str) -> Callable[[Any, Tensor], Tensor]:
    def forward(self: Any, x: Tensor) -> Tensor:
        out: Tensor = _Mlp.apply(  # type: ignore[no-untyped-call]
            [_layer(part) for part in parts], kind, x, _dropped(parts[0], x), *_factors(parts)
        )
        return out

    return forward


def _join(*parts: Any) -> None:
    """The first of `parts` runs all of them, the others hand on what it made."""
    if not all(hasattr(part, "lora_A") for part in parts):
        return
    waiting: list[Tensor] = []

    def first(self: Any, x: Tensor) -> Tensor:
        out, *rest = _Projections.apply(  # type: ignore[no-untyped-call]
            [_layer(part) for part in parts], x, _dropped(parts[0], x), *_factors(parts)
        )
        waiting.extend(reversed(rest))
        return out  # type: ignore[no-any-return]

    parts[0].forward = MethodType(first, parts[0])
    for part in parts[1:]:
        part.forward = MethodType(lambda self, x: waiting.pop(), part)


def _layer(part: Any) -> _Layer:
    base = part.base_layer
    return _Layer(base_weight(base.weight), base.bias, part.scaling["default"])


def _dropped(part: Any, x: Tensor) -> Tensor | None:
    drop = part.lora_dropout["default"]
    return None if isinstance(drop, nn.Identity) else drop(x)


def _factors(parts: Sequence[Any]) -> list[Tensor]:
    return [t for p in parts for t in (p.lora_A["default"].weight, p.lora_B["default"].weight)]
