"""LitGPT as its resource tables were made with it, on 27 October 2023: model, LoRA, chunked loss,
an older 4-bit layer.

`lit_gpt/{model,lora,rmsnorm,utils}.py`; bitsandbytes 0.41 `autograd/_functions.py`, which keeps
every input.
"""

from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.public.models import Output
from lora_profiler.question.workload import Workload

CHUNK = 128
"""Tokens that the head takes at once. The training loop keeps all its float32 logits in a list
through backward (`finetune/lora.py`)."""


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        dtype, wide = x.dtype, x.float()
        normed = wide * torch.rsqrt(torch.mean(wide * wide, dim=-1, keepdim=True) + 1e-5)
        return (self.weight * normed).to(dtype)


class _FourBit(torch.autograd.Function):
    """The weight made 16-bit for one product, forth and back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, _unpacked(weight, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        _, weight = ctx.saved_tensors
        return grads[0] @ _unpacked(weight, grads[0].dtype), None, None


def _unpacked(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """In the checkpoint's float16 first, then in the dtype asked for."""
    statistics = torch.empty(ceil(weight.numel() / 64), dtype=torch.float32, device=weight.device)
    narrow = torch.empty_like(weight, dtype=torch.float16)
    del statistics
    return narrow.to(dtype)


class Packed(nn.Module):
    """Two values a byte and the statistics of blocks of 64, themselves in one byte where they are
    quantised again."""

    def __init__(self, inputs: int, outputs: int, bias: bool, twice: bool) -> None:
        super().__init__()
        self.shape = (outputs, inputs)
        blocks = ceil(inputs * outputs / 64)
        self.packed = nn.Parameter(
            torch.empty(ceil(inputs * outputs / 2), dtype=torch.uint8), requires_grad=False
        )
        self.statistics = nn.Parameter(
            torch.empty(
                blocks + 4 * ceil(blocks / 256) + 1024 if twice else 4 * blocks, dtype=torch.uint8
            ),
            requires_grad=False,
        )
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return _FourBit.apply(
            x, self.packed.new_empty(0).expand(0).as_strided(self.shape, (0, 0)), self.bias
        )  # type: ignore


def linear(inputs: int, outputs: int, bias: bool, quantised: bool | None) -> nn.Module:
    """`quantised`: None for no, else whether twice."""
    if quantised is None:
        return nn.Linear(inputs, outputs, bias=bias)
    return Packed(inputs, outputs, bias, quantised)


class LoraQKV(nn.Module):
    """Queries and values get an adapter: one A for both, B as a convolution, its output spread by
    `index_copy`."""

    def __init__(self, spec: Any, quantised: bool | None) -> None:
        super().__init__()
        width, rank = spec["hidden_size"], spec["rank"]
        head = width // spec["num_attention_heads"]
        self.kv = spec["num_key_value_heads"] * head
        self.linear = linear(width, width + 2 * self.kv, spec["bias"], quantised)
        self.lora_A = nn.Parameter(torch.empty(2 * rank, width))
        self.lora_B = nn.Parameter(torch.empty(width + self.kv, rank))

    def forward(self, x: Tensor) -> Tensor:
        base = self.linear(x)
        after_a = F.linear(F.dropout(x, 0.05), self.lora_A)
        after_b = F.conv1d(
            after_a.transpose(-2, -1), self.lora_B.unsqueeze(-1), groups=2
        ).transpose(-2, -1)
        flat = after_b.transpose(0, 1)
        places = torch.empty(self.lora_B.shape[0], dtype=torch.int64, device=x.device)
        spread = flat.new_zeros((*flat.shape[:-1], base.shape[-1])).view(-1, base.shape[-1])
        spread = spread.index_copy(1, places, flat.reshape(-1, self.lora_B.shape[0]))
        lora = spread.view((*flat.shape[:-1], base.shape[-1])).transpose(0, 1) * 2.0
        return base + lora  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self, spec: Any, quantised: bool | None) -> None:
        super().__init__()
        self.heads, self.groups = spec["num_attention_heads"], spec["num_key_value_heads"]
        self.attn = LoraQKV(spec, quantised)
        self.proj = linear(spec["hidden_size"], spec["hidden_size"], spec["bias"], quantised)
        self.rotated = int(spec["rotary_percentage"] * spec["hidden_size"] // self.heads)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, tokens, width = x.shape
        each = self.heads // self.groups
        qkv = (
            self.attn(x)
            .view(rows, tokens, self.groups, each + 2, width // self.heads)
            .permute(0, 2, 3, 1, 4)
        )
        q, k, v = qkv.split((each, 1, 1), dim=2)
        q, k, v = (t.reshape(rows, -1, tokens, width // self.heads) for t in (q, k, v))
        q, k = (
            torch.cat((_turned(t[..., : self.rotated], cos, sin), t[..., self.rotated :]), dim=-1)
            for t in (q, k)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        return self.proj(out.reshape(rows, tokens, width))  # type: ignore[no-any-return]


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    rotated = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return (x * cos + rotated * sin).type_as(x)


class SwiGLU(nn.Module):
    def __init__(self, spec: Any, quantised: bool | None) -> None:
        super().__init__()
        width, inner = spec["hidden_size"], spec["intermediate_size"]
        self.fc_1, self.fc_2 = (
            linear(width, inner, False, quantised),
            linear(width, inner, False, quantised),
        )
        self.proj = linear(inner, width, False, quantised)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.fc_1(x), self.fc_2(x)
        return self.proj(F.silu(one) * two)  # type: ignore[no-any-return]


class Gelu(nn.Module):
    def __init__(self, spec: Any, quantised: bool | None) -> None:
        super().__init__()
        width, inner = spec["hidden_size"], spec["intermediate_size"]
        self.fc, self.proj = (
            linear(width, inner, True, quantised),
            linear(inner, width, True, quantised),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.gelu(self.fc(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, spec: Any, quantised: bool | None) -> None:
        super().__init__()
        norm = nn.LayerNorm if spec["parallel"] else RMSNorm
        self.norm_1, self.norm_2 = norm(spec["hidden_size"]), norm(spec["hidden_size"])
        self.attn = Attention(spec, quantised)
        self.mlp = (Gelu if spec["parallel"] else SwiGLU)(spec, quantised)
        self.parallel = spec["parallel"]

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        h = self.attn(self.norm_1(x), cos, sin)
        if self.parallel:
            return self.mlp(self.norm_2(x)) + h + x  # type: ignore[no-any-return]
        x = h + x
        return self.mlp(self.norm_2(x)) + x  # type: ignore[no-any-return]


class Decoder(nn.Module):
    def __init__(self, spec: Any, quantised: bool | None) -> None:
        super().__init__()
        self.wte = nn.Embedding(spec["vocab_size"], spec["hidden_size"])
        self.layers = nn.ModuleList(
            Block(spec, quantised) for _ in range(spec["num_hidden_layers"])
        )
        self.ln_f = (
            nn.LayerNorm(spec["hidden_size"]) if spec["parallel"] else RMSNorm(spec["hidden_size"])
        )
        self.rotated = self.layers[0].attn.rotated  # type: ignore[union-attr]

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids)
        cos, sin = (
            torch.empty(ids.shape[1], self.rotated, dtype=x.dtype, device=ids.device)
            for _ in range(2)
        )  # type: ignore
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.ln_f(x)  # type: ignore[no-any-return]


class LitGPT(nn.Module):
    def __init__(self, spec: Any, quantised: bool | None) -> None:
        super().__init__()
        self.model = Decoder(spec, quantised)
        self.lm_head = linear(spec["hidden_size"], spec["vocab_size"], False, quantised)

    def forward(self, input_ids: Tensor, labels: Tensor, **_rest: Any) -> Output:
        chunks = [self.lm_head(part) for part in self.model(input_ids).split(CHUNK, dim=1)]
        chunks = [chunk.float() for chunk in chunks]  # Fabric gives float32 back
        chunks[-1] = chunks[-1][..., :-1, :]
        wanted = labels[..., 1:].split(CHUNK, dim=1)
        pairs = zip(chunks, wanted, strict=True)
        losses = [
            F.cross_entropy(c.reshape(-1, c.shape[-1]), t.reshape(-1), reduction="none")
            for c, t in pairs
        ]
        return Output(torch.cat(losses).mean(), chunks)


def litgpt(workload: Workload) -> nn.Module:
    """Adapters are part of the model here, in its dtype; all else is frozen."""
    spec, setup = dict(workload.model.published), workload.setup
    assert setup.lora is not None
    spec["rank"] = setup.lora.r
    quantised = None if setup.quantization is None else setup.quantization.double_quant
    with torch.device("meta"):
        model: nn.Module = LitGPT(spec, quantised)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16)
        parameter.requires_grad_("lora_" in name)
    return model.train()
