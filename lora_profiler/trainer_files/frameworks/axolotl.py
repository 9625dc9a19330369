"""axolotl's YAML, read beside its schemas at 067b021 (July 2026)."""

import re
from collections.abc import Iterator
from typing import Any

from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.framework import Framework, both_on
from lora_profiler.trainer_files.frameworks import axolotl_kernels as kernels
from lora_profiler.trainer_files.frameworks import fake_quantized, offloading, ranks, shared
from lora_profiler.trainer_files.meaning import (
    GATED_NORM,
    NOTHING,
    RESIZED,
    Meaning,
    costs_nothing,
    dtype,
    free,
    is_off,
    is_on,
    layer_numbers,
    missing,
    missing_above,
    names,
    not_modelled,
    number,
    sets,
    size,
    switch,
    targets,
    text,
    told_by,
)


def _adapter(value: Any, document: Document) -> Meaning:
    if is_off(value):
        return Meaning({"methods": ("full",)})
    name = text(value).lower()
    is_quantised = any(is_on(document.get(f"load_in_{bits}bit")) for bits in (4, 8))
    if name == "qlora" or (name == "lora" and is_quantised):
        return Meaning({"methods": ("qlora",)})
    if name == "lora":
        return Meaning({"methods": ("lora",)})
    return not_modelled(f"the adapter {name}, answered as LoRA", "either way", methods=("lora",))


def _bf16(value: Any, document: Document) -> Meaning:
    if value == "full":
        return Meaning({"precision": "pure", "dtype": "bfloat16"})
    if is_off(value) and is_off(document.get("fp16")) and value is not None:
        loads_16_bit = any(is_on(document.get(key)) for key in ("bfloat16", "float16"))
        return NOTHING if loads_16_bit else Meaning({"precision": "pure", "dtype": "float32"})
    return shared.autocast(value, document)


def _loads(kind: str) -> Any:
    def read(value: Any, document: Document) -> Meaning:
        """Without autocast only where that is switched off: bf16 is auto by itself."""
        if is_off(value):
            return NOTHING
        casts = is_on(document.get("bf16", "auto")) or is_on(document.get("fp16"))
        return Meaning({"dtype": kind} | ({} if casts else {"precision": "pure"}))

    return read


def _linear(value: Any, document: Document) -> Meaning:
    return Meaning({"targets": "all-linear"}) if is_on(value) else NOTHING


def _plugins(value: Any, document: Document) -> Meaning:
    found = Meaning()
    for plugin in value if isinstance(value, list) else [value]:
        kind = str(plugin).lower()
        if "cut_cross_entropy" in kind:
            found = kernels.cut_cross_entropy(True, document)
        elif any(word in kind for word in ("expert_parallel", "llm_compressor", "spectrum")):
            found = _beside(found, f"the plugin {str(plugin).rpartition('.')[2]}", "too high")
        elif any(word in kind for word in (".kd", "densemixer", "diffusion", "nemo", "hatchery")):
            found = _beside(found, f"the plugin {str(plugin).rpartition('.')[2]}", "too low")
        elif "kernels" in kind:
            found = _beside(found, "axolotl's own kernels", "either way")
        elif not any(word in kind for word in ("liger", "swanlab", "lm_eval", "grokfast")):
            found = _beside(found, f"the plugin {plugin}", "either way")
    return found


def _beside(meaning: Meaning, what: str, direction: Any) -> Meaning:
    both = "; ".join(filter(None, (meaning.missing, what)))
    same = meaning.direction in (None, direction)
    return meaning._replace(missing=both, direction=direction if same else "either way")


def _validation(value: Any, document: Document) -> Meaning:
    if is_off(value) or (isinstance(value, int | float | str) and number(value) == 0):
        return NOTHING
    if is_off(document.get("eval_strategy", True)):
        return NOTHING
    return _evaluated(document)


def _evaluated(document: Document) -> Meaning:
    """In batches of its own size, or of the training's."""
    usual = document.get("micro_batch_size", 1)
    return shared.evaluation(size(document.get("eval_batch_size", usual)))


def _preference(value: Any, document: Document) -> Meaning:
    if is_off(value):
        return NOTHING
    if _compares(document):
        return Meaning(note="pairs; the reference is the model without its adapters, or a copy")
    return not_modelled(f"rl: {value}, answered as supervised fine-tuning", "too low")


def _compares(document: Document) -> bool:
    """Whether its DPO trainer runs (core/trainers/dpo)."""
    return str(document.get("rl")).lower() in ("dpo", "ipo")


def _dropout(value: Any, document: Document) -> Meaning:
    return shared.dropout(value, is_off=_compares(document))


def _model_type(value: Any, document: Document) -> Meaning:
    is_small = any(kind in str(value) for kind in ("SequenceClassification", "TokenClassification"))
    return Meaning({"loss": "scores"}) if is_small else NOTHING


def _scored(value: Any, document: Document) -> Meaning:
    if is_off(value):
        return NOTHING
    return Meaning({"loss": "scores"}, note="a head of one output; each label more is a row of it")


def _batch(value: Any, document: Document) -> Meaning:
    """A reward model sees both answers of each pair (TRL 1.9, reward_trainer.py)."""
    if is_on(document.get("reward_model")):
        return Meaning({"batch_size": 2 * size(value)}, note="a row for each of the two answers")
    return Meaning({"batch_size": size(value)})


def _image_size(value: Any, document: Document) -> Meaning:
    """Brought to a width and height, or padded to a square (processing_strategies.py)."""
    if value is None or is_off(document.get("processor_type")):
        return NOTHING
    width, height = map(size, value if isinstance(value, list) else [value, value])
    return Meaning({"image_size": f"{width}x{height}"})


def _resized(value: Any, document: Document) -> Meaning:
    """Rows are added only where the tokenizer has more than the model (loaders/model.py)."""
    if is_off(value):
        return NOTHING
    return Meaning(note="none is added where the model has rows for all, a multiple of 32")


def _gptq(value: Any, document: Document) -> Meaning:
    """A checkpoint of GPTQ, on which an adapter trains."""
    if is_off(value) or is_off(document.get("adapter")):
        return NOTHING
    return Meaning({"methods": ("qlora",), "quant_type": "gptq"})


def _unfrozen(value: Any, document: Document) -> Meaning:
    """Patterns are matched from the beginning of a name, which PEFT has begin with base_model
    (train.py, setup_model_and_tokenizer; utils/freeze.py). One that begins with another word
    reaches no adapter."""
    if is_off(value):
        return NOTHING
    patterns = value if isinstance(value, list) else [value]
    others = all(re.match(r"\^?(?!base_model)\w+", str(pattern)) for pattern in patterns)
    if is_off(document.get("adapter")) or not others:
        return not_modelled("some parameters frozen", "too high")
    what = "adapters frozen by unfrozen_parameters, so that nothing trains, answered as if they did"
    return not_modelled(what, "too high")


def _quantized_experts(value: Any, document: Document) -> Meaning:
    """In 8 bit they are brought back to float32 (monkeypatch/moe_quant.py)."""
    if is_off(value):
        return NOTHING
    if is_on(document.get("load_in_8bit")):
        return not_modelled("experts in 8 bit, answered in 16", "either way")
    return Meaning({"quantize_experts": True})


def _quantized_as(value: Any, document: Document) -> Meaning:
    if is_off(value) or is_on(document.get("model_quantization_config_kwargs.dequantize")):
        return NOTHING
    return not_modelled(f"the base as {value} stores it", "too high")


def _implied(document: Document) -> Iterator[tuple[str, Meaning]]:
    adapter = document.get("adapter")
    if document.get("gradient_checkpointing") is None:
        yield "gradient_checkpointing", Meaning({"checkpointing": False})
    elif not document.has_under("gradient_checkpointing_kwargs") and (
        is_on(document.get("rl")) or document.get("unfrozen_parameters") is not None
    ):  # where neither is there, it is reentrant (utils/config, normalize_config)
        yield "gradient_checkpointing_kwargs", Meaning({"use_reentrant": False})
    if is_off(adapter):
        yield "adapter", Meaning({"methods": ("full",)})
    else:
        yield "lora_dropout", Meaning({"dropout": 0.0})
        if is_off(document.get("lora_target_linear")):
            yield "lora_target_modules", Meaning({"targets": "default"})
    if document.has_under("fsdp_config") and is_off(document.get("fsdp")):
        yield "fsdp", ranks.fsdp_switch(1)(True, document)
    fields = (*kernels.LORA_KERNELS, "lora_embedding_kernel")
    switched = any(document.get(key) is not None for key in fields)
    beside = [document.get(key) for key in ("rl", "trust_remote_code", "nvfp4_merge_aware")]
    in_8_bit = adapter == "lora" and is_on(document.get("load_in_8bit"))
    # of FSDP's version it sees there what stands outside fsdp_config alone
    over_fsdp = document.has_under("fsdp_config") and str(document.get("fsdp_version")) != "2"
    named = any(document.get(key) is not None for key in kernels.LORA_KERNELS)
    if adapter in ("lora", "qlora") and not named:
        are_off = switched or any(map(is_on, beside)) or in_8_bit or over_fsdp
        off = Meaning({"lora_kernels": "peft"})
        yield "lora_mlp_kernel", off if are_off else kernels.all_lora_kernels(document)


def _unquantised_full(document: Document) -> tuple[str, str] | None:
    if is_off(document.get("adapter")):
        key = "load_in_4bit"
        if is_on(document.get(key)):
            return key, f"{key} is about a frozen base, and no adapter is named."
    return None


def _qlora_in_4_bit(document: Document) -> tuple[str, str] | None:
    if document.get("adapter") != "qlora" or is_on(document.get("load_in_4bit", True)):
        return None
    return "load_in_4bit", "load_in_4bit is off, and adapter: qlora is a base in 4 bit."


AXOLOTL = Framework(
    name="axolotl",
    title="axolotl",
    marks=frozenset({"base_model", "micro_batch_size", "sequence_len", "sample_packing"}),
    stack=lambda document: "axolotl-dpo" if _compares(document) else "axolotl",
    files=("deepspeed",),
    implied=_implied,
    checks=(
        both_on("load_in_4bit", "load_in_8bit", "a base is stored in one of them."),
        both_on("bf16", "fp16", "autocast has one dtype."),
        _unquantised_full,
        _qlora_in_4_bit,
    ),
    keys={
        "base_model": sets("model", text),
        "revision_of_model": sets("revision", text),
        "adapter": _adapter,
        "load_in_4bit": shared.four_bit("adapter"),
        "load_in_8bit": shared.eight_bit("adapter"),
        "lora_r": sets("rank", size),
        "lora_alpha": sets("alpha", number),
        "lora_dropout": _dropout,
        "precompute_ref_log_probs": missing("a reference that ran before the training", "too high"),
        "rl_adapter_ref_model": missing("a second model as the adapters' reference", "too low"),
        "dpo_use_liger_kernel": missing("Liger's loss of TRL", "too high"),
        "dpo_padding_free": missing("pairs laid end to end", "either way"),
        "lora_target_modules": sets("targets", targets),
        "lora_target_linear": _linear,
        "lora_modules_to_save": sets("modules_to_save", names),
        "peft_layers_to_transform": sets("layers_to_transform", layer_numbers),
        "peft_use_rslora": sets("use_rslora", switch),
        "peft_use_dora": sets("use_dora", switch),
        "peft_init_lora_weights": shared.initialisation,
        "peft_autocast_adapter_dtype": lambda value, document: (
            Meaning({"adapter_dtype": "bfloat16"}) if value is False else NOTHING
        ),
        "lora_target_parameters": sets("target_parameters", names),
        "quantize_moe_experts": _quantized_experts,
        "bnb_config_kwargs.bnb_4bit_use_double_quant": sets("double_quant", switch),
        "micro_batch_size": _batch,
        "sequence_len": sets("seq_len", size),
        "gradient_accumulation_steps": sets("accumulation", size),
        "batch_size": costs_nothing,
        "sample_packing": shared.one_row,
        "batch_flattening": missing("a batch laid into one row without padding", "too high"),
        "optimizer": shared.optimizer,
        "optim_args": shared.optimizer_arguments,
        "bf16": _bf16,
        "fp16": shared.autocast_float16,
        "bfloat16": _loads("bfloat16"),
        "float16": _loads("float16"),
        "float32": _loads("float32"),
        "torch_dtype": sets("dtype", dtype),
        "fp8": missing("products in FP8, answered in 16 bit", "either way"),
        "gradient_checkpointing": offloading.checkpointing,
        "gradient_checkpointing_kwargs.use_reentrant": offloading.reentrant,
        "activation_offloading": offloading.activations,
        "layer_offloading": missing("layers on the host", "too high"),
        "selective_checkpointing": missing("checkpoints of chosen operations", "too low"),
        "attn_implementation": shared.attention,
        "flash_attention": shared.attention_switch("flash_attention_2"),
        "sdp_attention": shared.attention_switch("auto"),
        "eager_attention": shared.attention_switch("eager"),
        "xformers_attention": shared.attention_switch("efficient"),
        "flex_attention": missing("flex attention, answered as sdpa", "either way"),
        "sage_attention": missing("sage attention, answered as sdpa", "either way"),
        "s2_attention": missing("shifted sparse attention", "too high"),
        "sdpa_varlen": missing("sdpa without padding", "too high"),
        "flash_optimum": missing("BetterTransformer", "either way"),
        "flash_attn_cross_entropy": missing("FlashAttention's cross entropy", "too high"),
        "flash_attn_rms_norm": missing("FlashAttention's RMSNorm", "too high"),
        "flash_attn_fuse_mlp": missing("FlashAttention's MLP", "too high"),
        "plugins": _plugins,
        "cut_cross_entropy": kernels.cut_cross_entropy,
        "chunked_cross_entropy": lambda value, document: (
            not_modelled(
                "axolotl's chunked loss, answered as --loss chunked", "too low", loss="chunked"
            )
            if is_on(value)
            else NOTHING
        ),
        "liger_rms_norm": kernels.liger,
        "liger_rope": kernels.liger,
        "liger_glu_activation": kernels.liger,
        "liger_swiglu": kernels.liger,
        "liger_fused_linear_cross_entropy": lambda value, document: (
            Meaning({"loss": "fused"}) if is_on(value) else NOTHING
        ),
        "liger_cross_entropy": lambda value, document: (
            Meaning({"loss": "triton"}) if is_on(value) else NOTHING
        ),
        "liger_layer_norm": kernels.liger_layer_norm,
        "liger_rms_norm_gated": missing(GATED_NORM, "too high"),
        **dict.fromkeys(kernels.LORA_KERNELS, kernels.lora_kernel),
        "lora_embedding_kernel": kernels.embedding_kernel,
        "val_set_size": _validation,
        "test_datasets": lambda value, document: NOTHING if is_off(value) else _evaluated(document),
        "do_causal_lm_eval": missing("generation while evaluating", "too low"),
        "do_bench_eval": missing("a benchmark while training", "too low"),
        "fsdp": ranks.fsdp_switch(1),
        "fsdp_config": costs_nothing,
        **ranks.fsdp_keys(1),
        "fsdp_config.mixed_precision_policy": missing("FSDP's own mixed precision", "either way"),
        "deepspeed": ranks.deepspeed,
        "world_size": sets("world_size", size),
        "dp_shard_size": lambda value, document: (
            Meaning({"sharding": "fsdp", "world_size": size(value)})
            if value is not None and size(value) > 1
            else NOTHING
        ),
        "dp_replicate_size": missing_above(1, "replicas of sharded groups", "either way"),
        "context_parallel_size": ranks.parallel("the sequence", "context parallelism"),
        "sequence_parallel_degree": ranks.parallel("the sequence", "sequence parallelism"),
        "tensor_parallel_size": ranks.parallel("each layer", "tensor parallelism"),
        "expert_parallel_size": ranks.parallel("the experts", "expert parallelism"),
        "ray_num_workers": sets("world_size", size),
        "rl": _preference,
        **dict.fromkeys(("reward_model", "process_reward_model", "num_labels"), _scored),
        "model_type": _model_type,
        "processor_type": shared.images,
        "is_multimodal": shared.images,
        "image_size": _image_size,
        "unfrozen_parameters": _unfrozen,
        "lisa_n_layers": missing("LISA, which trains a few layers at a time", "too high"),
        "spectrum_top_fraction": missing("Spectrum, which trains some layers", "too high"),
        "relora": missing("ReLoRA", "too low"),
        "torch_compile": missing("torch.compile", "too high"),
        "qat.weight_dtype": fake_quantized.of_axolotl,
        "gptq": _gptq,
        "model_quantization_config": _quantized_as,
        "use_onebitllms": missing("BitNet's layers", "either way"),
        "tiled_mlp": missing("a tiled MLP", "too high"),
        "fp32_norms": missing("norms in float32", "too low"),
        "optim_target_modules": shared.optimizer_targets,
        "auto_find_batch_size": missing("a batch that the trainer chooses", "too high"),
        RESIZED: _resized,
        "use_eaft": missing("EAFT's loss", "too low"),
        "use_pose": missing("PoSE", "either way"),
        "peft_layer_replication": missing("replicated layers", "too low"),
        "lora_rank_pattern": missing("ranks by layer", "either way"),
        "peft_trainable_token_indices": missing("trained rows of the embedding", "too low"),
        "kd_trainer": missing("distillation's loss", "too low"),
        "use_mora": missing("MoRA, answered as LoRA", "either way"),
        "eval_batch_size": costs_nothing,
        **free("axolotl"),
        **kernels.OTHERS,
    },
    under={
        **free("axolotl", "under"),
        "model_config.": missing("the model's config overruled", "either way"),
        "overrides_of_model_config.": missing("the model's config overruled", "either way"),
        "qat.": told_by("qat.weight_dtype"),
        **dict.fromkeys(("trl.", "ebft.", "dpo_"), told_by("rl")),
        "vllm.": told_by("rl"),
        "diffusion.": told_by("plugins"),
        "llmcompressor.": told_by("plugins"),
        "kd_": told_by("plugins"),
        "qgalore_": missing("Q-GaLore", "too high"),
        "dion_": missing("Dion", "either way"),
    },
)
