"""What older libraries and fused kernels run where a model of today runs something else: changes to
a model on the meta device.

Each is code with the allocations of the code that it is named after, no more: what a kernel
computes does not matter here, what it takes, keeps and writes over does. None was chosen by the
error that it leaves.
"""

from collections.abc import Callable
from math import ceil
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from lora_profiler.trace.modeling import generations
from lora_profiler.trace.modeling.foak import triton
from lora_profiler.trace.modeling.foak import with_fast_lora as fused_lora
from lora_profiler.trace.modeling.generations import Loss, cross_entropy, shifted

Change = Callable[[nn.Module], None]


def base_of(model: nn.Module) -> Any:
    """The transformers model inside PEFT's wrapping."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


# --- checkpointing and outputs --------------------------------------------------------------------


def reentrant(model: nn.Module) -> None:
    """The Trainer's default until transformers 5; PEFT then makes the embedding's output require a
    gradient."""
    base = base_of(model)
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    base.enable_input_require_grads()


def outputs_held(model: nn.Module) -> None:
    """The training loop holds the outputs until the head's backward is over; accelerate makes those
    of autocast float32."""
    base, held = base_of(model), []

    def hold(_module: nn.Module, _args: Any, output: Any) -> None:
        logits = output.logits
        held.append(logits.float() if torch.is_autocast_enabled("cpu") else logits)

    def release(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args[0].requires_grad:
            args[0].register_hook(lambda _grad: held.clear())  # type: ignore[no-untyped-call]

    base.register_forward_hook(hold)
    base.get_output_embeddings().register_forward_pre_hook(release)


def update_in_backward(model: nn.Module) -> None:
    """Each weight is updated as soon as it has its gradient, which dies there; both states are
    there from the start."""
    for name, parameter in list(model.named_parameters()):
        for state in ("exp_avg", "exp_avg_sq"):
            model.register_buffer(f"{name.replace('.', '_')}_{state}", torch.empty_like(parameter))
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))


# --- loss -----------------------------------------------------------------------------------------


class _RowStatistics(torch.autograd.Function):
    """torchtune's chunked loss, compiled: 16-bit logits and one number a row are kept, and a
    gradient of 16 bit is written."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(
            logits, torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device), labels
        )
        return torch.empty((), dtype=torch.float32, device=logits.device)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return torch.empty_like(ctx.saved_tensors[0]), None


def row_statistics(model: nn.Module) -> None:
    model.loss = _RowStatistics.apply  # type: ignore[assignment]


def float_in_head(loss: Loss) -> Change:
    def change(model: nn.Module) -> None:
        generations.float_in_head(model, loss)

    return change


def float_in_loss(loss: Loss) -> Change:
    def change(model: nn.Module) -> None:
        generations.float_in_loss(model, loss)

    return change


def no_float(loss: Loss) -> Change:
    """GPT-BigCode up to 4.48 shifts its 16-bit logits and gives them to the loss as they are."""

    def change(model: nn.Module) -> None:
        base_of(model).loss_function = lambda logits, labels, *_sizes, **_rest: loss(
            *shifted(logits, labels)
        )

    return change


class _FusedLinear(torch.autograd.Function):
    """Liger's fused linear cross-entropy as fms-acceleration has it: logits a chunk at a time, cast
    to float32, their gradient written over them, and that of the hidden state made in forward.
    `kernels/liger/fused_linear_cross_entropy.py`.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        rows, width = hidden.shape
        chunk = 1 << (ceil(rows / ceil(weight.shape[0] / width)) - 1).bit_length()
        grad_hidden = torch.zeros_like(hidden)
        grad_weight = torch.zeros_like(weight) if weight.requires_grad else None
        losses = torch.zeros(rows, dtype=torch.float32, device=hidden.device)
        for start in range(0, rows, chunk):
            part = hidden[start : start + chunk]
            logits = part @ weight.t()
            wide = logits.float()
            wide.mul_(1.0)  # the kernel, which writes the gradient
            logits = wide.to(logits.dtype)
            grad_hidden[start : start + chunk] = logits @ weight
            if grad_weight is not None:
                torch.addmm(grad_weight, logits.t(), part, out=grad_weight)
        ctx.save_for_backward(grad_hidden, *(() if grad_weight is None else (grad_weight,)))
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        hidden, *weight = ctx.saved_tensors
        return hidden, weight[0] if weight else None, None


def liger(model: nn.Module) -> None:
    """The head hands the hidden states on, and the loss multiplies by its weight."""
    base = base_of(model)
    head = base.get_output_embeddings()
    head.forward = MethodType(lambda _self, hidden: hidden, head)

    def function(logits: Tensor, labels: Tensor, *_sizes: Any, **_rest: Any) -> Tensor:
        hidden, wanted = shifted(logits, labels)
        loss: Tensor = _FusedLinear.apply(hidden, head.weight, wanted)  # type: ignore[no-untyped-call]
        return loss

    base.loss_function = function


# --- kernels of a layer ---------------------------------------------------------------------------


class _FusedNorm(torch.autograd.Function):
    """Unsloth's RMSNorm keeps its input and one number a row; the input's gradient is written over
    the output's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(
            x, torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device), weight
        )
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _FusedRotation(torch.autograd.Function):
    """Unsloth's rotation turns queries and keys where they are, in both directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def fused_norms(model: nn.Module) -> None:
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = MethodType(lambda self, x: _FusedNorm.apply(x, self.weight), module)  # type: ignore[assignment]


def rotation_in_place(q: Tensor, k: Tensor, *_rest: Any, **_more: Any) -> tuple[Tensor, Tensor]:
    return _FusedRotation.apply(q), _FusedRotation.apply(k)  # type: ignore[no-untyped-call]


__all__ = [
    "Change", "cross_entropy", "float_in_head", "float_in_loss", "fused_lora", "fused_norms",
    "liger", "no_float", "outputs_held", "reentrant", "rotation_in_place", "row_statistics",
    "triton", "update_in_backward",
]  # fmt: skip
