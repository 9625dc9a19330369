"""What keys of axolotl's files mean, read beside its schemas and code at 067b021 (July 2026); paths
without a project are its own."""

import re
from collections.abc import Mapping
from typing import Any

from lora_profiler.question.loss import all_losses, spellings, switches
from lora_profiler.trainer_files import shared_keys as shared
from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.meaning import (
    NO_EFFECT,
    Meaning,
    Reader,
    is_off,
    is_on,
    missing,
    not_modelled,
    number,
    size,
    size_of,
    text,
    when_on,
)


def adapter(value: Any, document: Document) -> Meaning:
    if is_off(value):
        return Meaning({"methods": ("full",)})
    name = text(value).lower()
    if name == "qlora" or (name == "lora" and shared.loads_quantised(document)):
        return Meaning({"methods": ("qlora",)})
    if name == "lora":
        return Meaning({"methods": ("lora",)})
    return not_modelled(f"the adapter {name}, answered as LoRA", "either way", methods=("lora",))


def bf16(value: Any, document: Document) -> Meaning:
    if value == "full":
        return Meaning({"precision": "pure", "dtype": "bfloat16"})
    if is_off(value) and is_off(document.get("fp16")) and value is not None:
        loads_16_bit = any(is_on(document.get(key)) for key in ("bfloat16", "float16"))
        return NO_EFFECT if loads_16_bit else Meaning({"precision": "pure", "dtype": "float32"})
    return shared.autocast(value, document)


def loads(kind: str) -> Reader:
    """Without autocast only where that is switched off: bf16 is auto by itself."""

    def read(value: Any, document: Document) -> Meaning:
        if is_off(value):
            return NO_EFFECT
        casts = is_on(document.get("bf16", "auto")) or is_on(document.get("fp16"))
        return Meaning({"dtype": kind} | ({} if casts else {"precision": "pure"}))

    return read


_PLUGINS = {name: s.plugin for name, s in spellings("axolotl").items() if s.plugin}
"""Words in the names of plugins that are a loss."""


def plugins(value: Any, document: Document) -> Meaning:
    meaning = Meaning()
    for plugin in value if isinstance(value, list) else [value]:
        kind = str(plugin).lower()
        if loss := next((name for name, words in _PLUGINS.items() if words in kind), None):
            meaning = Meaning({"loss": loss})
        elif any(word in kind for word in ("expert_parallel", "llm_compressor", "spectrum")):
            meaning = _with_missing(
                meaning, f"the plugin {str(plugin).rpartition('.')[2]}", "too high"
            )
        elif any(word in kind for word in (".kd", "densemixer", "diffusion", "nemo", "hatchery")):
            meaning = _with_missing(
                meaning, f"the plugin {str(plugin).rpartition('.')[2]}", "too low"
            )
        elif "kernels" in kind:
            meaning = _with_missing(meaning, "axolotl's own kernels", "either way")
        elif not any(word in kind for word in ("liger", "swanlab", "lm_eval", "grokfast")):
            meaning = _with_missing(meaning, f"the plugin {plugin}", "either way")
    return meaning


def _with_missing(meaning: Meaning, what: str, direction: Any) -> Meaning:
    both = "; ".join(filter(None, (meaning.missing, what)))
    same = meaning.direction in (None, direction)
    return meaning._replace(missing=both, direction=direction if same else "either way")


def validation(value: Any, document: Document) -> Meaning:
    if is_off(value) or (isinstance(value, int | float | str) and number(value) == 0):
        return NO_EFFECT
    if is_off(document.get("eval_strategy", True)):
        return NO_EFFECT
    return evaluated(document)


def tested(value: Any, document: Document) -> Meaning:
    return NO_EFFECT if is_off(value) else evaluated(document)


def evaluated(document: Document) -> Meaning:
    """In batches of its own size, or of the training's."""
    usual = size_of(document, "micro_batch_size", 1)
    return Meaning({"eval_batch_size": size_of(document, "eval_batch_size", usual)})


def preference(value: Any, document: Document) -> Meaning:
    if is_off(value):
        return NO_EFFECT
    if compares(document):
        return Meaning(note="pairs; the reference is the model without its adapters, or a copy")
    return not_modelled(f"rl: {value}, answered as supervised fine-tuning", "too low")


def compares(document: Document) -> bool:
    """Whether its DPO trainer runs (core/trainers/dpo)."""
    return str(document.get("rl")).lower() in ("dpo", "ipo")


def dropout(value: Any, document: Document) -> Meaning:
    return shared.dropout(value, is_off=compares(document))


def model_type(value: Any, document: Document) -> Meaning:
    is_small = any(kind in str(value) for kind in ("SequenceClassification", "TokenClassification"))
    scores = next((name for name, loss in all_losses().items() if loss.one_score), None)
    return Meaning({"loss": scores}) if is_small and scores else NO_EFFECT


def batch(value: Any, document: Document) -> Meaning:
    """A reward model sees both answers of each pair (TRL 1.9, reward_trainer.py)."""
    if is_on(document.get("reward_model")):
        return Meaning({"batch_size": 2 * size(value)}, note="a row for each of the two answers")
    return Meaning({"batch_size": size(value)})


def image_size(value: Any, document: Document) -> Meaning:
    """Brought to a width and height, or padded to a square (processing_strategies.py)."""
    if value is None or is_off(document.get("processor_type")):
        return NO_EFFECT
    width, height = map(size, value if isinstance(value, list) else [value, value])
    return Meaning({"image_size": f"{width}x{height}"})


resized = when_on(note="none is added where the model has rows for all, a multiple of 32")
"""Rows are added only where the tokenizer has more than the model (loaders/model.py)."""


def gptq(value: Any, document: Document) -> Meaning:
    """A checkpoint of GPTQ, on which an adapter trains."""
    if is_off(value) or is_off(document.get("adapter")):
        return NO_EFFECT
    return Meaning({"methods": ("qlora",), "quant_type": "gptq"})


def unfrozen(value: Any, document: Document) -> Meaning:
    """Patterns are matched from the beginning of a name, which PEFT has begin with base_model
    (train.py, setup_model_and_tokenizer; utils/freeze.py). One that begins with another word
    reaches no adapter."""
    if is_off(value):
        return NO_EFFECT
    patterns = value if isinstance(value, list) else [value]
    others = all(re.match(r"\^?(?!base_model)\w+", str(pattern)) for pattern in patterns)
    if is_off(document.get("adapter")) or not others:
        return not_modelled("some parameters frozen", "too high")
    what = "adapters frozen by unfrozen_parameters, so that nothing trains, answered as if they did"
    return not_modelled(what, "too high")


def quantized_experts(value: Any, document: Document) -> Meaning:
    """In 8 bit they are brought back to float32 (monkeypatch/moe_quant.py)."""
    if is_off(value):
        return NO_EFFECT
    if is_on(document.get("load_in_8bit")):
        return not_modelled("experts in 8 bit, answered in 16", "either way")
    return Meaning({"quantize_experts": True})


def quantized_as(value: Any, document: Document) -> Meaning:
    if is_off(value) or is_on(document.get("model_quantization_config_kwargs.dequantize")):
        return NO_EFFECT
    return not_modelled(f"the base as {value} stores it", "too high")


# --- kernels --------------------------------------------------------------------------------------


LORA_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel")
LIGER = ("liger_rms_norm", "liger_rope", "liger_glu_activation")


SWITCHES = {
    key: when_on(loss=name, note=spelling.note)
    for key, (name, spelling) in switches("axolotl").items()
}
"""Of losses."""


def liger(value: Any, document: Document) -> Meaning:
    """Liger's kernels are one option: all three of them."""
    if is_off(value):
        return NO_EFFECT
    on = [key for key in LIGER if is_on(document.get(key))]
    if is_on(document.get("liger_swiglu")) and "liger_glu_activation" not in on:
        on.append("liger_swiglu")
    if len(on) == len(LIGER):
        return Meaning({"kernels": "liger"})
    return not_modelled("only some of Liger's kernels, answered without them", "too high")


def all_lora_kernels(document: Document) -> Meaning:
    """No rule is of them with DoRA or in float16, and a base in GPTQ has no weights for them."""
    blocking_key = next(
        (k for k in ("peft_use_dora", "fp16", "gptq") if is_on(document.get(k))), None
    )
    if blocking_key is None:
        return Meaning({"lora_kernels": "axolotl"})
    what = f"axolotl's LoRA kernels with {blocking_key}, answered as PEFT's adapters"
    return not_modelled(what, "too high", lora_kernels="peft")


def lora_kernel(value: Any, document: Document) -> Meaning:
    """Its LoRA kernels are one option: all three of them."""
    on = [key for key in LORA_KERNELS if is_on(document.get(key))]
    if not on or is_off(document.get("adapter")):
        return Meaning({"lora_kernels": "peft"}) if not on else NO_EFFECT
    if is_off(value):
        return NO_EFFECT
    if len(on) == len(LORA_KERNELS):
        return all_lora_kernels(document)
    what = "only some of axolotl's LoRA kernels, answered with all"
    return not_modelled(what, "too low", lora_kernels="axolotl")


def embedding_kernel(value: Any, document: Document) -> Meaning:
    if is_off(value) or "embed_tokens" not in str(document.get("lora_target_modules")):
        return NO_EFFECT
    return not_modelled("a kernel for adapters on the embedding", "either way")


OTHER_KERNELS = missing("kernels of experts or attention", "either way")


def experts(value: Any, document: Document) -> Meaning:
    """grouped_mm is what transformers 5 takes by itself, and the rules know."""
    return NO_EFFECT if value == "grouped_mm" else OTHER_KERNELS(value, document)


# --- what waits on the host -----------------------------------------------------------------------


def checkpointing(value: Any, document: Document) -> Meaning:
    """axolotl's gradient_checkpointing: `offload` is an older name of activation_offloading
    (utils/schemas/validation.py). Of whole models layers are wrapped then, never the reentrant
    way; adapters' are checkpointed as without (loaders/model.py)."""
    by_name = str(value).lower() == "offload"
    by_key = document.get("activation_offloading") is True
    if not (by_name or by_key):
        return shared.checkpointing(value, document)
    options: dict[str, Any] = {"checkpointing": True}
    if is_off(document.get("adapter")):
        options["use_reentrant"] = False
    return _moved(document, options) if by_name else Meaning(options)


def reentrant(value: Any, document: Document) -> Meaning:
    """axolotl's gradient_checkpointing_kwargs.use_reentrant. PEFT's k-bit preparation, which one
    card has, asks for checkpoints without it, which are reentrant, and where activations are moved
    nobody asks again (PEFT 0.20 `utils/other.py`, prepare_model_for_kbit_training;
    core/builders/base.py)."""
    moves = document.get("activation_offloading") is True or (
        str(document.get("gradient_checkpointing")).lower() == "offload"
    )
    packs = any(is_on(document.get(key)) for key in ("load_in_4bit", "load_in_8bit"))
    is_alone = is_on(document.get("adapter")) and not _shares(document)
    if moves and packs and is_alone and not is_on(value):
        return Meaning(note="PEFT's k-bit preparation makes checkpoints reentrant")
    return shared.reentrant(value, document)


def activations(value: Any, document: Document) -> Meaning:
    """axolotl's activation_offloading: by OffloadActivations where it is true."""
    if is_off(value):
        return NO_EFFECT
    if value is True:
        return _moved(document, {})
    return not_modelled(f"activations offloaded to CPU ({value}), predicted on the GPU", "too high")


def _moved(document: Document, options: Mapping[str, Any]) -> Meaning:
    """Of adapters on several cards that may share the weights, checkpointed the reentrant way,
    axolotl moves gathered weights too, which is not known."""
    kept = document.get("gradient_checkpointing_kwargs.use_reentrant") is False
    if is_on(document.get("adapter")) and _shares(document) and not kept:
        what = "activations of gathered weights offloaded to CPU, predicted on the GPU"
        return not_modelled(what, "too high", **options)
    return Meaning({**options, "offload_activations": True})


def _shares(document: Document) -> bool:
    named = any(document.get(key) for key in ("fsdp", "deepspeed"))
    return named or document.has_under("fsdp_config")


# --- quantisation-aware training ------------------------------------------------------------------


_FP8 = ("fp8", "float8", "float8_e4m3fn")
_SCHEMES = {
    ("int8", "int4"): "int8-int4",
    ("", "int4"): "int4",
    ("fp8", "int4"): "fp8-int4",
    ("fp8", "fp8"): "fp8-fp8",
}
"""By the formats of inputs and weights (axolotl utils/quantization.py, get_quantization_config)."""
_GROUPS = {"int4": 128, "int8-int4": 32, "phone-deployment": 32, "fp8-int4": 128, "fp8-fp8": 32}
"""Unsloth's (models/_utils.py, _prepare_model_for_qat)."""


def fake_quantized(value: Any, document: Document) -> Meaning:
    """qat.weight_dtype, with what stands beside it."""
    formats = tuple(
        "fp8" if (name := str(kind or "").lower()) in _FP8 else name
        for kind in (document.get("qat.activation_dtype"), value)
    )
    scheme = _SCHEMES.get((formats[0], formats[1]))
    if formats[1] == "nvfp4":  # torchao's _infer_fake_quantize_configs knows no weights alone
        what = "in nvfp4, at which torchao 0.17 and 0.18 stop as axolotl asks for it"
        return not_modelled(f"quantisation-aware training {what}", "either way")
    if scheme is None:
        named = "-".join(filter(None, formats))
        return not_modelled(f"quantisation-aware training in {named}", "too low")
    options = {"qat": scheme, "qat_group_size": size_of(document, "qat.group_size", 32)}
    if is_on(document.get("qat.quantize_embedding")):
        return not_modelled("a fake-quantised embedding", "too low", **options)
    return Meaning(options)
