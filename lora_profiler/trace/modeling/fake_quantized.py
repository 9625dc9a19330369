"""Linear layers of quantisation-aware training, as torchao makes them."""

from importlib import import_module
from typing import Any

import torch

from lora_profiler.question.support.fake_quantizing import is_of_adapted_layers
from lora_profiler.question.workload import TrainSetup
from lora_profiler.trace.modeling.contents import output_head
from lora_profiler.trace.modeling.third_party import refusals, require


def with_fake_quantizers(model: Any, setup: TrainSetup) -> Any:
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
    head, embedding = output_head(model), model.get_input_embeddings()
    is_tied = head is not None and head.weight is embedding.weight
    with refusals("torchao refuses to fake-quantise this model"):
        model = _prepared(model, setup)
    for name, layer in plain.items():  # on the meta device torchao makes new weights, tied to none
        made = model.get_submodule(name)
        made.weight, made.bias = layer.weight, layer.bias
    if setup.qat == "8da4w" and is_tied:  # no linear layer in torchtune (modules/tied_linear.py)
        model.set_output_embeddings(head)
    return model


def _with_adapted_layers(model: torch.nn.Module, setup: TrainSetup) -> torch.nn.Module:
    kind = import_module("torchao.quantization.qat").FakeQuantizedLinear
    quantizer = _quantizer(setup)
    formats = (
        quantizer.get_activation_fake_quantize_config(),
        quantizer.get_weight_fake_quantize_config(),
    )
    for module in list(model.modules()):
        layer: Any = getattr(module, "base_layer", None)
        if type(layer) is torch.nn.Linear:
            made: Any = kind.from_linear(layer, *formats)
            made.weight, made.bias = layer.weight, layer.bias
            module.base_layer = made
    return model


def _quantizer(setup: TrainSetup) -> Any:
    qat = import_module("torchao.quantization.qat")
    return qat.Int8DynActInt4WeightQATQuantizer(
        groupsize=setup.qat_group_size, precision=getattr(torch, setup.dtype)
    )


def _prepared(model: Any, setup: TrainSetup) -> Any:
    if setup.qat == "8da4w":
        return _quantizer(setup).prepare(model)
    quantization = import_module("torchao.quantization")
    qat = import_module("torchao.quantization.qat")
    trained_for = _config(quantization, setup)
    quantization.quantize_(model, qat.QATConfig(trained_for, step="prepare"))
    return model


def _config(quantization: Any, setup: TrainSetup) -> Any:
    """torchao's configuration of what the trained model is quantised to."""
    match setup.qat:
        case "int4":
            return quantization.Int4WeightOnlyConfig(group_size=setup.qat_group_size)
        case "int8-int4":
            return quantization.Int8DynamicActivationIntxWeightConfig(
                weight_dtype=getattr(torch, "int4"),  # noqa: B009  # its stubs have none
                weight_granularity=quantization.PerGroup(setup.qat_group_size),
            )
        case "fp8-int4":
            return quantization.Float8DynamicActivationInt4WeightConfig()
    return quantization.Float8DynamicActivationFloat8WeightConfig()
