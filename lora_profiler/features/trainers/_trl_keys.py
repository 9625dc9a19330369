"""TRL's YAML, JSON and command lines (ModelConfig, SFTConfig, DPOConfig, GRPOConfig), those of the
alignment handbook among them, and plain TrainingArguments."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_profiler.trainer_files import shared_keys as shared
from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.meaning import (
    NO_EFFECT,
    PLAIN_TASK,
    TASK,
    VLLM_SHARE,
    Framework,
    Meaning,
    free,
    is_off,
    is_on,
    missing,
    no_effect,
    not_modelled,
    number,
    sets,
    share,
    size,
    size_of,
    targets,
    when_on,
)
from lora_profiler.trainer_files.shared_keys import TRAINING_ARGUMENTS, TRAINING_ARGUMENTS_UNDER

_DPO_LOSSES = [
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
    "aot_pair", "aot_unpaired", "discopop", "apo_zero", "apo_down", "sigmoid_norm",
]  # fmt: skip
_SCRIPTS: dict[str, tuple[str, Any]] = {
    "dtype": ("dtype", "float32"),
    "lora_r": ("rank", 16),
    "lora_alpha": ("alpha", 32.0),
    "lora_dropout": ("dropout", 0.05),
    "lora_target_modules": ("targets", "default"),
}
"""Defaults of ModelConfig, which files that name a model fill; the classes have others."""
_COMPLETION = "max_completion_length"
_KNOWN = ("sft", "dpo", "grpo", "kto", "orpo", "reward")
"""Tasks whose trainer is a stack."""
FREE = Path(__file__).parent / "trl" / "free_keys.toml"
STACKS = {
    "RewardTrainer": "trl-reward",
    **{f"{kind.upper()}Trainer": f"trl-{kind}" for kind in ("sft", "dpo", "grpo", "kto", "orpo")},
}
"""By the class that a script calls."""


def task(document: Document) -> str:
    """Which of TRL's trainers the file is for, by its keys."""
    if (named := document.get(TASK)) is not None:
        return str(named)
    if document.get("num_generations") or document.get("reward_funcs"):
        return "grpo"
    if any("orpo" in str(document.get(key)).lower() for key in ("hub_model_id", "output_dir")):
        return "orpo"  # whose keys are DPO's too
    if document.get("desirable_weight") is not None:
        return "kto"
    if document.get("loss_type") in _DPO_LOSSES or any(
        key in document.entries for key in ("beta", "max_prompt_length", "precompute_ref_log_probs")
    ):
        return "dpo"
    return "sft"


def _stack(document: Document) -> str:
    if _is_plain(document):
        return "transformers"
    kind = task(document)
    if kind == "sft" and _OLD_LENGTH in document.entries:
        return "trl-sft@0.14"
    return f"trl-{kind}" if kind in _KNOWN else "trl-sft"


_OLD_LENGTH = "max_seq_length"
"""Of SFTConfig until TRL 0.19, where max_length takes its place."""


def _old_length(value: Any, document: Document) -> Meaning:
    meaning = shared.cut_off(value, document)
    if not _stack(document).endswith("@0.14"):
        return meaning
    return meaning._replace(note="a key of TRL up to 0.19: answered as 0.14")


def _length(value: Any, document: Document) -> Meaning:
    """An explicit null cuts nothing off."""
    if value is None:
        return Meaning(asks=("seq_len",), note="no cut-off: the length is the data's")
    return shared.cut_off(value, document)


def _is_plain(document: Document) -> bool:
    """TrainingArguments alone, without a key of TRL's, or a script that calls their Trainer."""
    if document.get(TASK) == PLAIN_TASK:
        return True
    return TASK not in document.entries and not any(
        key in document.entries
        for key in TRL.keys
        if key not in TRAINING_ARGUMENTS and key not in ("model_name_or_path", "trust_remote_code")
    )


def _method(document: Document) -> str:
    if not is_on(document.get("use_peft")):
        return "full"
    return "qlora" if shared.loads_quantised(document) else "lora"


def _packing(value: Any, document: Document) -> Meaning:
    """All strategies but "wrapped", which cuts rows without boundaries, make one row of a batch."""
    if document.get("packing_strategy") == "wrapped":
        return NO_EFFECT
    return shared.one_row(value, document)


def _liger(value: Any, document: Document) -> Meaning:
    """TRL's trainers keep their own loss; transformers' Trainer takes Liger's with its kernels, as
    TRL 0.14 does."""
    if is_off(value):
        return NO_EFFECT
    takes_loss = _is_plain(document) or _OLD_LENGTH in document.entries
    own = {"loss": "fused"} if takes_loss else {}
    return Meaning({"kernels": "liger", **own})


def _smoothing(value: Any, document: Document) -> Meaning:
    """transformers' Trainer makes its loss of all logits then."""
    if is_off(value) or _is_plain(document):
        return Meaning({"label_smoothing_factor": number(value)}) if is_on(value) else NO_EFFECT
    return not_modelled("label smoothing: 16 bytes a logit", "too low")


def _bf16(value: Any, document: Document) -> Meaning:
    """On by itself unless fp16 is (TRL 1.16 `trainer/base_config.py`), but of TrainingArguments."""
    is_own = not _is_plain(document) and is_off(document.get("fp16"))
    if value is not None and is_off(value) and is_own:
        return Meaning({"precision": "pure"}, note="no autocast")
    return shared.autocast(value, document)


def _targets(value: Any) -> str:
    """ModelConfig hands over a list of one as that one, which PEFT takes for a pattern."""
    return targets(value[0] if isinstance(value, list) and len(value) == 1 else value)


def dropout(value: Any, document: Document) -> Meaning:
    by_default = task(document) in ("dpo", "kto", "orpo", "reward")
    return shared.dropout(value, is_off=is_on(document.get("disable_dropout", by_default)))


def _loss(value: Any, document: Document) -> Meaning:
    names_ = value if isinstance(value, list) else [value]
    if task(document) != "sft" or set(names_) <= {None, "nll", "chunked_nll", "dft"}:
        return NO_EFFECT
    return not_modelled(f"the loss {value}", "either way")


def _implied(document: Document) -> Iterator[tuple[str, Meaning]]:
    kind = task(document)
    if not is_on(document.get("use_peft")):
        yield "use_peft", Meaning({"methods": ("full",)})
    if kind not in _KNOWN and not _is_plain(document):
        yield "trainer", not_modelled(f"{kind.upper()}'s loss, answered as SFT", "too low")
    elif kind == "grpo":
        yield from _generation(document)
    if "model_name_or_path" in document.entries and not _is_plain(document):
        for key, (option, value) in _SCRIPTS.items():
            if key != "dtype" or document.get("torch_dtype") is None:
                meant = Meaning({option: value})
                yield key, dropout(value, document) if option == "dropout" else meant


def _generation(document: Document) -> Iterator[tuple[str, Meaning]]:
    """What GRPO makes between steps, by transformers' generate or by vLLM (TRL 1.16,
    grpo_config.py). Older versions cut prompts at 512."""
    prompt, answer = (size_of(document, key, 512) for key in ("max_prompt_length", _COMPLETION))
    yield "max_length", Meaning({"seq_len": prompt + answer})
    yield _COMPLETION, _completion(512, document)
    usual = size_of(document, "gradient_accumulation_steps", 1)
    steps = size_of(document, "steps_per_generation", usual)
    rows = size_of(document, "per_device_train_batch_size", 8) * steps
    yield "generation_batch_size", _at_once(rows, document)
    yield "vllm_gpu_memory_utilization", _share(0.3, document)


def _completion(value: Any, document: Document) -> Meaning:
    is_grpo = task(document) == "grpo"
    return Meaning({"max_completion_length": size(value)}) if is_grpo else NO_EFFECT


def _of_grpo(option: str, read: Any) -> Any:
    """An option that only GRPO's loop has."""

    def understood(value: Any, document: Document) -> Meaning:
        is_said = task(document) == "grpo" and value is not None
        return Meaning({option: read(value)}) if is_said else NO_EFFECT

    return understood


def _at_once(value: Any, document: Document) -> Meaning:
    """Where the file says it, completions of all ranks together."""
    makes = is_off(document.get("use_vllm")) and is_on(value)
    return Meaning({"generation_batch_size": size(value)}) if makes else NO_EFFECT


def _share(value: Any, document: Document) -> Meaning:
    """TRL's own server runs on other cards; asleep, vLLM gives back all that it has (TRL 1.16,
    generation/vllm_generation.py)."""
    beside = is_on(document.get("use_vllm")) and document.get("vllm_mode", "colocate") != "server"
    if not beside or value is None:
        return NO_EFFECT
    if is_on(document.get("vllm_enable_sleep_mode")):
        return Meaning(note="vLLM sleeps while the model trains")
    return Meaning({VLLM_SHARE: share(value)})


def _together(
    stack: str, options: Mapping[str, Any], keys: Collection[str]
) -> Iterator[tuple[str, Meaning]]:
    """Its trainers make adapters under ZeRO-3 be checkpointed the reentrant way, whatever was
    asked (TRL 1.16, sft_trainer.py and the like); ORPOTrainer does not."""
    has_adapter = {"lora", "qlora"} & set(options.get("methods", ())) and stack != "trl-orpo"
    if has_adapter and options.get("sharding") == "zero3" and stack.startswith("trl"):
        note = "TRL makes it reentrant for adapters under ZeRO-3"
        yield "gradient_checkpointing_kwargs", Meaning({"use_reentrant": True}, note=note)


def _idle_adapter(document: Document) -> tuple[str, str] | None:
    key = "load_in_4bit"
    is_named = {"use_peft", "model_name_or_path"} & document.entries.keys()
    if is_on(document.get(key)) and is_named and is_off(document.get("use_peft")):
        return key, f"{key} is about a frozen base, and use_peft is off."
    return None


def trainer(value: Any, document: Document) -> Meaning:
    if value in ("Trainer", *STACKS):
        return NO_EFFECT
    return not_modelled(f"{value}'s own loss and batches, answered as the Trainer's", "too low")


TRL = Framework(
    yields=1,
    takes_options=True,
    name="trl",
    title="TRL",
    marks=frozenset(
        {"model_name_or_path", "per_device_train_batch_size", "use_peft", "max_length"}
    ),
    stack=_stack,
    files=("deepspeed", "fsdp_config"),
    implied=_implied,
    together=_together,
    checks=(shared.ONE_BASE, shared.ONE_AUTOCAST, _idle_adapter),
    keys={
        **TRAINING_ARGUMENTS,
        "model_name_or_path": sets("model"),
        "model_revision": sets("revision"),
        "bf16": _bf16,
        TASK: no_effect,
        "dtype": sets("dtype"),
        "torch_dtype": sets("dtype"),
        "attn_implementation": shared.attention,
        "use_flash_attention_2": when_on(attention="flash_attention_2"),
        "use_peft": lambda value, document: Meaning({"methods": (_method(document),)}),
        **shared.quantised_base("use_peft"),
        "bnb_4bit_quant_type": shared.quant_type,
        "use_bnb_nested_quant": sets("double_quant"),
        "bnb_4bit_quant_storage": no_effect,
        "lora_r": sets("rank"),
        "lora_alpha": sets("alpha"),
        "lora_dropout": dropout,
        "lora_target_modules": sets("targets", _targets),
        "lora_target_parameters": sets("target_parameters"),
        "lora_modules_to_save": sets("modules_to_save"),
        "use_rslora": sets("use_rslora"),
        "use_dora": sets("use_dora"),
        **dict.fromkeys(("use_liger_kernel", "use_liger"), _liger),
        "label_smoothing_factor": _smoothing,
        "max_length": _length,
        _OLD_LENGTH: _old_length,
        "padding_free": _packing,
        "packing": _packing,
        "activation_offloading": sets("offload_activations"),
        "loss_type": _loss,
        "use_liger_loss": missing("Liger's loss of TRL", "too high"),
        _COMPLETION: _completion,
        "precompute_ref_log_probs": missing("a reference that ran before the training", "too high"),
        "use_vllm": _of_grpo("use_vllm", is_on),
        "beta": _of_grpo("beta", number),
        "generation_batch_size": _at_once,
        "vllm_gpu_memory_utilization": _share,
        "cast_lm_head_to_fp32": missing("a head in float32", "too low"),
        "sync_ref_model": missing("a reference model that follows", "too low"),
        "use_unsloth": missing("Unsloth's kernels", "too high"),
        **free(FREE),
    },
    under={**TRAINING_ARGUMENTS_UNDER, **free(FREE, "under")},
)
