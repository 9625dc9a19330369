"""A question as a short script: transformers' Trainer, with PEFT's adapters."""

from typing import Any

from lora_profiler.question.workload import TrainSetup, Workload
from lora_profiler.trainer_files.script_text import ROWS, Code, assigned, called, run_arguments
from lora_profiler.trainer_files.writing import (
    ATTENTION,
    Launch,
    by_accelerate,
    cannot,
    is_bf16,
    is_int8,
    optim_key,
    short,
)


def script(workload: Workload) -> str:
    """The script's text. Its data are rows of random tokens, each as long as was asked, in place of
    one's own. Raises UsageError for options that no such script says."""
    setup = workload.setup
    lora, base = setup.lora, setup.quantization
    _check(setup)
    peft = [
        *(["LoraConfig", "get_peft_model"] if lora else []),
        *(["prepare_model_for_kbit_training"] if base and base.recipe == "kbit" else []),
    ]
    classes = [
        "AutoModelForCausalLM",
        *(["BitsAndBytesConfig"] if base else []),
        "Trainer",
        "TrainingArguments",
    ]
    lines = [
        "import torch",
        *([f"from peft import {', '.join(peft)}"] if peft else []),
        f"from transformers import {', '.join(classes)}",
        "",
        f"MAX_LENGTH = {setup.seq_len}",
        "",
        *assigned("model", "AutoModelForCausalLM.from_pretrained", _loading(workload)),
    ]
    if base is not None and base.recipe == "kbit":
        prepared = {
            "": Code("model"),
            "use_gradient_checkpointing": setup.checkpointing,
            "gradient_checkpointing_kwargs": {"use_reentrant": setup.use_reentrant},
        }
        lines += assigned("model", "prepare_model_for_kbit_training", prepared)
    if lora is not None:
        lines += assigned("adapter", "LoraConfig", _adapter(setup))
        narrow = ", autocast_adapter_dtype=False" if lora.adapter_dtype != "float32" else ""
        lines.append(f"model = get_peft_model(model, adapter{narrow})")
        if setup.is_reentrant:
            lines.append("model.enable_input_require_grads()")
    rows = setup.batch_size * setup.accumulation
    lines += [
        *assigned("arguments", "TrainingArguments", _training_arguments(setup)),
        "",
        "",
        *ROWS,
        *assigned("trainer", "Trainer", _trainer(setup, 4 * rows)),
        "trainer.train()",
    ]
    return "\n".join(lines) + "\n"


def _check(setup: TrainSetup) -> None:
    """What reading the script back would not notice."""
    if setup.packed is not None:
        raise cannot("PEFT", "packed", setup.packed)
    if setup.padding:
        raise cannot("PEFT", "padding", setup.padding)


def _loading(workload: Workload) -> dict[str, Any]:
    setup, base = workload.setup, workload.setup.quantization
    arguments: dict[str, Any] = {
        "": workload.model.id,
        "dtype": Code(f"torch.{setup.dtype}"),
        "attn_implementation": ATTENTION.get(setup.attention),
    }
    if arguments["attn_implementation"] is None:
        raise cannot("PEFT", "attention", setup.attention)
    if base is None:
        return arguments
    quantized: dict[str, Any] = {"load_in_8bit": True}
    if not is_int8(base):
        quantized = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": base.quant_type,
            "bnb_4bit_use_double_quant": base.double_quant,
            "bnb_4bit_compute_dtype": Code(f"torch.{setup.dtype}"),
        }
    config = called("BitsAndBytesConfig", quantized, indent=4)
    return arguments | {"quantization_config": Code(config), "device_map": {"": 0}}


def _adapter(setup: TrainSetup) -> dict[str, Any]:
    lora = setup.lora
    assert lora is not None
    names = lora.target_modules
    return {
        "task_type": "CAUSAL_LM",
        "r": lora.r,
        "lora_alpha": short(lora.alpha),
        "lora_dropout": lora.lora_dropout,
        "target_modules": list(names) if isinstance(names, tuple) else names,
        "target_parameters": list(lora.target_parameters) or None,
        "layers_to_transform": list(lora.layers_to_transform) or None,
        "modules_to_save": list(lora.modules_to_save) or None,
        "use_rslora": lora.use_rslora or None,
        "use_dora": lora.use_dora or None,
    }


def _training_arguments(setup: TrainSetup) -> dict[str, Any]:
    return {
        "output_dir": "outputs",
        "per_device_train_batch_size": setup.batch_size,
        "gradient_accumulation_steps": setup.accumulation,
        "gradient_checkpointing": setup.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": setup.use_reentrant},
        "bf16": is_bf16(setup),
        "fp16": setup.precision == "amp-float16" or None,
        "optim": optim_key(setup),
        "use_liger_kernel": setup.kernels == "liger" or None,
        "label_smoothing_factor": setup.label_smoothing_factor or None,
        **run_arguments(setup),
        "use_cpu": setup.device == "cpu" or None,
    }


def _trainer(setup: TrainSetup, rows: int) -> dict[str, Any]:
    arguments = {
        "model": Code("model"),
        "args": Code("arguments"),
        "train_dataset": Code(f"rows({rows})"),
    }
    if setup.eval_batch_size is not None:
        arguments["eval_dataset"] = Code(f"rows({2 * setup.eval_batch_size})")
    return arguments


def launch(setup: TrainSetup, file: str) -> Launch:
    if not setup.is_shared:
        return Launch({}, {}, {}, f"python {file}")
    return by_accelerate(setup, file, f"accelerate launch --config_file {{}} {file}")
