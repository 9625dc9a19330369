"""What stands in for layers of the Hub: they compute nothing, keep what the kernels keep and hold
what they hold meanwhile.

Sources, in huggingface/kernels-community (40d4194f): `liger-kernels/torch-ext/liger_kernels/
rms_norm.py`, which writes the gradient of its input over that of its result, and makes the
weight's by rows of one sum a multiprocessor; `rotary/torch-ext/rotary/layers.py`, whose backward
pass came later and is taken to do as the forward pass does."""

from typing import Any

import torch
from torch import Tensor, nn


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        rows = x.contiguous().view(-1, x.shape[-1])
        out = torch.empty_like(rows)
        inverse = torch.empty(len(rows), dtype=torch.float32, device=x.device)
        ctx.save_for_backward(rows, weight, inverse)
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        rows, weight, _ = ctx.saved_tensors
        processors = torch.cuda.get_device_properties(rows.device).multi_processor_count
        partial = torch.empty((processors, rows.shape[1]), device=rows.device)
        return grads[0].contiguous(), partial.sum(dim=0).to(weight.dtype)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        return q.clone(), k.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        return grads[0].clone(), grads[1].clone(), None, None


class LigerRMSNorm(nn.Module):
    weight: nn.Parameter

    def forward(self, hidden_states: Tensor) -> Tensor:
        return _Norm.apply(hidden_states, self.weight)  # type: ignore[no-any-return]


class apply_rotary_transformers(nn.Module):
    def forward(
        self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
    ) -> tuple[Tensor, Tensor]:
        return _Rotary.apply(q, k, cos, sin)  # type: ignore[no-any-return]


LAYERS: dict[str, type[nn.Module]] = {
    "kernels-community/liger-kernels": LigerRMSNorm,
    "kernels-community/rotary": apply_rotary_transformers,
}
"""By repository."""
