"""torchtune's recipe configurations, read at bd2a0fc (April 2026)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_profiler.question.loss import spellings
from lora_profiler.question.optimizer import all_optimizers
from lora_profiler.trainer_files import ranks
from lora_profiler.trainer_files import shared_keys as shared
from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.meaning import (
    NO_EFFECT,
    Framework,
    Meaning,
    covered_by,
    dtype,
    free,
    is_off,
    is_on,
    missing,
    missing_above,
    names,
    no_effect,
    not_modelled,
    read_table,
    sets,
    size,
    size_of,
    text,
)

_FREE = Path(__file__).with_name("free_keys.toml")
MODELS: dict[str, str] = read_table(Path(__file__).with_name("models.toml"))
"""Builders and the models of the hub that they build."""
_MLP = ("gate_proj", "up_proj", "down_proj")
_PAIRS = "DPOLoss"
_LOSSES = {s.component.rpartition(".")[2]: name for name, s in spellings("torchtune").items()}
_BUILDER = r"torchtune\.models\.(?P<family>\w+)\.(?P<kind>qlora_|lora_)?(?P<builder>\w+)"


def builder(document: Document) -> re.Match[str] | None:
    return re.fullmatch(_BUILDER, str(document.get("model._component_", "")))


def _model(value: Any, document: Document) -> Meaning:
    """The checkpoint's folder has the model's name; its builder tells whether it has adapters."""
    parts = builder(document)
    if parts is None:
        raise ValueError("no builder of torchtune.models.")
    method = {"qlora_": "qlora", "lora_": "lora"}.get(parts["kind"] or "", "full")
    if method == "lora" and is_on(document.get("model.quantize_base")):
        method = "qlora"
    name = f"{parts['family']}.{parts['builder']}"
    plain = re.sub(r"_(instruct|base)$", "", name)
    model = MODELS.get(name) or MODELS.get(plain)
    options: dict[str, Any] = {"methods": (method,)}
    if model is not None:
        options["model"] = model
    elif (folder := _folder(document)) is not None:
        options["model"] = folder
    else:
        return Meaning(options, asks=("model",))
    if "vision" in name:
        return Meaning({"images": 1, **options}, note=shared.ONE_IMAGE)
    return Meaning(options)


def _folder(document: Document) -> str | None:
    folder = str(document.get("checkpointer.checkpoint_dir", "")).removesuffix("/original/")
    name = folder.rstrip("/").rpartition("/")[2]
    return name if re.fullmatch(r"[\w.\-]+", name) else None


def _targets(value: Any, document: Document) -> Meaning:
    """The names of the projections, in transformers' spelling."""
    wanted = [
        name.replace("output_proj", "o_proj") for name in (names(value) or "").split(",") if name
    ]
    if is_on(document.get("model.apply_lora_to_mlp")):
        wanted += _MLP
    if is_on(document.get("model.apply_lora_to_output")):
        wanted.append("lm_head")
    if not wanted:
        raise ValueError("it must name at least one projection.")
    if _sees(document):
        return Meaning({"targets": _of_parts(wanted, document)})
    return Meaning({"targets": ",".join(dict.fromkeys(wanted))})


_SIGHT = "llama3_2_vision"
_PLACES = {
    "decoder": (r"language_model\.layers\.\d*[0-24-79]\.",),
    "encoder": (r"vision_model\.transformer\.",),
    "fusion": (r"language_model\.layers\.\d*[38]\.", r"vision_model\.global_transformer\."),
}
"""Where transformers has the parts of Llama 3.2 Vision that torchtune trains or freezes: every
fifth layer from the fourth on looks at images (`models/llama3_2_vision/_component_builders.py`)."""
_USUAL_PARTS = {"decoder": False, "encoder": True, "fusion": True}
_HEADS = {"decoder": "lm_head", "fusion": r".*multi_modal_projector"}


def _sees(document: Document) -> bool:
    parts = builder(document)
    return parts is not None and parts["family"] == _SIGHT


def _of_parts(wanted: list[str], document: Document) -> str:
    """The pattern of adapters on the layers called so in the parts that have some."""
    has = {
        part: document.get(f"model.{part}_trainable", usual) not in ("frozen", False)
        for part, usual in _USUAL_PARTS.items()
    }
    names = [*wanted, *(("fc1", "fc2") if "up_proj" in wanted else ())]
    places = "|".join(place for part in has if has[part] for place in _PLACES[part])
    heads = "".join(f"|{head}" for part, head in _HEADS.items() if has[part] and "lm_head" in names)
    layers = "|".join(name for name in names if name != "lm_head")
    return rf"re:.*({places}).*({layers}){heads}"


def _optimizer(value: Any, document: Document) -> Meaning:
    name = text(value).rpartition(".")[2]
    is_fused = is_on(document.get("optimizer.fused"))
    if name == "AdamW":
        return Meaning({"optimizer": "adamw", "optimizer_impl": "fused" if is_fused else "foreach"})
    of_torchao = "torchao" in text(value)  # which has classes of bitsandbytes' names
    for optimizer, facts in all_optimizers().items():
        made, classes = facts.package, facts.classes
        is_of_torchao = made is not None and made.package == "torchao"
        if made is not None and is_of_torchao:
            classes = (made.kind,)
        if name in classes and is_of_torchao == of_torchao and facts.optim:
            return Meaning({"optimizer": optimizer})
    return not_modelled(f"{name}, answered as adamw", "either way", optimizer="adamw")


def _in_backward(value: Any, document: Document) -> Meaning:
    """Of full training on one device, by an optimizer that makes nothing beside its states."""
    if is_off(value):
        return NO_EFFECT
    optimizer = text(document.get("optimizer._component_")).rpartition(".")[2]
    makes_nothing = optimizer.startswith("Paged") or is_on(document.get("optimizer.fused"))
    if makes_nothing:
        return Meaning({"optimizer_in_bwd": True})
    return not_modelled("an optimizer that steps in backward", "too high")


def _loss(value: Any, document: Document) -> Meaning:
    name = text(value).rpartition(".")[2]
    if name in _LOSSES:
        return Meaning({"loss": _LOSSES[name]})
    if name == _PAIRS:
        return Meaning(note="pairs; the reference is the model without its adapters, or a copy")
    return not_modelled(f"{name}, answered as supervised fine-tuning", "too low")


_OLD_HOME = "torchtune.utils."
"""Where checkpointers and loggers were until torchtune 0.2; 0.3 has them in torchtune.training."""
_AT_HOME = ("checkpointer._component_", "metric_logger._component_")


def _stack(document: Document) -> str:
    if str(document.get("loss._component_")).endswith(f".{_PAIRS}"):
        return "torchtune-dpo"
    is_old = any(str(document.get(key)).startswith(_OLD_HOME) for key in _AT_HOME)
    return "torchtune@0.2" if is_old else "torchtune"


def _home(value: Any, document: Document) -> Meaning:
    if not text(value).startswith(_OLD_HOME):
        return NO_EFFECT
    return Meaning(note=f"{_OLD_HOME[:-1]} has it in torchtune 0.2 and before: answered as 0.2")


def _length(value: Any, document: Document) -> Meaning:
    if value is None:
        return Meaning(asks=("seq_len",), note="null: the length is the data's")
    return shared.cut_off(value, document)


def _packed(value: Any, document: Document) -> Meaning:
    if is_off(value):
        return NO_EFFECT
    what = "the mask of packed rows, without --packed and the data's mean length"
    return not_modelled(what, "either way")


def _dtype(value: Any, document: Document) -> Meaning:
    kind = dtype(value)
    return Meaning({"dtype": kind, "precision": "pure", "adapter_dtype": kind})


def _validation(value: Any, document: Document) -> Meaning:
    if value is None:
        return NO_EFFECT
    usual = document.get("batch_size", 2)
    rows = document.get("batch_size_val", usual)
    return Meaning({"eval_batch_size": size(usual if rows == "${batch_size}" else rows)})


def _fake_quantized(value: Any, document: Document) -> Meaning:
    """Groups are of 256 weights unless told."""
    if is_off(value):
        return NO_EFFECT
    name = str(value).rpartition(".")[2]
    if not name.startswith("Int8DynActInt4WeightQATQuantizer"):
        return not_modelled(f"quantisation-aware training by {name}", "too low")
    return Meaning(
        {"qat": "8da4w", "qat_group_size": size_of(document, "quantizer.groupsize", 256)}
    )


def _part(value: Any, document: Document) -> Meaning:
    """Adapters are where `_targets` says; without them no option freezes such a part."""
    is_frozen = value in ("frozen", False, None)
    parts = builder(document)
    if parts is None or parts["family"] != _SIGHT:
        return NO_EFFECT if is_frozen else Meaning({"images": 1})
    if is_frozen and parts["kind"] is None:
        return not_modelled("a part that is frozen, answered as trained", "too high")
    return NO_EFFECT


def _decoder(value: Any, document: Document) -> Meaning:
    parts = builder(document)
    in_4_bit = parts is not None and (
        parts["kind"] == "qlora_" or is_on(document.get("model.quantize_base"))
    )
    if _sees(document) and in_4_bit and value == "frozen":
        what = "a frozen decoder's attention, which stays in 16 bit, answered in 4"
        return not_modelled(what, "too low")
    return _part(value, document)


def _implied(document: Document) -> Iterator[tuple[str, Meaning]]:
    if "tokenizer.max_seq_len" not in document.entries:
        yield "tokenizer.max_seq_len", _length(None, document)
    if "model.decoder_trainable" not in document.entries and _sees(document):
        meaning = _decoder("frozen", document)
        if meaning.missing:
            yield "model.decoder_trainable", meaning
    if "model.lora_attn_modules" not in document.entries and is_on(
        document.get("model.apply_lora_to_mlp")
    ):
        yield "model.lora_attn_modules", _targets([], document)


def _other_framework(document: Document) -> tuple[str, str] | None:
    key = "model._component_"
    if key in document.entries and builder(document) is None:
        return key, f"{str(document.get(key))[:60]} is no builder of torchtune.models."
    return None


def _params_on_host(value: Any, document: Document) -> Meaning:
    """Of a recipe for several cards, which shards by FSDP2 and says nowhere else that it does."""
    if is_off(value):
        return NO_EFFECT
    reshards = not is_off(document.get("fsdp_reshard_after_forward", True))
    sharding = {"sharding": "fsdp"} if reshards else {}
    return Meaning({"offload_params": True, **sharding}, asks=("world_size",))


def _no_training(document: Document) -> tuple[str, str] | None:
    """Files of the recipes generate, eleuther_eval and quantize (recipes/configs): no optimizer,
    but tasks, a prompt or a quantizer."""
    if any(key.startswith("optimizer") for key in document.entries):
        return None
    idle = ("tasks", "prompt", "prompt.user", "max_new_tokens", "quantizer._component_")
    key = next((key for key in idle if key in document.entries), None)
    if key is None:
        return None
    return key, f"{key} without optimizer: this file trains nothing; name one that does."


FRAMEWORK = Framework(
    name="torchtune",
    title="torchtune",
    sharding_of_several="fsdp",  # of its recipes (torchtune 0.6, recipes/)
    marks=frozenset(
        {"model._component_", "optimizer._component_", "tokenizer._component_", "loss._component_"}
    ),
    stack=_stack,
    implied=_implied,
    checks=(_other_framework, _no_training),
    keys={
        "model._component_": _model,
        "model.lora_rank": sets("rank"),
        "model.lora_alpha": sets("alpha"),
        "model.lora_dropout": sets("dropout"),
        "model.lora_attn_modules": _targets,
        "model.apply_lora_to_mlp": no_effect,
        "model.apply_lora_to_output": no_effect,
        "model.quantize_base": no_effect,
        "model.use_dora": sets("use_dora"),
        "model.decoder_trainable": _decoder,
        "model.encoder_trainable": _part,
        "model.fusion_trainable": _part,
        "model.image_size": shared.images,
        "batch_size": sets("batch_size"),
        "gradient_accumulation_steps": sets("accumulation"),
        "tokenizer.max_seq_len": _length,
        "dataset.packed": _packed,
        "optimizer._component_": _optimizer,
        "optimizer.fused": no_effect,
        "optimizer_in_bwd": _in_backward,
        "loss._component_": _loss,
        "dtype": _dtype,
        **dict.fromkeys(_AT_HOME, _home),
        "enable_activation_checkpointing": sets("checkpointing"),
        **dict.fromkeys(("ac_mode", "ac_option"), missing("selective checkpointing", "either way")),
        "enable_activation_offloading": sets("offload_activations"),
        "quantizer._component_": _fake_quantized,
        "kd_loss._component_": missing("distillation's teacher and loss", "too low"),
        "compile": shared.compiled,
        "run_val_every_n_steps": _validation,
        **dict.fromkeys(("fsdp_cpu_offload", "fsdp.cpu_offload"), _params_on_host),
        "fsdp_reshard_after_forward": ranks.fsdp_strategy(2),
        "data_parallel_replicate_dim": missing_above(
            1, "FSDP within each replica, answered as over all ranks", "too low"
        ),
        "custom_sharded_layers": missing(
            "layers that FSDP shards by themselves, answered with all but the decoder's as one",
            "too high",
        ),
        "tensor_parallel_dim": ranks.parallel("each layer", "tensor parallelism"),
        "context_parallel_dim": ranks.parallel("the sequence", "context parallelism"),
        "device": lambda value, document: (
            Meaning({"device": "cpu"}) if value == "cpu" else NO_EFFECT
        ),
        **free(_FREE),
    },
    under={
        **free(_FREE, "under"),
        "quantizer.": covered_by("quantizer._component_"),
        **dict.fromkeys(("teacher_", "kd_"), covered_by("kd_loss._component_")),
        **dict.fromkeys(
            (
                *("ref_", "policy_", "reward_", "value_", "ppo_", "grpo_", "forward_batch_size"),
                *("max_generated_tokens", "num_steps", "temperature", "top_k", "gamma", "lmbda"),
                *("kl_coeff", "enable_kv_cache", "min_response_length", "penalise_no_eos"),
                *("stop_token_ids", "whiten_rewards"),
            ),
            covered_by("loss._component_"),
        ),
        "model.": missing("a model's own sizes", "either way"),
    },
)
