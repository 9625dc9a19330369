"""LoRA adapters as PEFT injects them, and activation checkpointing as transformers does it."""

from typing import Any

import torch

from lora_profiler.workload import TrainSetup


def inject_adapters(model: torch.nn.Module, setup: TrainSetup) -> Any:
    """`model` wrapped by PEFT, adapters in the dtype of the setup; the recipe "trl" has bfloat16
    ones.

    PEFT makes them float32 on a 16-bit base unless `autocast_adapter_dtype` is off. What
    `modules_to_save` copies stays in the base's dtype. Raises what PEFT raises.
    """
    import peft

    assert setup.lora is not None
    trl = setup.quantization is not None and setup.quantization.recipe == "trl"
    dtype = torch.bfloat16 if trl else getattr(torch, setup.lora.adapter_dtype)
    config = adapter_config(model, setup)
    adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=dtype == torch.float32)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
    return adapted


def adapter_config(model: Any, setup: TrainSetup) -> Any:
    """PEFT's `LoraConfig` of a setup with adapters. Raises what PEFT raises."""
    import peft

    lora = setup.lora
    assert lora is not None
    targets = (
        list(lora.target_modules) if isinstance(lora.target_modules, tuple) else lora.target_modules
    )
    return peft.LoraConfig(
        task_type=_task_type(model),
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT declares an int and takes any number
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        layers_to_transform=list(lora.layers_to_transform) or None,
        modules_to_save=list(lora.modules_to_save) or None,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
    )


def _task_type(model: Any) -> str | None:
    """PEFT's wrapper: one that generates for models that do, else the plain one."""
    if not hasattr(model, "prepare_inputs_for_generation"):
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
