"""A model turned into a 4-bit or 8-bit base of bitsandbytes where it stands, and PEFT's k-bit
preparation.

transformers quantises while it loads a checkpoint. Random weights have none, so the same parts of
transformers are called on a model that is already there: its quantiser says which modules change,
and its load operation makes each packed weight. Source: transformers
`quantizers/quantizer_bnb_4bit.py`, `integrations/bitsandbytes.py`; PEFT `utils/other.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lora_profiler.question.support.bases import BACK_IN_16_BIT
from lora_profiler.question.workload import Quantization
from lora_profiler.trace.modeling.deferred import DeferredWeights
from lora_profiler.trace.modeling.third_party import refusals


def base_config(
    quantization: Quantization,
    dtype: str,
    *,
    sharded: bool = False,
    in_16_bit: Sequence[str] | None = None,
) -> Any:
    """The `BitsAndBytesConfig` of a base that computes in `dtype` and leaves modules `in_16_bit`,
    those that transformers leaves by itself where it is None.

    One that FSDP shards is stored in that dtype too, four or eight codes to an element, as
    bitsandbytes and PEFT ask for it.
    """
    from transformers import BitsAndBytesConfig

    if quantization.quant_type == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    storage = {"bnb_4bit_quant_storage": getattr(torch, dtype)} if sharded else {}
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quantization.double_quant,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=None if in_16_bit is None else list(in_16_bit),
        **storage,
    )


def quantise(
    model: Any,
    quantization: Quantization,
    dtype: str,
    deferred: DeferredWeights | None = None,
    *,
    sharded: bool = False,
    in_16_bit: Sequence[str] | None = None,
) -> None:
    """Replace in place each linear module that transformers would load quantised, but for those
    `in_16_bit`; nothing where it already did.

    One 16-bit weight at a time lives beside its packed form and is freed before the next one; those
    that wait in `deferred` are filled only then. What stays in 16 bit is filled as well.
    """
    if quantization.quantize_experts:
        _pack_experts(model, quantization, deferred)
    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        return
    from transformers.quantizers.auto import AutoHfQuantizer

    quantizer = AutoHfQuantizer.from_config(
        base_config(quantization, dtype, sharded=sharded, in_16_bit=in_16_bit), pre_quantized=False
    )
    plain = dict(model.named_modules())
    with refusals("transformers cannot quantise this model"):
        quantizer.validate_environment(device_map=None)
        quantizer.preprocess_model(model=model, dtype=getattr(torch, dtype), device_map=None)
    replaced = {
        name: plain[name] for name, module in model.named_modules() if module is not plain[name]
    }
    plain.clear()
    operation = quantizer.get_quantize_ops()
    while replaced:
        name, old = replaced.popitem()
        if deferred is not None:
            deferred.fill(old.weight)
        _pack(model, name, old, operation)
    if deferred is not None:
        for parameter in model.parameters():
            deferred.fill(parameter)
    model.hf_quantizer = quantizer
    quantizer.postprocess_model(model)


def _pack(model: nn.Module, name: str, old: nn.Module, operation: Any) -> None:
    """Give the new module `name`, so far without data, the packed weight and the bias of the one it
    replaces."""
    new, weight = model.get_submodule(name), f"{name}.weight"
    if old.weight.device.type == "meta" and hasattr(new, "state"):
        new.weight, new.bias = _int8_without_data(new), old.bias
        return
    packed = operation.convert({weight: old.weight.data}, model=model, full_layer_name=weight)
    new.weight = packed[weight]
    new.bias = old.bias
    if new.weight.device.type == "meta":
        _pack_without_data(new.weight)


def _pack_experts(
    model: nn.Module, quantization: Quantization, deferred: DeferredWeights | None
) -> None:
    """What axolotl does to each expert parameter as it is loaded: 067b021
    `monkeypatch/moe_quant.py`."""
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    if any(parameter.is_meta for parameter in model.parameters()) and deferred is None:
        _keep_code_book()
    for name, module in list(model.named_modules()):
        for own, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim >= 3 and "expert" in f"{name}.{own}".lower():
                if deferred is not None:
                    deferred.fill(parameter)
                replace_parameter_4bit(
                    module, own, compress_statistics=quantization.double_quant, quant_type="nf4"
                )


def _int8_without_data(layer: Any) -> Any:
    """The layout of `Int8Params._quantize`, which the meta device is kept from."""
    from bitsandbytes.nn import Int8Params  # type: ignore[attr-defined]  # re-exported

    rows, columns = layer.out_features, layer.in_features
    codes = torch.empty(rows, columns, dtype=torch.int8, device="meta")
    scales = torch.empty(rows, dtype=torch.float32, device="meta")
    return Int8Params(codes, requires_grad=False, CB=codes, SCB=scales)


def _pack_without_data(weight: Any) -> None:
    """bitsandbytes packs nothing on the way to the meta device; its packing itself gives the layout
    there too."""
    _keep_code_book()
    weight._quantize(weight.device)


def _keep_code_book() -> None:
    """bitsandbytes keeps a code book from the first packing for all later ones: that one is not to
    be without data."""
    from bitsandbytes import functional

    functional.name2qmap.setdefault("dynamic", functional.create_dynamic_map())  # type: ignore[no-untyped-call]


def prepare_for_training(model: nn.Module, quantization: Quantization, checkpointing: bool) -> None:
    """What the recipe does to a 4-bit base before adapters come: "kbit" casts everything left in 16
    bit to float32, "kbit-norms" embeddings and head back to bfloat16 (TRL 0.14 `trainer/utils.py`,
    peft_module_casting_to_bf16)."""
    if quantization.recipe not in ("kbit", "kbit-norms"):
        return
    from peft import prepare_model_for_kbit_training

    prepare_model_for_kbit_training(  # type: ignore[no-untyped-call]
        model,
        use_gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
    if quantization.recipe == "kbit-norms":
        for name, module in model.named_modules():
            if name.rpartition(".")[2] in BACK_IN_16_BIT:
                module.to(torch.bfloat16)
