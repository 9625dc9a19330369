"""transformers' TrainingArguments (5.24), which TRL, LLaMA-Factory and Unsloth's notebooks take."""

from typing import Any

from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.frameworks import ranks, shared
from lora_profiler.trainer_files.meaning import (
    NOTHING,
    Meaning,
    Reader,
    costs_nothing,
    free,
    is_off,
    is_on,
    missing,
    number,
    sets,
    size,
)


def evaluates(document: Document) -> bool:
    """Whether the trainer evaluates while it trains."""
    strategy = document.get("eval_strategy", document.get("evaluation_strategy"))
    if strategy is None:
        return is_on(document.get("do_eval")) or is_on(document.get("eval_on_start"))
    return str(strategy).lower() not in ("no", "false") or is_on(document.get("eval_on_start"))


def _evaluation(value: Any, document: Document) -> Meaning:
    is_first = document.get("eval_strategy", document.get("evaluation_strategy", value)) == value
    if is_off(value) or not is_first or not evaluates(document):
        return NOTHING
    return evaluated(document)


def evaluated(document: Document) -> Meaning:
    """In batches of 8 unless told otherwise."""
    return shared.evaluation(size(document.get("per_device_eval_batch_size", 8)))


def _liger(value: Any, document: Document) -> Meaning:
    return Meaning({"kernels": "liger", "loss": "fused"}) if is_on(value) else NOTHING


CHECKPOINTING: dict[str, Reader] = {
    f"{kind}_checkpointing{key}": reader
    for kind in ("gradient", "activation")  # the second from transformers 5.24 on
    for key, reader in (
        ("", shared.checkpointing),
        ("_kwargs", shared.checkpointing_kwargs),
        ("_kwargs.use_reentrant", shared.reentrant),
        ("_kwargs.selective", shared.selective),
    )
}
TRAINING_ARGUMENTS: dict[str, Reader] = {
    "per_device_train_batch_size": sets("batch_size", size),
    "gradient_accumulation_steps": sets("accumulation", size),
    "optim": shared.optimizer,
    "optim_args": shared.optimizer_arguments,
    "bf16": shared.autocast,
    "fp16": shared.autocast_float16,
    **CHECKPOINTING,
    "use_liger_kernel": _liger,
    "label_smoothing_factor": sets("label_smoothing_factor", number),
    "eval_strategy": _evaluation,
    "evaluation_strategy": _evaluation,
    "do_eval": _evaluation,
    "eval_on_start": _evaluation,
    "per_device_eval_batch_size": costs_nothing,
    "eval_accumulation_steps": costs_nothing,
    "prediction_loss_only": costs_nothing,
    "bf16_full_eval": missing("the model cast for evaluation", "either way"),
    "fp16_full_eval": missing("the model cast for evaluation", "either way"),
    "fsdp": ranks.fsdp_switch(2),
    "fsdp_config": ranks.fsdp_settings(2),
    **ranks.fsdp_keys(2),
    "deepspeed": ranks.deepspeed,
    "torch_compile": missing("torch.compile", "too high"),
    "torch_compile_backend": missing("torch.compile", "too high"),
    "torch_compile_mode": missing("torch.compile", "too high"),
    "auto_find_batch_size": missing("a batch that the trainer lowers until it fits", "too high"),
    "optim_target_modules": shared.optimizer_targets,
    "liger_kernel_config": missing("some of Liger's kernels only", "either way"),
    "use_cpu": lambda value, document: Meaning({"device": "cpu"}) if is_on(value) else NOTHING,
    "no_cuda": lambda value, document: Meaning({"device": "cpu"}) if is_on(value) else NOTHING,
    "parallelism_config": missing("context and tensor parallelism", "either way"),
    "neftune_noise_alpha": costs_nothing,
    **free("training_arguments"),
}
TRAINING_ARGUMENTS_UNDER: dict[str, Reader] = {
    **free("training_arguments", "under"),
    "parallelism_config.": missing("context and tensor parallelism", "either way"),
    "liger_kernel_config.": missing("some of Liger's kernels only", "either way"),
}
