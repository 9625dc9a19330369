"""The calls of an Unsloth notebook: FastLanguageModel's and the trainer's arguments."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_profiler.features.trainers._trl_keys import TRL, task, trainer
from lora_profiler.question.kernel_set import kernel_set
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.trainer_files import shared_keys as shared
from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.meaning import (
    NO_EFFECT,
    VLLM_SHARE,
    Framework,
    Meaning,
    covered_by,
    free,
    is_off,
    is_on,
    missing,
    names,
    no_effect,
    not_modelled,
    sets,
    share,
    size,
)
from lora_profiler.trainer_files.scripts import FAST_ADAPTED, STANDBY, TRAINED
from lora_profiler.trainer_files.trainer_file import KeyReading, TrainerFile, instead, settled_by

LEAST_OFFLOADED_LENGTH = 512
_FREE = Path(__file__).with_name("free_keys.toml")
_BATCH, _STEPS, _GROUP = 4, 2, 8
"""Of its trainers' arguments, where none is said: batch, accumulation, generations of a prompt
(Unsloth 2026.10.9, `models/rl.py`)."""


def _checkpointing(value: Any, document: Document) -> Meaning:
    """Offloaded ones are ordinary below 512 tokens (unsloth 015bdef, `models/_utils.py`,
    apply_unsloth_gradient_checkpointing)."""
    if value is None:
        return NO_EFFECT
    if value == "unsloth":
        length = document.get("max_seq_length")
        is_short = isinstance(length, int) and length < LEAST_OFFLOADED_LENGTH
        return Meaning({"checkpointing": True, "offload_checkpoints": not is_short})
    meaning = shared.checkpointing(value, document)
    return meaning._replace(options={**meaning.options, "offload_checkpoints": False})


def _method(document: Document) -> str:
    """In 4 bit unless it says otherwise, but embeddings (unsloth 015bdef, `models/loader.py`)."""
    is_adapted = {"r", FAST_ADAPTED} & document.entries.keys()
    if is_on(document.get("full_finetuning")) or not is_adapted:
        return "full"
    others = ("load_in_8bit", "load_in_16bit", "load_in_fp8")
    is_other = TRAINED in document.entries or any(is_on(document.get(key)) for key in others)
    return "qlora" if is_on(document.get("load_in_4bit", not is_other)) else "lora"


def _adapted(value: Any, document: Document) -> Meaning:
    """Embeddings and heads in a list of modules train whole (2026.10.9, `models/_utils.py`,
    _redirect_embedding_targets)."""
    if not isinstance(value, list) or not (whole := [n for n in value if _is_whole(n)]):
        return sets("targets")(value, document)
    saved = (names(document.get("modules_to_save") or []) or "").split(",")
    left = ",".join(name for name in value if name not in whole)
    modules = ",".join(dict.fromkeys([*filter(None, saved), *whole]))
    note = f"Unsloth trains {' and '.join(whole)} whole"
    return Meaning({"targets": left, "modules_to_save": modules}, note=note)


def _saved(value: Any, document: Document) -> Meaning:
    """With what the targets add to it."""
    named = document.get("target_modules")
    added = isinstance(named, list) and any(map(_is_whole, named))
    return NO_EFFECT if added else sets("modules_to_save")(value, document)


def _is_whole(name: str) -> bool:
    return name.rpartition(".")[2] in ("embed_tokens", "lm_head")


def _fp8(value: Any, document: Document) -> Meaning:
    if is_off(value) or "r" not in document.entries:
        return NO_EFFECT
    what = "a base in FP8 with a scale for each row, answered as by blocks"
    return not_modelled(what, "either way", methods=("qlora",), quant_type="fp8")


def _stack(document: Document) -> str:
    return {"dpo": "unsloth-dpo", "grpo": "unsloth-grpo"}.get(task(document), "unsloth")


def _batch(value: Any, document: Document) -> Meaning:
    """Of GRPO num_generations where these do not divide a step (2026.10.9, `models/rl.py`)."""
    group = document.get("num_generations", _GROUP)
    steps = document.get("gradient_accumulation_steps", _STEPS)
    counted = isinstance(group, int) and isinstance(steps, int)
    is_cut = any(document.get(key) for key in ("steps_per_generation", "generation_batch_size"))
    if task(document) != "grpo" or not counted or is_cut or size(value) * steps % group == 0:
        return Meaning({"batch_size": size(value)})
    note = f"Unsloth makes it num_generations, {group}, which does not divide a step"
    return Meaning({"batch_size": group}, note=note)


def _completion(value: Any, document: Document) -> Meaning:
    """Of GRPO prompt and answer are one row, max_seq_length tokens where nobody says less."""
    prompt = document.get("max_prompt_length")
    if task(document) != "grpo":
        is_told = value is not None and prompt is not None
        return Meaning({"seq_len": size(prompt) + size(value)}) if is_told else NO_EFFECT
    made = {"max_completion_length": size(value)}
    return Meaning(made if prompt is None else {**made, "seq_len": size(prompt) + size(value)})


def _at_once(value: Any, document: Document) -> Meaning:
    makes = task(document) == "grpo" and not _uses_vllm(document) and is_on(value)
    return Meaning({"generation_batch_size": size(value)}) if makes else NO_EFFECT


def _uses_vllm(document: Document) -> bool:
    return is_on(document.get("fast_inference")) or is_on(document.get("use_vllm"))


def _share(value: Any, document: Document) -> Meaning:
    """vLLM's weights are those that train, and in standby it gives its cache back while they do
    (unsloth_zoo ce232d6, vllm_utils.py, load_vllm; unsloth 015bdef, models/llama.py)."""
    if is_off(document.get("fast_inference")):
        return NO_EFFECT
    if is_on(document.get(STANDBY)) or is_on(document.get("unsloth_vllm_standby")):
        return Meaning(note="vLLM gives its cache back while the model trains, in standby")
    what = "the base that vLLM shares, counted twice"
    return not_modelled(what, "too high", **{VLLM_SHARE: share(value)})


def _embedding(value: Any, document: Document) -> Meaning:
    """ "auto" moves it where the card is full (Unsloth 2026.10.9, models/_utils.py,
    offload_embedding_if_tight)."""
    if is_off(value) or value == "auto":
        return NO_EFFECT
    return Meaning({"offload_embedding": True})


_GROUPS = {"int4": 128, "int8-int4": 32, "phone-deployment": 32, "fp8-int4": 128, "fp8-fp8": 32}
"""Weights that share a scale, by its schemes (models/_utils.py, _prepare_model_for_qat)."""


def _fake_quantized(value: Any, document: Document) -> Meaning:
    """Of a model with adapters it fake-quantises those too, where groups go into them."""
    if is_off(value):
        return NO_EFFECT
    scheme = str(value)
    if scheme not in _GROUPS:
        return not_modelled(f"quantisation-aware training in {scheme}", "too low")
    group = _GROUPS[scheme]
    options = {"qat": scheme.replace("phone-deployment", "int8-int4"), "qat_group_size": group}
    options["loss"] = "plain"  # Unsloth's own is not known of a head that is rounded
    if is_on(document.get("full_finetuning")):
        what = "Unsloth's loss of a rounded head, answered as transformers'"
        return not_modelled(what, "too high", **options)
    return not_modelled("fake-quantised adapters, answered as a base that is", "too low", **options)


def _implied(document: Document) -> Iterator[tuple[str, Meaning]]:
    yield "get_peft_model", Meaning({"methods": (_method(document),)})
    if FAST_ADAPTED in document.entries and _method(document) != "full":
        yield "r", Meaning({"rank": 16})
    kind = task(document)
    if kind not in ("sft", "dpo", "grpo"):
        yield "loss", not_modelled(f"{kind.upper()}'s loss, answered as SFT's", "too low")
    if is_on(document.get("fast_inference")):
        yield "gpu_memory_utilization", _share(0.5, document)
    if kind != "grpo":
        return
    yield "per_device_train_batch_size", _batch(_BATCH, document)
    if _uses_vllm(document):
        yield "use_vllm", Meaning({"use_vllm": True})
    # where it is not said: Unsloth 2026.10.9, models/rl.py
    if document.get("loss_type") not in (None, "dapo", "dr_grpo"):
        yield "beta", Meaning({"beta": 0.001})
    row, prompt = document.get("max_seq_length"), document.get("max_prompt_length", 1)
    if "max_completion_length" in document.computed and isinstance(row, int) and prompt < row:
        yield "max_completion_length", Meaning({"max_completion_length": row - prompt})


def _language_targets(file: TrainerFile, model: ModelSpec) -> str | None:
    """What Unsloth adapts with the vision side off: linear layers of attention and MLPs in the
    language model, of a list of modules those that it names (unsloth_zoo ce232d6, `peft_utils.py`,
    get_peft_regex; "all-linear" turns every side on: unsloth 015bdef, `models/vision.py`). None
    for a model without such a side, or where the file says otherwise."""
    switches = {row.key: is_on(row.value) for row in file.keys}
    named = str(file.options.get("targets", ""))
    if "full" in file.options.get("methods", ()):
        return None
    if switches.get("finetune_vision_layers", True) or named.startswith(("re:", "all-linear")):
        return None
    inner = r".*?language.*?(?:self_attn|attention|attn|mixer|mlp|feed_forward|ffn|dense).*?"
    linear = (name for name, module in model.modules() if module.is_linear)
    leaves = {name.rpartition(".")[2] for name in linear if re.match(inner, name)}
    if named:
        leaves &= set(named.split(","))
    return f"re:{inner}(?:{'|'.join(sorted(leaves))})" if leaves else None


def _on_model(file: TrainerFile, model: ModelSpec) -> Iterator[KeyReading]:
    effective, kind = file.effective_options, model.model_type
    if effective.get("loss") == "unsloth" and kind not in kernel_set("unsloth").types:
        what = f"Unsloth's compiled code of {kind}, answered as transformers' own"
        yield instead(file.name, "kernels", "unsloth", "transformers", what, "either way")
    if "qlora" in file.options.get("methods", ()) and kind == "gpt_oss":
        # its copies in 4 bit have a layer each (2026.10.9, `models/_utils.py`)
        what = "experts in 4 bit as layers of their own, answered as packed ones"
        yield instead(file.name, "quantize_experts", "layers", True, what, "either way")
    if (pattern := _language_targets(file, model)) is not None:
        note = "Unsloth's choice where the vision side is left alone"
        yield settled_by(file.name, "targets", "language layers", pattern, note)
    is_shared = model.has_tied_head or effective.get("world_size", 1) > 1
    if effective.get("offload_embedding") and is_shared:
        note = "Unsloth leaves an embedding that is the head too, or one of several ranks"
        yield settled_by(file.name, "offload_embedding", True, False, note)


FRAMEWORK = Framework(
    on_model=_on_model,
    name="unsloth",
    title="Unsloth",
    marks=frozenset(
        {
            "model_name",
            FAST_ADAPTED,
            "r",
            "random_state",
            "use_gradient_checkpointing",
            "fast_inference",
        }
        | {"full_finetuning", "finetune_vision_layers"}
    ),
    stack=_stack,
    implied=_implied,
    checks=(shared.ONE_BASE,),
    keys={
        **TRL.keys,
        "generation_batch_size": _at_once,
        "model_name": sets("model"),
        **dict.fromkeys(("max_length", "max_seq_length"), sets("seq_len")),
        "per_device_train_batch_size": _batch,
        **shared.quantised_base("r"),
        "load_in_16bit": no_effect,
        "load_in_fp8": _fp8,
        "full_finetuning": no_effect,
        "r": sets("rank"),
        "target_modules": _adapted,
        "modules_to_save": _saved,
        "layers_to_transform": missing("adapters on some layers", "too high"),
        "target_parameters": missing("adapters on experts' parameters", "too low"),
        "init_lora_weights": shared.initialisation,
        "use_gradient_checkpointing": _checkpointing,
        "finetune_vision_layers": shared.images,
        "finetune_audio_layers": missing("sound: its encoder and its inputs", "too low"),
        "num_labels": missing("a classifier's head", "too high"),
        "max_completion_length": _completion,
        "fast_inference": covered_by("gpu_memory_utilization"),
        "gpu_memory_utilization": _share,
        STANDBY: no_effect,
        TRAINED: trainer,
        FAST_ADAPTED: no_effect,
        "float8_kv_cache": no_effect,
        "max_lora_rank": no_effect,
        "qat_scheme": _fake_quantized,
        "unsloth_tiled_mlp": missing("a tiled MLP", "too high"),
        "offload_embedding": _embedding,
        **free(_FREE),
    },
    under=TRL.under,
    computed={"max_completion_length": Meaning(note="what max_seq_length leaves of a row")},
)
