"""transformers' TrainingArguments (5.24), which TRL, LLaMA-Factory and Unsloth's notebooks take."""

from typing import Any

from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.frameworks import shared
from lora_profiler.trainer_files.meaning import (
    NOTHING,
    Meaning,
    Reader,
    free,
    is_off,
    is_on,
    missing,
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


def _fsdp_settings(value: Any, document: Document) -> Meaning:
    if is_off(value) or isinstance(value, str):
        return NOTHING
    return Meaning({"sharding": "fsdp"}, asks=("world_size",))


TRAINING_ARGUMENTS: dict[str, Reader] = {
    "per_device_train_batch_size": sets("batch_size", size),
    "gradient_accumulation_steps": sets("accumulation", size),
    "optim": shared.optimizer,
    "bf16": shared.autocast,
    "fp16": shared.autocast_float16,
    "gradient_checkpointing": shared.checkpointing,
    "use_liger_kernel": _liger,
    "label_smoothing_factor": missing("label smoothing: 16 bytes a logit", "too low"),
    "eval_strategy": _evaluation,
    "evaluation_strategy": _evaluation,
    "do_eval": _evaluation,
    "eval_on_start": _evaluation,
    "per_device_eval_batch_size": lambda value, document: NOTHING,
    "eval_accumulation_steps": lambda value, document: NOTHING,
    "prediction_loss_only": lambda value, document: NOTHING,
    "bf16_full_eval": missing("the model cast for evaluation", "either way"),
    "fp16_full_eval": missing("the model cast for evaluation", "either way"),
    "fsdp": shared.fsdp,
    "fsdp_config": _fsdp_settings,
    "fsdp_config.reshard_after_forward": shared.fsdp_strategy,
    "fsdp_config.fsdp_reshard_after_forward": shared.fsdp_strategy,
    "fsdp_config.fsdp_sharding_strategy": shared.fsdp_strategy,
    "fsdp_config.offload_params": missing("FSDP's parameters on the host", "too high"),
    "fsdp_config.fsdp_offload_params": missing("FSDP's parameters on the host", "too high"),
    "fsdp_config.activation_checkpointing": shared.checkpointing,
    "fsdp_config.fsdp_activation_checkpointing": shared.checkpointing,
    "deepspeed": shared.deepspeed,
    "torch_compile": missing("torch.compile", "too high"),
    "torch_compile_backend": missing("torch.compile", "too high"),
    "torch_compile_mode": missing("torch.compile", "too high"),
    "auto_find_batch_size": missing("a batch that the trainer lowers until it fits", "too high"),
    "optim_target_modules": missing("an optimizer for some modules only", "too high"),
    "liger_kernel_config": missing("some of Liger's kernels only", "either way"),
    "use_cpu": lambda value, document: Meaning({"device": "cpu"}) if is_on(value) else NOTHING,
    "no_cuda": lambda value, document: Meaning({"device": "cpu"}) if is_on(value) else NOTHING,
    "parallelism_config": missing("context and tensor parallelism", "either way"),
    "neftune_noise_alpha": lambda value, document: NOTHING,
    **free(
        """output_dir overwrite_output_dir num_train_epochs max_steps learning_rate
        lr_scheduler_type lr_scheduler_kwargs warmup_steps warmup_ratio optim_args weight_decay
        adam_beta1 adam_beta2 adam_epsilon average_tokens_across_devices max_grad_norm tf32
        gradient_checkpointing_kwargs use_cache torch_empty_cache_steps logging_strategy
        logging_steps logging_first_step logging_dir log_on_each_node logging_nan_inf_filter
        include_num_input_tokens_seen log_level log_level_replica disable_tqdm report_to
        run_name project trackio_space_id trackio_bucket_id trackio_static_space_id
        trackio_project trackio_name eval_steps eval_delay eval_do_concat_batches
        eval_use_gather_object include_for_metrics include_inputs_for_metrics
        batch_eval_metrics save_only_model save_strategy save_steps save_on_each_node
        save_total_limit save_safetensors enable_jit_checkpoint push_to_hub hub_token
        hub_private_repo hub_model_id hub_model_revision hub_strategy hub_always_push
        hub_revision load_best_model_at_end metric_for_best_model greater_is_better
        ignore_data_skip restore_callback_states_from_checkpoint full_determinism seed
        data_seed jit_mode_eval use_ipex accelerator_config dataloader_drop_last
        dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
        dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order
        remove_unused_columns label_names group_by_length train_sampling_strategy
        length_column_name ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers
        ddp_static_graph ddp_backend ddp_timeout debug skip_memory_metrics do_train do_predict
        resume_from_checkpoint local_rank ray_scope mp_parameters half_precision_backend
        fp16_backend fp16_opt_level past_index sharded_ddp no_cuda_graph torchdynamo
        use_mps_device tpu_num_cores tpu_metrics_debug per_gpu_train_batch_size
        per_gpu_eval_batch_size deepspeed_plugin distributed_state push_to_hub_token
        push_to_hub_model_id push_to_hub_organization split_batches dispatch_batches"""
    ),
}
TRAINING_ARGUMENTS_UNDER: dict[str, Reader] = {
    **dict.fromkeys(
        (
            "gradient_checkpointing_kwargs.",
            "fsdp_config.",
            "lr_scheduler_kwargs.",
            "accelerator_config.",
            "optim_args.",
            "wandb_",
        ),
        lambda value, document: NOTHING,
    ),
    "parallelism_config.": missing("context and tensor parallelism", "either way"),
    "liger_kernel_config.": missing("some of Liger's kernels only", "either way"),
}
