"""LLaMA-Factory's YAML, read beside its hparams at ff6d4d1 (August 2026)."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_profiler.question.loss import switches
from lora_profiler.trainer_files import ranks
from lora_profiler.trainer_files import shared_keys as shared
from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.meaning import (
    NO_EFFECT,
    Framework,
    Meaning,
    Reader,
    covered_by,
    free,
    is_off,
    is_on,
    missing,
    no_effect,
    not_modelled,
    noted,
    sets,
    size,
    size_of,
    when_on,
)
from lora_profiler.trainer_files.shared_keys import (
    CHECKPOINTING,
    TRAINING_ARGUMENTS,
    TRAINING_ARGUMENTS_UNDER,
    evaluated,
    evaluates,
)

_FREE = Path(__file__).with_name("free_keys.toml")


def _method(value: Any, document: Document) -> Meaning:
    kind = str(value or "lora").lower()
    bits = document.get("quantization_bit")
    if kind == "full":
        return Meaning({"methods": ("full",)})
    if kind == "freeze":
        what = "freezing all but some layers, answered as full"
        return not_modelled(what, "too high", methods=("full",))
    is_quantised = bits is not None and size(bits) in (4, 8)
    methods = ("qlora",) if is_quantised else ("lora",)
    if kind == "oft":
        return Meaning({"methods": methods, "peft_type": "oft"})
    if kind != "lora":
        return not_modelled(f"{kind}, answered as LoRA", "either way", methods=methods)
    return Meaning({"methods": methods})


def _of(kind: str, meaning: Reader) -> Reader:
    """A key that LLaMA-Factory reads with this finetuning_type alone."""
    return lambda value, document: (
        meaning(value, document) if _kind_of(document) == kind else NO_EFFECT
    )


def _kind_of(document: Document) -> str:
    return str(document.get("finetuning_type") or "lora").lower()


def _projected(optimizer: str) -> Reader:
    """use_galore or use_apollo, to rank 16 by default; layer by layer in backward, or of
    adapters, it is something else."""
    name = optimizer.partition("_")[0]

    def read(value: Any, document: Document) -> Meaning:
        if is_off(value):
            return NO_EFFECT
        if _kind_of(document) != "full":
            return not_modelled(f"{optimizer} of adapters, answered as adamw", "too high")
        rank = size_of(document, f"{name}_rank", 16)
        options = {"optimizer": optimizer, "optimizer_rank": rank, "optimizer_impl": "foreach"}
        if is_on(document.get(f"{name}_layerwise")):
            what = "an update inside backward, answered as one after it"
            return not_modelled(what, "too high", **options)
        return Meaning(options)

    return read


def _projected_modules(value: Any, document: Document) -> Meaning:
    """galore_target and apollo_target: all, or names."""
    is_used = is_on(document.get("use_galore")) or is_on(document.get("use_apollo"))
    return (
        shared.optimizer_targets(None if value in ("all", ["all"]) else value, document)
        if is_used
        else NO_EFFECT
    )


def _adam_mini(value: Any, document: Document) -> Meaning:
    if is_off(value):
        return NO_EFFECT
    if _kind_of(document) != "full":
        return not_modelled("Adam-mini of adapters, answered as adamw", "too high")
    return Meaning({"optimizer": "adam_mini", "optimizer_impl": "foreach"})


def _bits(value: Any, document: Document) -> Meaning:
    if is_off(value) or size(value) == 4:
        return NO_EFFECT
    kind = str(document.get("quantization_method") or "bnb").lower()
    if size(value) == 8 and kind in ("bnb", "bitsandbytes"):
        return Meaning({"quant_type": "int8"})
    return not_modelled(f"a base in {size(value)} bit, answered in 16", "too high")


def _quantizer(value: Any, document: Document) -> Meaning:
    kind = str(value).lower()
    if is_off(value) or kind in ("bnb", "bitsandbytes") or is_off(document.get("quantization_bit")):
        return NO_EFFECT
    return not_modelled(f"a base quantised by {kind}, answered as bitsandbytes' NF4", "either way")


def _cut_off(value: Any, document: Document) -> Meaning:
    meaning = shared.cut_off(value, document)
    is_packed = is_on(document.get("packing")) or is_on(document.get("neat_packing"))
    return meaning._replace(note="") if is_packed else meaning


def _batch(value: Any, document: Document) -> Meaning:
    if value is None:
        return NO_EFFECT
    stage = document.get("stage")
    if stage == "rm":
        return Meaning({"batch_size": 2 * size(value)}, note="a row for each of the two answers")
    return Meaning({"batch_size": size(value)})


def _stage(value: Any, document: Document) -> Meaning:
    if value in (None, "sft", "pt"):
        return NO_EFFECT
    if value == "rm":
        return not_modelled("a reward model's head, answered with the language model's", "too high")
    if value == "dpo" and not _has_reference(document):
        return Meaning(note="pairs, without a reference")
    if value == "kto":
        return Meaning(note="answers, and those of other prompts; the reference runs over both")
    if value == "dpo":
        return Meaning(note="pairs; the reference is the model without its adapters, or a copy")
    return not_modelled(f"{value}'s reference model or generation", "too low")


def _has_reference(document: Document) -> bool:
    """hparams/finetuning_args.py, use_ref_model."""
    return document.get("stage") == "dpo" and document.get("pref_loss") not in _WITHOUT_REFERENCE


_WITHOUT_REFERENCE = ("orpo", "simpo")


def _stack(document: Document) -> str:
    if document.get("stage") != "dpo":
        return "llamafactory-kto" if document.get("stage") == "kto" else "llamafactory"
    return "llamafactory-dpo" if _has_reference(document) else "llamafactory-orpo"


def _weighted(loss: str) -> Reader:
    """The first of the three that is on counts (train/sft/trainer.py)."""

    def read(value: Any, document: Document) -> Meaning:
        stands = is_on(value) and document.get("stage") in (None, "sft")
        return Meaning({"loss": loss}) if stands else NO_EFFECT

    return read


def _dropout(value: Any, document: Document) -> Meaning:
    return shared.dropout(value, is_off=document.get("stage") == "dpo")


def _mixed(precision: str) -> Reader:
    """bf16 and fp16: weights are loaded in the checkpoint's format (model/loader.py), bfloat16 of
    nearly all; what is trained is cast to float32, unless pure_bf16 or ZeRO-3 stand against it."""

    def read(value: Any, document: Document) -> Meaning:
        if is_off(value):
            return NO_EFFECT
        is_full = document.get("finetuning_type") in ("full", "freeze")
        zero3 = any(n in str(document.get("deepspeed", "")) for n in ("z3", "zero3"))
        if is_full and not zero3 and not is_on(document.get("pure_bf16")):
            note = "full fine-tuning casts the weights to float32"
            return Meaning({"precision": precision, "dtype": "float32"}, note=note)
        return Meaning({"precision": precision, "dtype": "bfloat16"})

    return read


def _validation(value: Any, document: Document) -> Meaning:
    """Held back rows are evaluated where the trainer evaluates (train/sft/workflow.py)."""
    return NO_EFFECT if is_off(value) or not evaluates(document) else evaluated(document)


def _implied(document: Document) -> Iterator[tuple[str, Meaning]]:
    if "finetuning_type" not in document.entries:
        yield "finetuning_type", _method("lora", document)
    if not any(is_on(document.get(key)) for key in ("bf16", "fp16", "pure_bf16")):
        is_full = document.get("finetuning_type", "lora") in ("full", "freeze")
        dtype = {"dtype": "float32"} if is_full else {}  # weights that train are cast to it
        yield "bf16", Meaning({"precision": "pure", **dtype}, note="no autocast")
    if "disable_gradient_checkpointing" not in document.entries:
        yield "disable_gradient_checkpointing", Meaning({"checkpointing": True})
    if "cutoff_len" not in document.entries:
        yield "cutoff_len", _cut_off(2048, document)
    if document.get("lora_target") is None and document.get("oft_target") is None:
        yield "lora_target", Meaning({"targets": "all-linear"})


def _together(
    stack: str, options: Mapping[str, Any], keys: Collection[str]
) -> Iterator[tuple[str, Meaning]]:
    """FSDP2 takes the other kind of checkpoints where accelerate starts it
    (model/model_utils/checkpointing.py)."""
    is_fsdp2 = options.get("sharding") in ("fsdp", "fsdp-no-reshard")
    if is_fsdp2 and options.get("use_reentrant") and "distributed_type" in keys:
        note = "LLaMA-Factory sets it so under FSDP2"
        yield "use_reentrant_gc", Meaning({"use_reentrant": False}, note=note)


_OF_VERSION_1 = (
    "model_class", "dist_config.name", "peft_config.name", "kernel_config.name", "train_dataset",
)  # fmt: skip
"""Keys of the files in examples/v1 (v1/config), whose trainer is another."""


def _of_version_1(document: Document) -> tuple[str, str] | None:
    key = next((key for key in _OF_VERSION_1 if key in document.entries), None)
    if key is None:
        return None
    return key, (
        f"{key} is a key of LLaMA-Factory v1, which is not modelled. Run it on a simulated GPU:"
        f" `USE_V1=1 lora-profile rehearse --gpu t4 -- llamafactory-cli train {document.name}`"
    )


def _no_training(document: Document) -> tuple[str, str] | None:
    """Files of `llamafactory-cli export`, `chat` and `api`, and of predictions (examples/inference,
    examples/merge_lora)."""
    idle = ("export_dir", "peft_config.export_dir", "infer_backend", "do_predict")
    key = next((key for key in idle if is_on(document.get(key))), None)
    if key is None or is_on(document.get("do_train")):
        return None
    return key, f"{key} without do_train: this file trains nothing; name one that does."


def _needs_adapter(document: Document) -> tuple[str, str] | None:
    key = "quantization_bit"
    if is_off(document.get(key)) or document.get("finetuning_type", "lora") in ("lora", "oft"):
        return None
    return key, f"{key} is about a frozen base; finetuning_type: lora trains on one."


def _two_packings(document: Document) -> tuple[str, str] | None:
    if is_on(document.get("pure_bf16")) and is_on(document.get("fp16")):
        return "pure_bf16", "pure_bf16 contradicts fp16."
    if is_on(document.get("bf16")) and is_on(document.get("fp16")):
        return "fp16", "fp16 contradicts bf16: autocast has one dtype."
    return None


FRAMEWORK = Framework(
    takes_options=True,
    name="llamafactory",
    title="LLaMA-Factory",
    marks=frozenset(
        {
            *("stage", "finetuning_type", "cutoff_len", "template", "do_train", "lora_rank"),
            *("export_dir", "infer_backend", *_OF_VERSION_1),
        }
    ),
    stack=_stack,
    files=("deepspeed", "fsdp_config"),
    implied=_implied,
    together=_together,
    checks=(_no_training, _of_version_1, _needs_adapter, _two_packings),
    keys={
        **TRAINING_ARGUMENTS,
        "model_name_or_path": sets("model"),
        "model_revision": sets("revision"),
        "stage": _stage,
        "finetuning_type": _method,
        "quantization_bit": _bits,
        "quantization_method": _quantizer,
        "quantization_type": shared.quant_type,
        "double_quantization": sets("double_quant"),
        "lora_rank": _of("lora", sets("rank")),
        "lora_alpha": _of("lora", sets("alpha")),
        "lora_dropout": _of("lora", _dropout),
        "lora_target": _of("lora", sets("targets")),
        "oft_block_size": _of("oft", sets("oft_block_size")),
        "oft_target": _of("oft", sets("targets")),
        "module_dropout": _of("oft", sets("dropout")),
        "oft_rank": _of("oft", missing("OFT by its number of blocks", "either way")),
        "additional_target": sets("modules_to_save"),
        "use_rslora": sets("use_rslora"),
        "use_dora": sets("use_dora"),
        "pissa_init": lambda value, document: shared.initialisation(
            "pissa" if is_on(value) else False, document
        ),
        "per_device_train_batch_size": _batch,
        "cutoff_len": _cut_off,
        "packing": no_effect,
        "neat_packing": missing("a mask that keeps packed sequences apart", "too low"),
        "flash_attn": shared.attention,
        **dict.fromkeys(CHECKPOINTING, no_effect),  # it is on by itself, whatever they say
        "disable_gradient_checkpointing": lambda value, document: Meaning(
            {"checkpointing": is_off(value)}
        ),
        "use_reentrant_gc": shared.reentrant,
        "use_unsloth_gc": missing("checkpoints that are moved to the host's memory", "too high"),
        "use_unsloth": missing("Unsloth's kernels", "too high"),
        "enable_liger_kernel": shared.liger,
        "bf16": _mixed("amp"),
        "fp16": _mixed("amp-float16"),
        "pure_bf16": when_on(precision="pure", dtype="bfloat16"),
        "upcast_layernorm": missing("norms in float32", "too low"),
        "upcast_lmhead_output": missing("logits in float32", "too low"),
        "fp8": missing("products in FP8, answered in 16 bit", "either way"),
        "val_size": _validation,
        "eval_dataset": _validation,
        "use_galore": _projected("galore_adamw"),
        "use_apollo": _projected("apollo_adamw"),
        **dict.fromkeys(("galore_rank", "apollo_rank"), covered_by("use_galore, use_apollo")),
        **dict.fromkeys(("galore_target", "apollo_target"), _projected_modules),
        "use_badam": missing("BAdam, answered as adamw", "too high"),
        "use_adam_mini": _adam_mini,
        "use_muon": missing("Muon, answered as adamw", "too high"),
        "mixture_of_depths": missing("a mixture of depths", "either way"),
        "use_llama_pro": missing("LLaMA Pro's added blocks", "either way"),
        "freeze_trainable_layers": no_effect,
        "image_max_pixels": shared.largest_image,
        "video_max_pixels": noted("videos are not modelled"),
        "ref_model": missing("a reference model", "too low"),
        "reward_model": missing("a reward model", "too low"),
        "ref_model_quantization_bit": missing("a reference model", "too low"),
        "shift_attn": missing("shifted sparse attention", "too high"),
        "rope_scaling": no_effect,
        "resize_vocab": missing("a vocabulary made larger", "too low"),
        "new_special_tokens": missing("a vocabulary made larger", "too low"),
        "use_kt": missing("KTransformers' experts on the CPU", "too high"),
        "ray_num_workers": sets("world_size"),
        "tensor_model_parallel_size": ranks.parallel("each layer", "tensor parallelism"),
        "pipeline_model_parallel_size": ranks.parallel("the layers", "pipeline parallelism"),
        "expert_model_parallel_size": ranks.parallel("the experts", "expert parallelism"),
        "context_parallel_size": ranks.parallel("the sequence", "context parallelism"),
        "sequence_parallel_size": ranks.parallel("the sequence", "sequence parallelism"),
        "hyper_parallel_cp_size": ranks.parallel("the sequence", "context parallelism"),
        "sequence_parallel": missing("Megatron's sequence parallelism", "too high"),
        "use_distributed_optimizer": missing("Megatron's distributed optimizer", "too high"),
        "recompute_granularity": lambda value, document: (
            Meaning({"checkpointing": True}) if value == "full" else NO_EFFECT
        ),
        # v1/plugins/model_plugins/kernels/interface.py, _AUTO_KERNELS
        "use_v1_kernels": noted("applied on Ascend's NPUs alone"),
        **{key: _weighted(name) for key, (name, _) in switches("llamafactory").items()},
        "compute_accuracy": no_effect,
        "use_mca": missing("Megatron's training", "either way"),
        "use_megatron_bridge": missing("Megatron's training", "either way"),
        "train_from_scratch": no_effect,
        **free(_FREE),
    },
    under={**TRAINING_ARGUMENTS_UNDER, **free(_FREE, "under")},
)
