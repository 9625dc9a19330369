"""axolotl's YAML, read beside its schemas at 067b021 (July 2026)."""

from collections.abc import Iterator
from pathlib import Path

from lora_profiler.features.trainers.axolotl import _readers as read
from lora_profiler.question.kernel_set import kernel_set
from lora_profiler.question.lora_kernel_set import lora_kernel_set, takes_lora_kernels
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.trainer_files import ranks
from lora_profiler.trainer_files import shared_keys as shared
from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.meaning import (
    GATED_NORM,
    NO_EFFECT,
    RESIZED,
    Framework,
    Meaning,
    covered_by,
    free,
    is_off,
    is_on,
    missing,
    missing_above,
    no_effect,
    noted,
    sets,
    size,
    when_on,
)
from lora_profiler.trainer_files.trainer_file import (
    KeyReading,
    TrainerFile,
    adapters_of,
    instead,
    settled_by,
)

_FREE = Path(__file__).with_name("free_keys.toml")


def _implied(document: Document) -> Iterator[tuple[str, Meaning]]:
    adapter = document.get("adapter")
    if document.get("sequence_len") is None:
        yield "sequence_len", Meaning({"seq_len": 512})  # utils/schemas/config.py
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
    fields = (*read.LORA_KERNELS, "lora_embedding_kernel")
    switched = any(document.get(key) is not None for key in fields)
    beside = [document.get(key) for key in ("rl", "trust_remote_code", "nvfp4_merge_aware")]
    in_8_bit = adapter == "lora" and is_on(document.get("load_in_8bit"))
    # of FSDP's version it sees there what stands outside fsdp_config alone
    over_fsdp = document.has_under("fsdp_config") and str(document.get("fsdp_version")) != "2"
    named = any(document.get(key) is not None for key in read.LORA_KERNELS)
    if adapter in ("lora", "qlora") and not named:
        are_off = switched or any(map(is_on, beside)) or in_8_bit or over_fsdp
        off = Meaning({"lora_kernels": "peft"})
        yield "lora_mlp_kernel", off if are_off else read.all_lora_kernels(document)


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


def _on_model(file: TrainerFile, model: ModelSpec) -> Iterator[KeyReading]:
    effective, kind = file.effective_options, model.model_type
    liger = kernel_set("liger") if effective.get("kernels") == "liger" else None
    if liger and kind not in {*liger.types, *liger.put_in_by["axolotl"]}:
        note = f"axolotl puts none of Liger's kernels into {kind}"
        yield settled_by(file.name, "kernels", "liger", "transformers", note)
    if effective.get("lora_kernels") == "axolotl" and "images" not in file.options:
        joined = lora_kernel_set("axolotl")
        if kind in joined.stops_at:
            yield settled_by(file.name, "lora_kernels", "axolotl", "peft", joined.stopped)
        elif not takes_lora_kernels(model, joined.types):
            what = f"axolotl's LoRA kernels on {kind}, answered as PEFT's adapters"
            yield instead(file.name, "lora_kernels", "axolotl", "peft", what)
    drops = effective.get("dropout")
    if drops and any(adapter.parameter for adapter in adapters_of(model, effective)):
        what = "dropout on adapters of layers, which those of bare parameters have none of"
        yield instead(file.name, "dropout", drops, 0.0, f"{what}, answered without", "too low")
    resized = any(row.key == RESIZED and is_on(row.value) for row in file.keys)
    if resized and model.config.get("vocab_size", 0) % 32:
        yield instead(file.name, RESIZED, True, None, "a vocabulary rounded up to 32", "too low")


FRAMEWORK = Framework(
    on_model=_on_model,
    name="axolotl",
    title="axolotl",
    marks=frozenset({"base_model", "micro_batch_size", "sequence_len", "sample_packing"}),
    stack=lambda document: "axolotl-dpo" if read.compares(document) else "axolotl",
    files=("deepspeed",),
    implied=_implied,
    checks=(shared.ONE_BASE, shared.ONE_AUTOCAST, _unquantised_full, _qlora_in_4_bit),
    keys={
        "base_model": sets("model"),
        "revision_of_model": sets("revision"),
        "adapter": read.adapter,
        **shared.quantised_base("adapter"),
        "lora_r": sets("rank"),
        "lora_alpha": sets("alpha"),
        "lora_dropout": read.dropout,
        "precompute_ref_log_probs": missing("a reference that ran before the training", "too high"),
        "rl_adapter_ref_model": missing("a second model as the adapters' reference", "too low"),
        "dpo_use_liger_kernel": missing("Liger's loss of TRL", "too high"),
        "dpo_padding_free": missing("pairs laid end to end", "either way"),
        "lora_target_modules": sets("targets"),
        "lora_target_linear": when_on(targets="all-linear"),
        "lora_modules_to_save": sets("modules_to_save"),
        "peft_layers_to_transform": sets("layers_to_transform"),
        "peft_use_rslora": sets("use_rslora"),
        "peft_use_dora": sets("use_dora"),
        "peft_init_lora_weights": shared.initialisation,
        "peft_autocast_adapter_dtype": lambda value, document: (
            Meaning({"adapter_dtype": "bfloat16"}) if value is False else NO_EFFECT
        ),
        "lora_target_parameters": sets("target_parameters"),
        "quantize_moe_experts": read.quantized_experts,
        "bnb_config_kwargs.bnb_4bit_use_double_quant": sets("double_quant"),
        "micro_batch_size": read.batch,
        "sequence_len": sets("seq_len"),
        "gradient_accumulation_steps": sets("accumulation"),
        "batch_size": no_effect,
        "sample_packing": shared.one_row,
        "batch_flattening": missing("a batch laid into one row without padding", "too high"),
        "optimizer": shared.optimizer,
        "optim_args": shared.optimizer_arguments,
        "bf16": read.bf16,
        "fp16": shared.autocast_float16,
        "bfloat16": read.loads("bfloat16"),
        "float16": read.loads("float16"),
        "float32": read.loads("float32"),
        "torch_dtype": sets("dtype"),
        "fp8": missing("products in FP8, answered in 16 bit", "either way"),
        "gradient_checkpointing": read.checkpointing,
        "gradient_checkpointing_kwargs.use_reentrant": read.reentrant,
        "activation_offloading": read.activations,
        "layer_offloading": missing("layers on the host", "too high"),
        "selective_checkpointing": missing("checkpoints of chosen operations", "too low"),
        "attn_implementation": shared.attention,
        "flash_attention": when_on(attention="flash_attention_2"),
        "sdp_attention": when_on(attention="auto"),
        "eager_attention": when_on(attention="eager"),
        "xformers_attention": when_on(attention="efficient"),
        "flex_attention": missing("flex attention, answered as sdpa", "either way"),
        "sage_attention": missing("sage attention, answered as sdpa", "either way"),
        "s2_attention": missing("shifted sparse attention", "too high"),
        "sdpa_varlen": missing("sdpa without padding", "too high"),
        "flash_optimum": missing("BetterTransformer", "either way"),
        "flash_attn_cross_entropy": missing("FlashAttention's cross entropy", "too high"),
        "flash_attn_rms_norm": missing("FlashAttention's RMSNorm", "too high"),
        "flash_attn_fuse_mlp": missing("FlashAttention's MLP", "too high"),
        "plugins": read.plugins,
        "chunked_cross_entropy": missing(
            "axolotl's chunked loss, answered as --loss chunked", "too low", loss="chunked"
        ),
        **dict.fromkeys((*read.LIGER, "liger_swiglu"), read.liger),
        "liger_fused_linear_cross_entropy": when_on(loss="fused"),
        **read.SWITCHES,
        "liger_layer_norm": noted(
            "the models that Liger's kernels are known of have RMSNorm alone"
        ),
        "liger_rms_norm_gated": missing(GATED_NORM, "too high"),
        **dict.fromkeys(read.LORA_KERNELS, read.lora_kernel),
        "lora_embedding_kernel": read.embedding_kernel,
        "val_set_size": read.validation,
        "test_datasets": read.tested,
        "do_causal_lm_eval": missing("generation while evaluating", "too low"),
        "do_bench_eval": missing("a benchmark while training", "too low"),
        "fsdp": ranks.fsdp_switch(1),
        "fsdp_config": no_effect,
        **ranks.fsdp_keys(1),
        "fsdp_config.mixed_precision_policy": missing("FSDP's own mixed precision", "either way"),
        "deepspeed": ranks.deepspeed,
        "world_size": sets("world_size"),
        "dp_shard_size": lambda value, document: (
            Meaning({"sharding": "fsdp", "world_size": size(value)})
            if value is not None and size(value) > 1
            else NO_EFFECT
        ),
        "dp_replicate_size": missing_above(1, "replicas of sharded groups", "either way"),
        "context_parallel_size": ranks.parallel("the sequence", "context parallelism"),
        "sequence_parallel_degree": ranks.parallel("the sequence", "sequence parallelism"),
        "tensor_parallel_size": ranks.parallel("each layer", "tensor parallelism"),
        "expert_parallel_size": ranks.parallel("the experts", "expert parallelism"),
        "ray_num_workers": sets("world_size"),
        "rl": read.preference,
        "model_type": read.model_type,
        "processor_type": shared.images,
        "is_multimodal": shared.images,
        "image_size": read.image_size,
        "unfrozen_parameters": read.unfrozen,
        "lisa_n_layers": missing("LISA, which trains a few layers at a time", "too high"),
        "spectrum_top_fraction": missing("Spectrum, which trains some layers", "too high"),
        "relora": missing("ReLoRA", "too low"),
        "torch_compile": shared.compiled,
        "qat.weight_dtype": read.fake_quantized,
        "gptq": read.gptq,
        "model_quantization_config": read.quantized_as,
        "use_onebitllms": missing("BitNet's layers", "either way"),
        "tiled_mlp": missing("a tiled MLP", "too high"),
        "fp32_norms": missing("norms in float32", "too low"),
        "optim_target_modules": shared.optimizer_targets,
        "auto_find_batch_size": missing("a batch that the trainer chooses", "too high"),
        RESIZED: read.resized,
        "use_eaft": missing("EAFT's loss", "too low"),
        "use_pose": missing("PoSE", "either way"),
        "peft_layer_replication": missing("replicated layers", "too low"),
        "lora_rank_pattern": missing("ranks by layer", "either way"),
        "peft_trainable_token_indices": missing("trained rows of the embedding", "too low"),
        "kd_trainer": missing("distillation's loss", "too low"),
        "use_mora": missing("MoRA, answered as LoRA", "either way"),
        "eval_batch_size": no_effect,
        **free(_FREE),
        "experts_implementation": read.experts,
        **dict.fromkeys(
            (
                *("use_scattermoe", "use_sonicmoe", "use_dsv4_kernels", "use_glm_dsa_kernels"),
                *("dsv4_fp4_grouped_mode", "fused_attn_kernel", "gemma4_hybrid_attn_impl"),
                "large_head_attention",
            ),
            read.OTHER_KERNELS,
        ),
        "use_kernels": missing("kernels from the hub", "either way"),
    },
    under={
        **free(_FREE, "under"),
        **dict.fromkeys(
            ("model_config.", "overrides_of_model_config."),
            missing("the model's config overruled", "either way"),
        ),
        "qat.": covered_by("qat.weight_dtype"),
        **dict.fromkeys(("trl.", "ebft.", "dpo_", "vllm."), covered_by("rl")),
        **dict.fromkeys(("diffusion.", "llmcompressor.", "kd_"), covered_by("plugins")),
        "qgalore_": missing("Q-GaLore", "too high"),
        "dion_": missing("Dion", "either way"),
    },
)
