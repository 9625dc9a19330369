"""The calls of a plain script: from_pretrained, PEFT's LoraConfig and a Trainer of transformers or
TRL, with their own defaults."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_profiler.features.trainers._trl_keys import STACKS, TRL, trainer
from lora_profiler.trainer_files import shared_keys as shared
from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.meaning import (
    AUTO_DTYPE,
    NO_EFFECT,
    Framework,
    Meaning,
    Reader,
    dtype,
    free,
    is_on,
    missing,
    names,
    no_effect,
    not_modelled,
    sets,
    text,
)
from lora_profiler.trainer_files.ranks import usual_number
from lora_profiler.trainer_files.scripts import (
    ADAPTED,
    CONFIGURED,
    LOADED,
    PREPARED,
    QUANTIZED,
    STEPPED,
    TRAINED,
)
from lora_profiler.trainer_files.shared_keys import TRAINING_ARGUMENTS

_BASES = {"GPTQConfig": "gptq", "AwqConfig": "awq", "FineGrainedFP8Config": "fp8"}
_FREE = Path(__file__).with_name("free_keys.toml")
_GROUP = 128
"""Weights that share a scale, in each of them unless it says otherwise."""
_PEFT_TYPES = {"LoraConfig": "lora", "VeraConfig": "vera", "IA3Config": "ia3", "OFTConfig": "oft"}


def _stack(document: Document) -> str:
    stack = STACKS.get(str(document.get(TRAINED)), "transformers")
    is_old = stack == "trl-sft" and "max_seq_length" in document.entries
    return f"{stack}@0.14" if is_old else stack


def _method(document: Document) -> str:
    if ADAPTED not in document.entries:
        return "full"
    is_quantised = shared.loads_quantised(document) or QUANTIZED in document.entries
    return "qlora" if is_quantised else "lora"


def _loaded(value: Any, document: Document) -> Meaning:
    is_classifier = re.search(r"For(Sequence|Token)Classification$", str(value))
    if is_classifier is None or _stack(document) == "trl-reward":
        return NO_EFFECT
    return not_modelled("a classifier's head, answered as a language model's", "too high")


def _model(value: Any, document: Document) -> Meaning:
    """A trainer takes a name too; a model itself is none."""
    return Meaning({"model": text(value)}) if isinstance(value, str) else NO_EFFECT


def _adapted(value: Any, document: Document) -> Meaning:
    methods = (_method(document),)
    if value not in _PEFT_TYPES:
        return not_modelled(f"{value}, answered as LoRA", "either way", methods=methods)
    kind = _PEFT_TYPES[value]
    return Meaning({"methods": methods} | ({} if kind == "lora" else {"peft_type": kind}))


def _rank(value: Any, document: Document) -> Meaning:
    if document.get(ADAPTED) == "OFTConfig":
        return missing("OFT by its number of blocks", "either way")(value, document)
    return sets("rank")(value, document)


def _quantised(value: Any, document: Document) -> Meaning:
    return NO_EFFECT if ADAPTED not in document.entries else Meaning({"quant_type": _BASES[value]})


def _dequantised(value: Any, document: Document) -> Meaning:
    """Of Mxfp4Config, on whose base nothing trains; FP8's is none in 8 bit then."""
    if not is_on(value) or QUANTIZED not in document.entries:
        return NO_EFFECT
    return not_modelled("a base brought back to 16 bit", "too low")


def _prepared(value: Any, document: Document) -> Meaning:
    """PEFT's prepare_model_for_kbit_training, which checkpoints unless it is told not to."""
    if "use_gradient_checkpointing" in document.entries:
        return Meaning({"recipe": "kbit"})
    return Meaning({"recipe": "kbit", "checkpointing": True})


def _dropout(value: Any, document: Document) -> Meaning:
    with_dropout = ("Trainer", "SFTTrainer", "GRPOTrainer")
    by_default = document.get(TRAINED) in STACKS.keys() - with_dropout
    return shared.dropout(value, is_off=is_on(document.get("disable_dropout", by_default)))


def _targets(value: Any) -> str:
    """A text is a pattern, whatever stands in it."""
    if isinstance(value, str):
        return value if value == "all-linear" else f"re:{text(value)}"
    return "default" if value is None else names(value) or "none"


def _adapters_as_they_come(value: Any, document: Document) -> Meaning:
    """autocast_adapter_dtype off: adapters have the dtype of a base in 16 bit; beside packed
    weights, which have none to take, they stay float32."""
    if value is not False or _method(document) != "lora":
        return NO_EFFECT
    dtype = _loaded_dtype(document)
    if dtype == AUTO_DTYPE:
        what = "adapters in the checkpoint's dtype, answered as float32"
        return not_modelled(what, "too high")
    return Meaning({"adapter_dtype": dtype})


def _loaded_dtype(document: Document) -> str:
    return dtype(document.get("dtype", document.get("torch_dtype", AUTO_DTYPE)))


def _compute_dtype(value: Any, document: Document) -> Meaning:
    """bitsandbytes multiplies in the dtype of the weights beside, if the two are one."""
    if dtype(value) == "float32" and _loaded_dtype(document) != "float32":
        return not_modelled("products of the 4-bit base in float32", "too low")
    return NO_EFFECT


def _of_the_trainer(key: str) -> Reader:
    """What means something else to TRL's trainers than to transformers' own."""

    def read(value: Any, document: Document) -> Meaning:
        keys = TRAINING_ARGUMENTS if _stack(document) == "transformers" else TRL.keys
        return keys[key](value, document)

    return read


def _implied(document: Document) -> Iterator[tuple[str, Meaning]]:
    if ADAPTED not in document.entries:
        yield ADAPTED, Meaning({"methods": ("full",)})
    if LOADED in document.entries and _loaded_dtype(document) == AUTO_DTYPE:
        yield "dtype", Meaning({"dtype": AUTO_DTYPE}, note="the checkpoint's")
    is_plain = str(document.get(CONFIGURED)).endswith("TrainingArguments")
    if is_plain and _stack(document).startswith("trl"):  # SFTConfig(**args.to_dict()), TRL 1.16
        yield "gradient_checkpointing", Meaning({"checkpointing": False})
        if not is_on(document.get("fp16")):
            yield "bf16", Meaning({"precision": "pure"})
    if document.get(ADAPTED) == "VeraConfig":
        yield "r", Meaning({"rank": 256})
    if document.get("max_length") is None and _stack(document) == "transformers":
        yield "max_length", Meaning(asks=("seq_len",), note="the length is the data's")
    if is_on(document.get("load_in_4bit")):
        if document.get("bnb_4bit_compute_dtype") is None:
            yield "bnb_4bit_compute_dtype", _compute_dtype("float32", document)
        if document.get("bnb_4bit_quant_type") is None:
            yield "bnb_4bit_quant_type", shared.quant_type("fp4", document)


FRAMEWORK = Framework(
    yields=2,
    name="peft",
    title="PEFT",
    marks=frozenset(
        {LOADED, TRAINED, ADAPTED, PREPARED, "per_device_train_batch_size", "max_length"}
    ),  # the last two are TRL's as well: what is called decides
    stack=_stack,
    implied=_implied,
    checks=(shared.ONE_BASE, shared.ONE_AUTOCAST),
    keys={
        **TRL.keys,
        LOADED: _loaded,
        CONFIGURED: no_effect,
        TRAINED: trainer,
        "pretrained_model_name_or_path": sets("model"),
        "model": _model,
        "revision": sets("revision"),
        ADAPTED: _adapted,
        **shared.quantised_base(ADAPTED),
        PREPARED: _prepared,
        QUANTIZED: _quantised,
        STEPPED: lambda value, document: Meaning({"optimizer": "lorafa"}),
        "dequantize": _dequantised,
        "bits": usual_number(4, "a base in {} bit, answered in 4"),
        "group_size": usual_number(_GROUP, "a scale for each {} weights, answered for each 128"),
        **dict.fromkeys(("desc_act", "backend", "sym", "version", "lr"), no_effect),
        "use_gradient_checkpointing": shared.checkpointing,
        "bnb_4bit_compute_dtype": _compute_dtype,
        "bnb_4bit_use_double_quant": sets("double_quant"),
        "llm_int8_skip_modules": missing("layers left in 16 bit", "too low"),
        "r": _rank,
        "lora_dropout": _dropout,
        **dict.fromkeys(("vera_dropout", "module_dropout"), sets("dropout")),
        "feedforward_modules": sets("feedforward_modules"),
        "oft_block_size": sets("oft_block_size"),
        "target_modules": sets("targets", _targets),
        "target_parameters": sets("target_parameters"),
        "layers_to_transform": sets("layers_to_transform"),
        "modules_to_save": sets("modules_to_save"),
        "init_lora_weights": shared.initialisation,
        "autocast_adapter_dtype": _adapters_as_they_come,
        "rank_pattern": missing("ranks by layer", "either way"),
        "trainable_token_indices": missing("trained rows of the embedding", "too low"),
        "layer_replication": missing("replicated layers", "too low"),
        "lora_bias": missing("biases of adapters", "too low"),
        "label_smoothing_factor": _of_the_trainer("label_smoothing_factor"),
        "use_liger_kernel": _of_the_trainer("use_liger_kernel"),
        **free(_FREE),
    },
    under={**TRL.under, **free(_FREE, "under")},
)
