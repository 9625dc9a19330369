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
import torch.nn.functional as F
from torch import Tensor, nn

Change = Callable[[nn.Module], None]
IGNORED = -100


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


def _shifted(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    moved = logits[..., :-1, :].contiguous()
    return moved.view(-1, moved.shape[-1]), labels[..., 1:].contiguous().view(-1)


Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, ignore_index=IGNORED)


class _InPlace(torch.autograd.Function):
    """Unsloth's Triton kernel: the logits are kept, with one number a row, and their gradient is
    written over them."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        losses = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
        ctx.save_for_backward(logits, torch.empty_like(losses), labels)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, *_ = ctx.saved_tensors
        return logits, None


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


def triton(logits: Tensor, labels: Tensor) -> Tensor:
    losses: Tensor = _InPlace.apply(logits, labels)  # type: ignore[no-untyped-call]
    return losses.sum() / torch.count_nonzero(labels != IGNORED)


def float_in_head(loss: Loss) -> Change:
    """transformers up to 4.45: `logits = self.lm_head(hidden).float()`, then a shifted copy."""

    def change(model: nn.Module) -> None:
        base = base_of(model)
        base.get_output_embeddings().register_forward_hook(
            lambda _module, _args, logits: logits.float()
        )
        base.loss_function = lambda logits, labels, *_sizes, **_rest: loss(
            *_shifted(logits, labels)
        )

    return change


def float_in_loss(loss: Loss) -> Change:
    """transformers 4.46 to 4.48: the model still holds its 16-bit logits while the loss function
    casts and shifts them."""

    def function(logits: Tensor, labels: Tensor, *_sizes: Any, **_rest: Any) -> Tensor:
        logits = logits.float()
        return loss(*_shifted(logits, labels))

    def change(model: nn.Module) -> None:
        base_of(model).loss_function = function

    return change


def no_float(loss: Loss) -> Change:
    """GPT-BigCode up to 4.48 shifts its 16-bit logits and gives them to the loss as they are."""

    def change(model: nn.Module) -> None:
        base_of(model).loss_function = lambda logits, labels, *_sizes, **_rest: loss(
            *_shifted(logits, labels)
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
        hidden, wanted = _shifted(logits, labels)
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


class _FusedLora(torch.autograd.Function):
    """fms-acceleration's adapters after Unsloth: the input and the dropped input are kept, no mask;
    adapters are cast in every call; what the adapter makes is added in place.
    `fused_ops/unsloth_lora/bnb/fast_lora.py`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, dropout: float, weight: Callable[[], Tensor]
    ) -> Tensor:
        dropped = F.dropout(x, dropout) if dropout else x
        out = F.linear(x, weight())
        out.add_(F.linear(F.linear(dropped, a.to(x.dtype)), b.to(x.dtype)))
        ctx.save_for_backward(x, dropped, a, b)
        ctx.weight = weight
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, dropped, a, b = ctx.saved_tensors
        dy = grads[0].reshape(-1, grads[0].shape[-1])
        x, dropped = x.reshape(-1, x.shape[-1]), dropped.reshape(-1, x.shape[-1])
        wide_a, wide_b = a.to(x.dtype), b.to(x.dtype)
        grad_a, grad_b = (dy @ wide_b).t() @ dropped, dy.t() @ (dropped @ wide_a.t())
        dx = dy @ ctx.weight()
        more = dy @ wide_b @ wide_a
        more.mul_(dropped != 0)
        dx.add_(more)
        return (
            dx.view(ctx.saved_tensors[0].shape),
            grad_a.to(a.dtype),
            grad_b.to(b.dtype),
            None,
            None,
        )


def fused_lora(model: nn.Module) -> None:
    import bitsandbytes.functional as bnb

    for module in model.modules():
        if not hasattr(module, "lora_A") or not hasattr(module, "base_layer"):
            continue
        packed = module.base_layer.weight  # type: ignore[union-attr]

        def weight(packed: Any = packed) -> Tensor:
            state = getattr(packed, "quant_state", None)
            return (
                packed.data
                if state is None
                else bnb.dequantize_4bit(packed.data, state).view(state.shape)
            )

        def forward(self: Any, x: Tensor, weight: Callable[[], Tensor] = weight) -> Tensor:
            drop = self.lora_dropout["default"]
            args = (
                self.lora_A["default"].weight,
                self.lora_B["default"].weight,
                getattr(drop, "p", 0.0),
                weight,
            )
            return _FusedLora.apply(x, *args)  # type: ignore[no-untyped-call,no-any-return]

        module.forward = MethodType(forward, module)  # type: ignore[assignment]
