"""Linear layers of quantisation-aware training, as torchao makes them."""

from typing import Any

import torch

from lora_profiler.modeling.third_party import refusals, require
from lora_profiler.support.fake_quantizing import is_of_adapted_layers
from lora_profiler.workload import TrainSetup


def with_fake_quantizers(model: torch.nn.Module, setup: TrainSetup) -> torch.nn.Module:
    """`model` with every linear layer, the head among them, in place of which torchao puts one that
    rounds its weight, and its input, in each forward pass.

    8da4w as torchtune calls it (recipes/qat_single_device.py), with the model's dtype for
    `precision`, which beside adapters replaces the layers that they are on, and no other
    (training/quantization.py, swap_lora_linear_with_qat); others as axolotl does
    (utils/quantization.py, prepare_model_for_qat).
    """
    require("torchao", "torchao", "Quantisation-aware training")
    if is_of_adapted_layers(setup):
        return _with_adapted_layers(model, setup)
    plain = {name: m for name, m in model.named_modules() if type(m) is torch.nn.Linear}
    with refusals("torchao refuses to fake-quantise this model"):
        model = _prepared(model, setup)
    for name, layer in plain.items():  # on the meta device torchao makes new weights, tied to none
        made = model.get_submodule(name)
        made.weight, made.bias = layer.weight, layer.bias
    return model


def _with_adapted_layers(model: torch.nn.Module, setup: TrainSetup) -> torch.nn.Module:
    from torchao.quantization.qat.linear import FakeQuantizedLinear

    quantizer = _quantizer(setup)
    formats = (
        quantizer.get_activation_fake_quantize_config(),
        quantizer.get_weight_fake_quantize_config(),
    )
    for module in list(model.modules()):
        layer: Any = getattr(module, "base_layer", None)
        if type(layer) is torch.nn.Linear:
            made: Any = FakeQuantizedLinear.from_linear(layer, *formats)
            made.weight, made.bias = layer.weight, layer.bias
            module.base_layer = made
    return model


def _quantizer(setup: TrainSetup) -> Any:
    from torchao.quantization.qat import Int8DynActInt4WeightQATQuantizer

    return Int8DynActInt4WeightQATQuantizer(
        groupsize=setup.qat_group_size, precision=getattr(torch, setup.dtype)
    )


def _prepared(model: Any, setup: TrainSetup) -> Any:
    from torchao.quantization import quantize_
    from torchao.quantization.qat import QATConfig

    if setup.qat == "8da4w":
        return _quantizer(setup).prepare(model)
    quantize_(model, QATConfig(_config(setup), step="prepare"))
    return model


def _config(setup: TrainSetup) -> Any:
    """torchao's configuration of what the trained model is quantised to."""
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Float8DynamicActivationInt4WeightConfig,
        Int4WeightOnlyConfig,
        Int8DynamicActivationIntxWeightConfig,
        PerGroup,
    )

    match setup.qat:
        case "int4":
            return Int4WeightOnlyConfig(group_size=setup.qat_group_size)
        case "int8-int4":
            groups = PerGroup(setup.qat_group_size)
            return Int8DynamicActivationIntxWeightConfig(
                weight_dtype=torch.int4, weight_granularity=groups
            )
        case "fp8-int4":
            return Float8DynamicActivationInt4WeightConfig()
    return Float8DynamicActivationFloat8WeightConfig()
