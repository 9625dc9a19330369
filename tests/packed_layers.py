"""Stand-ins for layers of bases that need a card: what PEFT wraps and autograd sees of them, on a
CPU. `tests/data/packed_layers.json` holds what the packages' own layers do
(`benchmarks/truth/packed_layers.py`)."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from peft import import_utils
from peft.tuners.lora import awq as peft_awq
from peft.tuners.lora import gptq as peft_gptq
from peft.tuners.lora import model as peft_model
from peft.utils import other as peft_layers
from torch import nn
from transformers.integrations import finegrained_fp8

from lora_profiler.question.workload import Workload
from lora_profiler.trace.modeling.adapters import enable_checkpointing, inject_adapters
from lora_profiler.trace.modeling.build import base_model


class GptqLinear(nn.Module):
    """GPTQModel's TorchLinear: the weight in the dtype of its scales, (in, out), then in the
    input's, and torch's own product."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("qweight", linear.weight.detach().t().to(torch.int8).contiguous())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().half())

    def dequantised(self) -> torch.Tensor:
        return self.qweight.to(torch.float16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        out = torch.matmul(rows, self.dequantised().to(x.dtype))
        out = out.reshape(*x.shape[:-1], self.out_features)
        if self.bias is not None:
            out.add_(self.bias.to(out.dtype))
        return out


class _AwqProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: "AwqLinear") -> torch.Tensor:
        ctx.save_for_backward(layer.qweight)
        return torch.matmul(x, layer.qweight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        (qweight,) = ctx.saved_tensors
        return torch.matmul(grad, qweight.to(grad.dtype).t()), None


class AwqLinear(GptqLinear):
    """GPTQModel's AwqGEMMLinear: a function that keeps the packed tensors alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _AwqProduct.apply(x, self)


class HQQLinear(nn.Module):
    """hqq's, by whose name PEFT takes its sizes: packed rows, zeros and scales of groups of 64. Its
    bias is a plain tensor there."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, groups = linear.weight.detach(), linear.weight.numel() // 64
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed = torch.zeros(groups // 2, 64, dtype=torch.uint8)
        self.W_q = nn.Parameter(packed, requires_grad=False)
        self.meta = {n: torch.ones(groups, 1, dtype=weight.dtype) for n in ("zero", "scale")}
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def dequantize(self) -> torch.Tensor:
        zero, scale = self.meta["zero"], self.meta["scale"]
        unpacked = torch.empty(zero.shape[0], 64, dtype=scale.dtype)
        unpacked[::2], unpacked[1::2] = self.W_q >> 4, self.W_q & 15
        return ((unpacked - zero) * scale).reshape(self.out_features, self.in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _HqqProduct.apply(x, self, self.bias)


class _HqqProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: HQQLinear, bias: Any) -> torch.Tensor:
        ctx.save_for_backward(x, bias)
        ctx.layer = layer
        weight = layer.dequantize()
        out = torch.matmul(x, weight.t())
        return out if bias is None else out.add_(bias)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        weight = ctx.layer.dequantize()
        return torch.matmul(grad, weight), None, None


def fp8_product(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    block_size: Any = None,
    bias: torch.Tensor | None = None,
    *rest: Any,
) -> torch.Tensor:
    """In place of transformers' kernels for FP8: the same outcome without scales."""
    return nn.functional.linear(x, weight.to(x.dtype), bias)


def adapted(workload: Workload) -> Any:
    """The model of a workload over a packed base, with PEFT's own adapters, on a CPU."""
    setup = workload.setup
    assert setup.quantization is not None
    kind = setup.quantization.quant_type
    torch.manual_seed(0)
    model: Any = base_model(workload.model, setup, None, "cpu", None)
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != workload.model.output_embedding
    ]
    for name in names:
        model.set_submodule(name, _packed(kind, model.get_submodule(name)))
    model.requires_grad_(False)
    with _as_hqq() if kind == "hqq" else _as_gptqmodel(kind):
        model = inject_adapters(model, setup)
    if setup.checkpointing:
        enable_checkpointing(model, setup)
    return model.train()


def _packed(kind: str, linear: nn.Linear) -> nn.Module:
    if kind != "fp8":
        kinds = {"gptq": GptqLinear, "awq": AwqLinear, "hqq": HQQLinear}
        return kinds[kind](linear)
    layer = finegrained_fp8.FP8Linear(
        linear.in_features, linear.out_features, (128, 128), has_bias=linear.bias is not None
    )
    layer.weight.data = linear.weight.detach().to(torch.float8_e4m3fn)
    layer.weight_scale_inv.data.fill_(1.0)
    if linear.bias is not None:
        layer.bias.data = linear.bias.detach()
    return layer


@contextmanager
def _as_gptqmodel(kind: str) -> Iterator[None]:
    """Inside, PEFT takes the stand-ins for layers of GPTQModel."""
    qlinear: Any = ModuleType("gptqmodel.nn_modules.qlinear")
    qlinear.BaseQuantLinear = GptqLinear
    here = {name: qlinear for name in ("gptqmodel", "gptqmodel.nn_modules", qlinear.__name__)}
    with (
        mock.patch.dict(sys.modules, here),
        mock.patch.object(peft_layers, "is_gptqmodel_available", lambda: kind != "fp8"),
        mock.patch.object(peft_gptq, "is_gptqmodel_available", lambda: kind == "gptq"),
        mock.patch.object(peft_awq, "is_gptqmodel_available", lambda: kind == "awq"),
        mock.patch.object(peft_awq, "is_gptqmodel_awq_layer", lambda layer: kind == "awq"),
    ):
        yield


@contextmanager
def _as_hqq() -> Iterator[None]:
    """Inside, PEFT takes the stand-ins for layers of hqq: of its module, which has none without the
    package, a copy that has."""
    quantize: Any = ModuleType("hqq.core.quantize")
    quantize.HQQLinear = HQQLinear
    here = {name: quantize for name in ("hqq", "hqq.core", quantize.__name__)}
    with (
        mock.patch.dict(sys.modules, here),
        mock.patch.object(import_utils, "is_hqq_available", lambda: True),
    ):
        spec = importlib.util.find_spec("peft.tuners.lora.hqq")
        assert spec is not None and spec.loader is not None
        copy = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(copy)
        with mock.patch.object(peft_model, "dispatch_hqq", copy.dispatch_hqq):
            yield
