"""Models as the libraries of the public rows had them, where those of today have them otherwise.

Qwen (the first one) is no part of transformers; its own code is short, and what runs in it is
written down here again (`modeling_qwen.py` of the model's repository). Mixtral had one linear layer
for each expert and matrix (transformers up to 4.57). TRL's k-bit preparation leaves embeddings and
head in 16 bit.
"""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lora_profiler.question.workload import TrainSetup, Workload
from lora_profiler.trace.modeling.adapters import enable_checkpointing, inject_adapters
from lora_profiler.trace.modeling.build import base_model, build_model
from lora_profiler.trace.modeling.nf4 import quantise


class QwenNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return normed.type_as(x) * self.weight


class QwenAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in self.c_attn(x).chunk(3, dim=-1))
        q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
        out = F.scaled_dot_product_attention(
            *(t.transpose(1, 2) for t in (q, k, v)), is_causal=True
        )
        return self.c_proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def _rotated(t: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = t.float()
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat((-second, first), dim=-1) * sin).type_as(t)


class QwenMLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(width, inner, bias=False)
        self.c_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.w1(x) * F.silu(self.w2(x)))  # type: ignore[no-any-return]


class QwenBlock(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = QwenNorm(width), QwenNorm(width)
        self.attn, self.mlp = QwenAttention(width, heads), QwenMLP(width, inner)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = self.attn(self.ln_1(x), cos, sin) + x
        return self.mlp(self.ln_2(x)) + x  # type: ignore[no-any-return]


class Decoder(nn.Module):
    def __init__(self, spec: Any) -> None:
        super().__init__()
        width, heads = spec["hidden_size"], spec["num_attention_heads"]
        self.wte = nn.Embedding(spec["vocab_size"], width)
        self.layers = nn.ModuleList(
            QwenBlock(width, heads, spec["intermediate_size"])
            for _ in range(spec["num_hidden_layers"])
        )
        self.ln_f = QwenNorm(width)
        self.head_dim = width // heads

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids)
        if not x.requires_grad:
            x.requires_grad_()  # `enable_input_require_grads`
        cos, sin = (
            torch.empty(1, ids.shape[1], 1, self.head_dim, device=ids.device) for _ in range(2)
        )
        for layer in self.layers:
            x = checkpoint(layer, x, cos, sin, use_reentrant=False)
        return self.ln_f(x)  # type: ignore[no-any-return]


class Output:
    """`logits` where a training loop holds them."""

    def __init__(self, loss: Tensor, logits: Sequence[Tensor] = ()) -> None:
        self.loss, self.logits = loss, logits


class Qwen(nn.Module):
    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.model = Decoder(spec)
        self.lm_head = nn.Linear(spec["hidden_size"], spec["vocab_size"], bias=False)

    def forward(self, input_ids: Tensor, labels: Tensor, **_rest: Any) -> Output:
        logits = self.lm_head(self.model(input_ids))
        shifted, wanted = logits[..., :-1, :].contiguous(), labels[..., 1:].contiguous()
        return Output(F.cross_entropy(shifted.view(-1, shifted.shape[-1]), wanted.view(-1)))

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head


def qwen(workload: Workload) -> nn.Module:
    setup = workload.setup
    with torch.device("meta"):
        model: nn.Module = Qwen(workload.model.published).to(getattr(torch, setup.dtype))
        if setup.lora is not None:
            model = inject_adapters(model, setup)
    return model.train()


class _AoLinear(torch.autograd.Function):
    """torchao's `linear_nf4`: the packed weight is kept, and made 16-bit for one product, forth and
    back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(packed)
        ctx.shape = shape
        return F.linear(x, torch.empty(shape, dtype=x.dtype, device=x.device))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        weight = torch.empty(ctx.shape, dtype=grads[0].dtype, device=grads[0].device)
        return grads[0] @ weight, None, None


class TuneLinear(nn.Module):
    """torchtune's LoRALinear and FrozenNF4Linear (`modules/peft/lora.py`,
    `modules/low_precision/nf4_linear.py`): an adapter where `rank` is not 0, and torchao's NF4
    (0.6 `dtypes/nf4tensor.py`): two values a byte, scales of blocks of 64 in one byte, and a 16-bit
    factor for 256 of them."""

    def __init__(self, inputs: int, outputs: int, rank: int, quantised: bool) -> None:
        super().__init__()
        self.shape, self.quantised = (outputs, inputs), quantised
        blocks = ceil(inputs * outputs / 64)
        if quantised:
            self.packed = _frozen(inputs * outputs // 2, torch.uint8)
            self.scalers = _frozen(blocks, torch.int8)
            self.factors = _frozen(ceil(blocks / 256), torch.bfloat16)
        else:
            self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.lora_a = nn.Linear(inputs, rank, bias=False) if rank else None
        self.lora_b = nn.Linear(rank, outputs, bias=False) if rank else None

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (
            _AoLinear.apply(x, self.packed, self.shape)  # type: ignore[no-untyped-call]
            if self.quantised
            else F.linear(x, self.weight)
        )
        if self.lora_a is None or self.lora_b is None:
            return out
        return out + 2.0 * self.lora_b(self.lora_a(x))  # type: ignore[no-any-return]


def _frozen(size: int, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(size, dtype=dtype), requires_grad=False)


Linear = Callable[[str, int, int], nn.Module]
"""Makes the linear layer of a name, with so many inputs and outputs."""


def tune_linear(setup: TrainSetup) -> Linear:
    if setup.lora is None:
        return lambda _name, inputs, outputs: nn.Linear(inputs, outputs, bias=False)
    rank, targets = setup.lora.r, setup.lora.target_modules
    quantised = setup.quantization is not None
    return lambda name, inputs, outputs: TuneLinear(
        inputs, outputs, rank if name in targets else 0, quantised
    )


class TuneAttention(nn.Module):
    def __init__(self, spec: Any, linear: Linear) -> None:
        super().__init__()
        self.heads, self.kv_heads = spec["num_attention_heads"], spec["num_key_value_heads"]
        width, head = spec["hidden_size"], spec["hidden_size"] // spec["num_attention_heads"]
        self.q_proj = linear("q_proj", width, self.heads * head)
        self.k_proj = linear("k_proj", width, self.kv_heads * head)
        self.v_proj = linear("v_proj", width, self.kv_heads * head)
        self.output_proj = linear("output_proj", self.heads * head, width)

    def forward(self, x: Tensor, cache: Tensor) -> Tensor:
        q, k, v = (
            proj(x).view(*x.shape[:2], heads, -1)
            for proj, heads in (
                (self.q_proj, self.heads),
                (self.k_proj, self.kv_heads),
                (self.v_proj, self.kv_heads),
            )
        )
        q, k = _interleaved(q, cache).transpose(1, 2), _interleaved(k, cache).transpose(1, 2)
        every = (-1, -1, self.heads // self.kv_heads, -1, -1)
        k, v = (t.unsqueeze(2).expand(every).flatten(1, 2) for t in (k, v.transpose(1, 2)))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output_proj(out.transpose(1, 2).contiguous().flatten(2))  # type: ignore[no-any-return]


def _interleaved(t: Tensor, cache: Tensor) -> Tensor:
    pairs = t.float().reshape(*t.shape[:-1], -1, 2)
    cos, sin = cache[..., 0], cache[..., 1]
    turned = (pairs[..., 0] * cos - pairs[..., 1] * sin, pairs[..., 1] * cos + pairs[..., 0] * sin)
    return torch.stack(turned, -1).flatten(3).type_as(t)


class TuneMLP(nn.Module):
    def __init__(self, spec: Any, linear: Linear) -> None:
        super().__init__()
        width, inner = spec["hidden_size"], spec["intermediate_size"]
        self.w1 = linear("w1", width, inner)
        self.w2 = linear("w2", inner, width)
        self.w3 = linear("w3", width, inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))  # type: ignore[no-any-return]


class TuneLayer(nn.Module):
    def __init__(self, spec: Any, linear: Linear) -> None:
        super().__init__()
        self.sa_norm, self.mlp_norm = QwenNorm(spec["hidden_size"]), QwenNorm(spec["hidden_size"])
        self.self_attn, self.mlp = TuneAttention(spec, linear), TuneMLP(spec, linear)

    def forward(self, x: Tensor, cache: Tensor) -> Tensor:
        h = self.self_attn(self.sa_norm(x), cache) + x
        return h + self.mlp(self.mlp_norm(h))  # type: ignore[no-any-return]


class TuneDecoder(nn.Module):
    def __init__(self, spec: Any, linear: Linear, checkpointing: bool) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(spec["vocab_size"], spec["hidden_size"])
        self.layers = nn.ModuleList(
            TuneLayer(spec, linear) for _ in range(spec["num_hidden_layers"])
        )
        self.norm = QwenNorm(spec["hidden_size"])
        self.half = spec["hidden_size"] // spec["num_attention_heads"] // 2
        self.checkpointing = checkpointing

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok_embeddings(ids)
        cache = torch.empty(1, ids.shape[1], 1, self.half, 2, device=ids.device)
        for layer in self.layers:
            x = (
                checkpoint(layer, x, cache, use_reentrant=False)
                if self.checkpointing
                else layer(x, cache)
            )
        return self.norm(x)  # type: ignore[no-any-return]


class Tune(nn.Module):
    """torchtune's Llama with tied embeddings
    (`modules/{attention,position_embeddings,transformer}.py`)."""

    def __init__(self, spec: Any, linear: Linear, checkpointing: bool) -> None:
        super().__init__()
        self.model = TuneDecoder(spec, linear, checkpointing)
        self.loss: Any = lambda logits, labels: F.cross_entropy(logits.float(), labels)

    def forward(self, input_ids: Tensor, labels: Tensor, **_rest: Any) -> Output:
        logits = F.linear(self.model(input_ids), self.model.tok_embeddings.weight)
        return Output(self.loss(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)))


def torchtune(workload: Workload) -> nn.Module:
    """In bfloat16 throughout; with adapters all else is frozen."""
    setup = workload.setup
    with torch.device("meta"):
        model: nn.Module = Tune(
            workload.model.published, tune_linear(setup), setup.checkpointing
        ).to(torch.bfloat16)
    if setup.lora is not None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
    return model.train()


class OldMixtralBlock(nn.Module):
    """Tokens are spread evenly over the experts: on tensors without data nobody knows better."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.chosen, self.count = config.num_experts_per_tok, config.num_local_experts
        self.gate = nn.Linear(config.hidden_size, self.count, bias=False)
        self.experts = nn.ModuleList(OldMixtralExpert(config) for _ in range(self.count))

    def forward(self, x: Tensor) -> Tensor:
        shape, flat = x.shape, x.view(-1, x.shape[-1])
        weights, _ = torch.topk(
            F.softmax(self.gate(flat), dim=1, dtype=torch.float), self.chosen, dim=-1
        )
        weights = (weights / weights.sum(dim=-1, keepdim=True)).to(x.dtype)
        out = torch.zeros(flat.shape, dtype=x.dtype, device=x.device)
        rows = flat.shape[0] * self.chosen // self.count
        for expert in self.experts:
            top = torch.empty(rows, dtype=torch.int64, device=x.device)
            place = torch.empty(rows, dtype=torch.int64, device=x.device)
            current = expert(flat[None, top].reshape(-1, flat.shape[1])) * weights[top, place, None]
            out.index_add_(0, top, current.to(x.dtype))
        return out.view(shape)


class OldMixtralExpert(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))  # type: ignore[no-any-return]


def old_mixtral(workload: Workload) -> nn.Module:
    return _finished(_old_mixtral(workload), workload)


def old_mixtral_kbit(workload: Workload) -> nn.Module:
    return norms_in_float32(_finished(_old_mixtral(workload), workload))


def _old_mixtral(workload: Workload) -> Any:
    model: Any = base_model(workload.model, workload.setup, device="meta")
    with torch.device("meta"):
        for layer in model.model.layers:
            layer.mlp = OldMixtralBlock(model.config).to(torch.bfloat16)
    return model


def _finished(model: Any, workload: Workload) -> nn.Module:
    setup = workload.setup
    assert setup.quantization is not None
    quantise(model, setup.quantization, setup.dtype)
    with torch.device("meta"):
        model = inject_adapters(model, setup)
    enable_checkpointing(model, setup)
    return model.train()  # type: ignore[no-any-return]


def kbit(workload: Workload) -> nn.Module:
    """k-bit preparation as TRL ran it: norms in float32, embeddings and head as they were."""
    return norms_in_float32(build_model(workload, device="meta"))


def norms_in_float32(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and "norm" in name:
            parameter.data = parameter.data.float()
    return model
