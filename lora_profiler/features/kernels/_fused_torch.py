"""Stand-ins for three of Liger-Kernel's functions, which are Triton's and run on accelerators
alone: RMSNorm, SwiGLU, rotary embedding, and what it has of the first two for Gemma 3. They compute
the same, keep the same tensors for backward, and write where Liger's write.

Each is an operator of its own, so that a trace sees what it is given and returns, as of a kernel,
and not the torch inside. Source: Liger-Kernel `ops/{rms_norm,swiglu,geglu,rope}.py` (ead96b6). Left
out: a partial sum of each norm's weight gradient on every multiprocessor, float32.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from math import pi, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.library import custom_op

_GELU = sqrt(2 / pi)


@custom_op("lora_profiler::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: Tensor, eps: float, gemma: bool) -> tuple[Tensor, Tensor]:
    """(x / rms(x) in x's dtype, times the weight, of Gemma in float32, times 1 + the weight, and
    1 / rms(x) of each row in float32)."""
    inverse = torch.rsqrt(x.float().pow(2).mean(-1) + eps)
    normed = x.float() * inverse.unsqueeze(-1)
    scaled = normed * (1 + weight.float()) if gemma else normed.to(x.dtype) * weight
    return scaled.to(x.dtype), inverse


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float, gemma: bool) -> tuple[Tensor, Tensor]:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), torch.empty(
        x.shape[:-1], device=x.device
    )


@custom_op("lora_profiler::rms_norm_backward", mutates_args={"grad"})
def rms_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, gemma: bool
) -> Tensor:
    """Writes x's gradient over `grad`, and returns the weight's."""
    normed = x.float() * inverse.unsqueeze(-1)
    along_weight = grad.float() * normed if gemma else (grad * normed.to(x.dtype)).float()
    of_weight = along_weight.flatten(0, -2).sum(0).to(weight.dtype)
    inner = grad.float() * (1 + weight.float()) if gemma else (grad * weight).float()
    along = (inner * normed).mean(-1, keepdim=True)
    grad.copy_((inner - along * normed) * inverse.unsqueeze(-1))
    return of_weight


@rms_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, gemma: bool) -> Tensor:
    return torch.empty_like(weight)


@custom_op("lora_profiler::gated", mutates_args=())
def glu(gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
    """silu(gate) * up, or GELU's approximation by tanh."""
    wide = gate.float()
    acted = F.gelu(wide, approximate="tanh") if gelu else F.silu(wide)
    return acted.to(up.dtype) * up


@glu.register_fake
def _(gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
    return torch.empty_like(gate)


@custom_op("lora_profiler::gated_backward", mutates_args={"gate", "up"})
def glu_backward(grad: Tensor, gate: Tensor, up: Tensor, gelu: bool) -> None:
    """Writes the gradients of gate and up over them."""
    wide = gate.float()
    if gelu:
        bent = torch.tanh(_GELU * (wide + 0.044715 * wide**3))
        acted = 0.5 * wide * (1 + bent)
        slope = 0.5 * wide * (1 - bent**2) * _GELU * (1 + 3 * 0.044715 * wide**2)
        slope += 0.5 * (1 + bent)
    else:
        sigmoid = torch.sigmoid(wide)
        acted = wide * sigmoid
        slope = acted * (1 - sigmoid) + sigmoid
    of_gate = grad.float() * up.float() * slope
    up.copy_(grad.float() * acted)
    gate.copy_(of_gate)


@custom_op("lora_profiler::rotate", mutates_args={"x"})
def rotate(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> None:
    """Rotates x (b, s, heads, d) where it lies, by tables (1 or b, s, d)."""
    first, second = x.chunk(2, -1)
    turned = torch.cat((second, -first) if back else (-second, first), -1)
    x.copy_(x * cos.unsqueeze(2) + turned * sin.unsqueeze(2))


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, gemma: bool) -> Tensor:
        out: Tensor
        out, inverse = rms_norm(x, weight, eps, gemma)
        ctx.save_for_backward(x, weight, inverse)
        ctx.gemma = gemma
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Of Gemma x's gradient has a place of its own: what adds to the norm's result needs the
        result's."""
        grad = grad.clone() if ctx.gemma else grad.contiguous()
        return grad, rms_norm_backward(grad, *ctx.saved_tensors, ctx.gemma), None, None


class _Glu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.gelu = gelu
        return glu(gate, up, gelu)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        glu_backward(grad.contiguous(), gate, up, ctx.gelu)
        return gate, up, None


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        return _rotated(q, cos, sin, False), _rotated(k, cos, sin, False)

    @staticmethod
    def backward(ctx: Any, dq: Tensor, dk: Tensor) -> tuple[Tensor, Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(dq, cos, sin, True), _rotated(dk, cos, sin, True), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    """x (b, heads, s, d) after it was rotated in place; a copy if its tokens do not come before its
    heads in memory."""
    x = x.transpose(1, 2).contiguous()
    rotate(x, cos, sin, back)
    return x.transpose(1, 2)


def with_fused(model: nn.Module, *, mlp: bool) -> nn.Module:
    """`model` with the norms, and with `mlp` the MLPs, of Liger-Kernel, as `use_liger_kernel=True`
    makes it; `rotary_in_place` does the rest."""
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            module.forward = partial(_norm, module)
        elif mlp and kind.endswith("MLP") and hasattr(module, "gate_proj"):
            module.forward = partial(_mlp, module)
    return model


def _norm(norm: Any, x: Tensor) -> Tensor:
    gemma = _is_gemma(norm)
    eps = norm.eps if gemma else norm.variance_epsilon
    return _RmsNorm.apply(x, norm.weight, eps, gemma)  # type: ignore[no-any-return, no-untyped-call]


def _mlp(mlp: Any, x: Tensor) -> Tensor:
    acted = _Glu.apply(mlp.gate_proj(x), mlp.up_proj(x), _is_gemma(mlp))  # type: ignore[no-untyped-call]
    return mlp.down_proj(acted)  # type: ignore[no-any-return]


def _is_gemma(module: nn.Module) -> bool:
    return type(module).__name__.startswith("Gemma")


@contextmanager
def rotary_in_place(types: Sequence[str]) -> Iterator[None]:
    """Inside, models of these types rotate queries and keys where they lie. Hold it over backward
    as well, for checkpoints."""

    def rotary(
        q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
    ) -> tuple[Tensor, Tensor]:
        return _Rotary.apply(q, k, cos, sin)  # type: ignore[no-any-return, no-untyped-call]

    with ExitStack() as stack:
        for family in types:
            module = import_module(f"transformers.models.{family}.modeling_{family}")
            stack.callback(setattr, module, "apply_rotary_pos_emb", module.apply_rotary_pos_emb)
            module.apply_rotary_pos_emb = rotary  # type: ignore[attr-defined]
        yield
