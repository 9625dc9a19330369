"""What layers of GPTQModel and hqq hold and keep, recorded with the packages themselves.

    PYTHONPATH=PACKAGE python -m benchmarks.truth.packed_layers gptqmodel|hqq

writes those rows of `tests/data/packed_layers.json` anew: for each kind, width and group the bytes
of a layer's tensors, and what autograd keeps of its product in training; of hqq, whose weight comes
back in steps, also the most that this takes.
"""

import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from benchmarks.pages import write_lines

FILE = Path(__file__).parents[2] / "tests" / "data" / "packed_layers.json"
SHAPES = ((512, 256), (896, 128), (160, 64), (64, 160))
GROUPS = (128, 64, 32, -1)


def most_allocated(run: Callable[[], object]) -> int:
    """Bytes on a CPU, beside what was there."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def _of_hqq() -> Iterator[dict[str, Any]]:
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    for (inputs, outputs), group, bias in product(SHAPES, GROUPS[:-1], (False, True)):
        linear = torch.nn.Linear(inputs, outputs, bias=bias)
        config = BaseQuantizeConfig(nbits=4, group_size=group, axis=1)
        layer = HQQLinear(linear, config, compute_dtype=torch.float16, device="cpu")
        packed = {"qweight": layer.W_q.data, "zero": layer.meta["zero"]}
        packed |= {"scale": layer.meta["scale"]} | ({"bias": layer.bias} if bias else {})
        yield _row("hqq", 4, group, layer, packed) | {
            "most_bytes": most_allocated(layer.dequantize)
        }


def _of_gptqmodel() -> Iterator[dict[str, Any]]:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    for (inputs, outputs), group, bits, bias in product(
        SHAPES, GROUPS, (2, 3, 4, 8), (False, True)
    ):
        layer = TorchLinear(
            bits=bits,
            group_size=group,
            sym=True,
            desc_act=False,
            in_features=inputs,
            out_features=outputs,
            bias=bias,
        )
        layer.optimized = True  # compiled it allocates less and keeps the same
        layer.post_init()
        yield _row("gptq", bits, group, layer, dict(layer.named_buffers()))
    for (inputs, outputs), group, bias in product(SHAPES, GROUPS, (False, True)):
        if inputs % group == 0:
            layer = _awq_layer(inputs, outputs, group, bias)
            yield _row("awq", 4, group, layer, dict(layer.named_buffers()))


def _awq_layer(inputs: int, outputs: int, group: int, bias: bool) -> Any:
    """The layer for any device, whose buffers are the card's, with the card's function: its kernels
    replaced by the package's own unpacking in torch."""
    from gptqmodel.nn_modules.qlinear import gemm_awq
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    def unpacked(qweight: Any, scales: Any, qzeros: Any, *rest: Any) -> Any:
        return dequantize_gemm(qweight, qzeros, scales, 4, layer.group_size)

    def multiplied(x: Any, qweight: Any, scales: Any, qzeros: Any, *rest: Any, **more: Any) -> Any:
        return torch.matmul(x, unpacked(qweight, scales, qzeros))

    def forward(x: Any) -> Any:
        packed = (layer.qweight, layer.qzeros, layer.scales)
        return gemm_awq.AwqGemmFn.apply(x, *packed, 4, layer.group_size, layer.bias, outputs)

    gemm_awq.awq_dequantize_weights = unpacked
    gemm_awq._awq_cuda_gemm_forward = multiplied
    layer = AwqTorchLinear(
        bits=4,
        group_size=group,
        sym=False,
        desc_act=False,
        in_features=inputs,
        out_features=outputs,
        bias=bias,
        register_buffers=True,
    )
    layer.post_init()
    layer.forward = forward
    return layer


def _row(
    kind: str, bits: int, group: int, layer: Any, tensors: dict[str, torch.Tensor]
) -> dict[str, Any]:
    layer.train()
    own = {t.untyped_storage().data_ptr() for t in tensors.values()}
    kept: list[Any] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept.append([str(tensor.dtype).removeprefix("torch."), list(tensor.shape)])
        return tensor

    x = torch.randn(2, 8, layer.in_features, dtype=torch.float16, requires_grad=True)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    sizes = {name: t.nbytes for name, t in tensors.items()}
    return {
        "kind": kind,
        "bits": bits,
        "group_size": group,
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias_bytes": sizes.pop("bias", 0),
        "weight_bytes": sizes.pop("qweight"),
        "constant_bytes": sum(sizes.values()),
        "kept": kept,
    }


if __name__ == "__main__":
    package = sys.argv[1]
    made = list({"gptqmodel": _of_gptqmodel, "hqq": _of_hqq}[package]())
    recorded = json.loads(FILE.read_text("utf-8"))
    kinds = {row["kind"] for row in made}
    kept = [row for row in recorded.pop("rows") if row["kind"] not in kinds]
    recorded |= {package: version(package), "torch": torch.__version__}
    write_lines(FILE, recorded, (*kept, *made))
