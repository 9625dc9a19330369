"""Adapters as PEFT injects them, and activation checkpointing as transformers does it."""

import re
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from lora_profiler.question.adapter_method import adapter_method
from lora_profiler.question.support.images import part_of
from lora_profiler.question.workload import TrainSetup


def inject_adapters(model: torch.nn.Module, setup: TrainSetup) -> Any:
    """`model` wrapped by PEFT, adapters in the dtype of the setup; the recipe "trl" has bfloat16
    ones.

    PEFT makes them float32 on a 16-bit base unless `autocast_adapter_dtype` is off. What
    `modules_to_save` copies stays in the base's dtype. VeRA's frozen matrices are in the dtype of
    its vectors, without which its products would not run. Raises what PEFT raises.
    """
    import peft

    lora = setup.lora
    assert lora is not None
    trl = setup.quantization is not None and setup.quantization.recipe == "trl"
    dtype = torch.bfloat16 if trl else getattr(torch, lora.adapter_dtype)
    adapted = peft.get_peft_model(
        model, adapter_config(model, setup), autocast_adapter_dtype=dtype == torch.float32
    )
    prefix: str = adapted.base_model.prefix
    for name, parameter in list(adapted.named_parameters()):
        if prefix in name and isinstance(parameter, DTensor):  # whose own dtype `data` leaves alone
            owner, _, local = name.rpartition(".")
            setattr(adapted.get_submodule(owner), local, torch.nn.Parameter(parameter.to(dtype)))
        elif prefix in name:
            parameter.data = parameter.data.to(dtype)
    for name in ("vera_A", "vera_B"):
        matrices = getattr(adapted.base_model, name, None)
        if matrices is not None:
            matrices["default"] = matrices["default"].to(dtype)
    return adapted


def adapter_config(model: Any, setup: TrainSetup) -> Any:
    """PEFT's config of the method that the setup's `lora` asks for. Raises what PEFT raises."""
    import peft

    lora = setup.lora
    assert lora is not None
    common: dict[str, Any] = {
        "task_type": _task_type(model),
        "target_modules": (
            list(lora.target_modules)
            if isinstance(lora.target_modules, tuple)
            else lora.target_modules
        ),
        "modules_to_save": list(lora.modules_to_save) or None,
    }
    others = lora.peft_arguments
    if setup.freeze:
        common["exclude_modules"] = _left_out(model, setup, others.pop("exclude_modules", None))
    method = adapter_method(lora.peft_type)
    values = {
        "r": lora.r,
        "lora_alpha": lora.alpha if lora.peft_type == "lora" else lora.lora_alpha,
        "lora_dropout": lora.lora_dropout,
        "use_rslora": lora.use_rslora,
        "use_dora": lora.use_dora,
        "layers_to_transform": list(lora.layers_to_transform) or None,
        "target_parameters": list(lora.target_parameters) or None,
        "feedforward_modules": list(lora.feedforward_modules) or None,
        "oft_block_size": lora.oft_block_size,
    }
    own = {argument: values[name] for name, argument in method.spelled.items()}
    if own.get("alpha", 0) is None:  # PEFT's default
        del own["alpha"]
    return getattr(peft, method.config)(**common, **own, **others)


def _left_out(model: Any, setup: TrainSetup, excluded: Any) -> list[str]:
    """Modules of the frozen parts, and those that `exclude_modules` names or matches in full."""
    names = [name for name, _ in model.named_modules()]
    inside = [name for name in names if part_of(name) in setup.freeze]
    if isinstance(excluded, str):
        return inside + [name for name in names if re.fullmatch(excluded, name)]
    return [*inside, *(excluded or ())]


def freeze(model: torch.nn.Module, setup: TrainSetup) -> None:
    """Weights of the parts that the setup freezes train no more."""
    for name, parameter in model.named_parameters():
        if part_of(name) in setup.freeze:
            parameter.requires_grad_(False)


def _task_type(model: Any) -> str | None:
    """PEFT's wrapper: one that generates for models that read and write text, else the plain one,
    as PEFT's guide to Whisper has it."""
    writes = hasattr(model, "prepare_inputs_for_generation")
    if not writes or model.main_input_name != "input_ids":
        return None
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


def enable_checkpointing(model: Any, setup: TrainSetup) -> None:
    """One segment a layer. The name is the one that every supported transformers has; 5.24
    deprecates it. The reentrant kind trains nothing unless an input requires a gradient, which the
    embedding's output is made to by PEFT and by older Trainers."""
    reentrant = setup.use_reentrant
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    if reentrant and setup.lora is not None:
        model.enable_input_require_grads()
